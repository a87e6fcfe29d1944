"""A killed run's vectors are found by the next run of the same output, and not computed again."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.sinks.runs import computed_vectors, leftovers
from beam_gpte.sinks.runs.computed_vectors import ComputedVectors
from tests.conftest import MODES
from tests.embedding.resumable import (
    SlowEncoder,
    embed,
    embedded,
    expected,
    hidden,
    rows_of,
    start,
    written,
)

ROWS = 3000
SECONDS = 0.01  # for a text


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("share", "sinks", "mode"),
    [(0.5, "parquet", "two processes"), (0.9, "parquet+duckdb", "two threads")],
)
def test_a_killed_run_is_resumed(tmp_path: Path, share: float, sinks: str, mode: str) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    job = start(output, log, ROWS, SECONDS, sinks, MODES[mode])
    while embedded(log).total() < share * ROWS:
        assert job.poll() is None
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert hidden(output)
    before = embedded(log)
    assert start(output, log, ROWS, SECONDS, sinks, MODES[mode]).wait() == 0
    again = (embedded(log) - before).total()
    assert again <= (1 - share + 0.02) * ROWS + 1, again / ROWS
    assert hidden(output) == []
    assert written(output) == dict.fromkeys(sinks.split("+"), expected(rows_of(ROWS)))


METADATA = VectorMetadata("model", "f" * 16, "mean", "", 3, normalized=False)


def run_folder(tmp_path: Path, run: int = 0) -> str:
    return f"{tmp_path}/.beam-gpte-tmp-parquet-{run:012d}-{'0' * 8}-{os.getpid()}-{'a' * 32}"


def of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def keep(monkeypatch: pytest.MonkeyPatch, folder: str, rows: dict[bytes, np.ndarray]) -> None:
    """Write the vectors of each input to a file of its own, as a run that is killed then."""
    monkeypatch.setattr(computed_vectors, "MAX_BYTES", 0)
    vectors = ComputedVectors([folder], METADATA)
    for key, row in rows.items():
        vectors.add(key, row)


def test_vectors_are_found_by_their_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also several of one input, from several runs, and an input that two threads computed."""
    one, chunks, other = of([1, 2, 3]), of([1, 0, 0], [0, 1, 0]), of([7, 8, 9])
    keep(monkeypatch, run_folder(tmp_path), {b"one": one, b"chunks": chunks})
    keep(monkeypatch, run_folder(tmp_path, 1), {b"one": one, b"other": other})
    vectors = ComputedVectors([run_folder(tmp_path, 2)], METADATA)
    found = vectors.find([b"other", b"none", b"chunks", b"one"])
    assert {key: rows.tolist() for key, rows in found.items()} == {
        b"one": one.tolist(),
        b"chunks": chunks.tolist(),
        b"other": other.tolist(),
    }


def test_the_same_input_twice_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = ComputedVectors([run_folder(tmp_path)], METADATA)
    row = of([1, 2, 3])
    vectors._write([(computed_vectors._digest(b"a"), row)] * 2)
    found = ComputedVectors([run_folder(tmp_path, 1)], METADATA).find([b"a"])
    assert found[b"a"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "gone", "another model"])
def test_a_damaged_file_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    keep(monkeypatch, run_folder(tmp_path), {b"a": of([1, 2, 3])})
    (path,) = tmp_path.rglob("*.vectors")
    content = path.read_bytes()
    metadata = METADATA
    if damage == "cut":
        path.write_bytes(content[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "a bit":
        at = content.index(of([1, 2, 3]).tobytes())
        path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
    elif damage == "another model":
        metadata = dataclasses.replace(METADATA, fingerprint="e" * 16)
    vectors = ComputedVectors([run_folder(tmp_path, 1)], metadata)
    if damage == "gone":
        path.unlink()
    assert vectors.find([b"a"]) == {}


def test_a_job_goes_on_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(run_folder(tmp_path))
    folder.write_text("a file")
    keep(monkeypatch, str(folder), {b"a": of([1, 2, 3]), b"b": of([1, 2, 3])})
    assert caplog.text.count("vectors are not kept for a next run") == 1


class Picky(SlowEncoder):
    """Take no text of another kind, so that two of them look alike."""

    def encode(self, texts: list[str]) -> np.ndarray:
        assert all(text.startswith("text ") for text in texts if text != "dimension")
        return super().encode(texts)


def test_an_encoder_without_canaries_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computed_vectors, "MAX_BYTES", 0)
    monkeypatch.setattr(leftovers, "_remove_vectors", lambda _: False)  # as if it were killed
    for kind, kept in ((Picky, 0), (SlowEncoder, 20)):
        output, log = tmp_path / kind.__name__, tmp_path / f"{kind.__name__}.log"
        embed(str(output), kind(str(log), 0), 20, "parquet", [])
        assert len(list(output.rglob("*.vectors"))) == kept
