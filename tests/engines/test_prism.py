"""`--runner prism` starts Prism for one run, and the steps that have models use several threads."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import EmbedText, TextEncoder
from tests.engines.faults import wait_until
from tests.engines.fetch import PRISM, is_fetched, lacking
from tests.engines.outputs import contents
from tests.engines.prism import Prism
from tests.engines.programs import SECONDS, command_of

FLAGS = ["--runner=prism", f"--prism_location={PRISM}"]


@pytest.fixture(scope="module", autouse=True)
def _fetched() -> None:
    if not is_fetched("prism"):
        pytest.skip(lacking("prism") or "prism is not fetched")


@pytest.fixture
def prism(tmp_path: Path) -> Iterator[Prism]:
    started = Prism(tmp_path / "prism")
    yield started
    started.close()


def running() -> int:
    found = [process.info for process in psutil.process_iter(["name", "status"])]
    alive = [one for one in found if one["status"] != psutil.STATUS_ZOMBIE]
    return sum(one["name"] == "prism" for one in alive)


def start(name: str, texts: Path, folder: Path, minilm: str) -> subprocess.Popen:
    command = [sys.executable, *command_of(name, texts, minilm, FLAGS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.sampled(1)
def test_a_program_starts_prism_and_ends_it(
    program: tuple[str, dict], texts: Path, tmp_path: Path, minilm: str
) -> None:
    name, expected = program
    before = running()
    done = start(name, texts, tmp_path, minilm)
    _, printed = done.communicate(timeout=SECONDS)
    assert (done.returncode, printed) == (0, "")
    written = contents(tmp_path / "out")
    assert [part for part, rows in expected.items() if written.get(part) != rows] == []
    assert running() == before


def test_a_program_that_is_terminated_ends_prism(texts: Path, tmp_path: Path, minilm: str) -> None:
    before = running()
    done = start("embed", texts, tmp_path, minilm)
    assert wait_until(lambda: running() > before, SECONDS)
    done.terminate()
    done.communicate(timeout=SECONDS)
    assert done.returncode == 143
    assert wait_until(lambda: running() == before, SECONDS)


def test_a_model_that_loads_slowly_has_several_threads(
    prism: Prism, minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prism divides a bundle only while it waits for its rows; see `shared_models.later`."""
    load: Any = TextEncoder.load.__func__  # type: ignore[attr-defined]
    encode = TextEncoder.encode_with_counts
    threads: set[int] = set()

    def slow_load(*arguments: Any, **named: Any) -> TextEncoder:
        time.sleep(2)
        return load(*arguments, **named)

    def slow_encode(self: TextEncoder, *arguments: Any) -> Any:
        threads.add(threading.get_ident())
        time.sleep(1)
        return encode(self, *arguments)

    monkeypatch.setattr(TextEncoder, "load", classmethod(slow_load))
    monkeypatch.setattr(TextEncoder, "encode_with_counts", slow_encode)
    with beam.Pipeline(options=PipelineOptions(prism.flags())) as pipeline:
        rows = [{"id": i, "text": f"text {i}"} for i in range(16)]
        blocks = pipeline | beam.Create([[row] for row in rows], reshuffle=True)
        tables = blocks | beam.Map(table_of)
        _ = tables | EmbedText(minilm)
    assert len(threads) > 1


def table_of(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
