"""A killed run's vectors are found by the next run of the same output, and not computed again."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import polars as pl
import pytest

from tests.conftest import MODES
from tests.embedding.resumable import rows_of
from tests.examples import WordEncoder

ROWS = 3000
SECONDS = 0.01  # for a text


def start(output: Path, log: Path, sinks: str, mode: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.embedding.resumable", str(output), str(ROWS), str(log)]
    command += [str(SECONDS), sinks, *MODES[mode]]
    return subprocess.Popen(command, start_new_session=True)


def embedded(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line for line in lines if line.startswith("text "))  # others are canaries


def kill_at(share: float, output: Path, log: Path, sinks: str, mode: str) -> None:
    job = start(output, log, sinks, mode)
    while embedded(log).total() < share * ROWS:
        assert job.poll() is None
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def hidden(output: Path) -> list[str]:
    return sorted(str(path) for path in output.rglob(".beam-gpte-tmp-*"))


def expected() -> list[tuple[str, list[float]]]:
    rows = rows_of(ROWS)
    vectors = WordEncoder().encode([row["text"] for row in rows])
    return sorted((row["id"], vector.tolist()) for row, vector in zip(rows, vectors, strict=True))


@pytest.mark.parametrize(
    ("share", "sinks", "mode"),
    [
        (0.5, "parquet", "two threads"),
        (0.9, "parquet+duckdb", "two processes"),
        (0.9, "duckdb", "in memory"),
    ],
)
def test_a_killed_run_is_resumed(tmp_path: Path, share: float, sinks: str, mode: str) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    kill_at(share, output, log, sinks, mode)
    assert hidden(output)
    before = embedded(log)
    assert start(output, log, sinks, mode).wait() == 0
    again = (embedded(log) - before).total()
    assert again <= (1 - share + 0.02) * ROWS + 1, again / ROWS
    assert hidden(output) == []
    if "parquet" in sinks:
        table = pl.read_parquet(output / "folder/*.parquet")
        assert sorted(table.select("id", "embedding").rows()) == expected()
    if "duckdb" in sinks:
        with duckdb.connect(str(output / "vectors.duckdb"), read_only=True) as connection:
            found = connection.execute("SELECT id, embedding FROM vectors").fetchall()
        assert sorted((row, list(vector)) for row, vector in found) == expected()
