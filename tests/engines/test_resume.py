"""A job on Flink that is canceled is resumed: the next one finds the vectors that it computed."""

import os
import signal
import time
from pathlib import Path

import pytest

from beam_gpte.sinks.runs.leftovers import kept_vectors
from tests.embedding.resumable import embedded, expected, rows_of, start, written
from tests.engines.engine import Engine
from tests.engines.flink import Flink

ROWS, SECONDS = 3000, 0.02  # for a text
SHARE = 0.5
ENDS = 60  # seconds that Flink has to end a job
ENDED = ("CANCELED", "FINISHED", "FAILED")


def test_a_canceled_job_is_resumed(engine: Engine, tmp_path: Path) -> None:
    if not isinstance(engine, Flink):
        pytest.skip("the engine cannot be asked to cancel a job that its launcher has left")
    output, log = tmp_path / "out", tmp_path / "log"
    job = start(output, log, ROWS, SECONDS, "parquet", engine.flags())
    while embedded(log).total() < SHARE * ROWS:
        assert job.poll() is None, engine.logs()
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    cancel_all(engine)
    before = embedded(log)
    assert start(output, log, ROWS, SECONDS, "parquet", engine.flags()).wait() == 0, engine.logs()
    again = (embedded(log) - before).total()
    assert again <= (1 - SHARE + 0.05) * ROWS, again / ROWS
    assert kept_vectors([str(output / "folder")]) == []
    assert written(output) == {"parquet": expected(rows_of(ROWS))}


def cancel_all(engine: Flink) -> None:
    until = time.monotonic() + ENDS
    while time.monotonic() < until:
        jobs = engine.ask("jobs/overview")["jobs"]
        alive = [
            job["jid"] for job in jobs if job["state"] not in ("CANCELED", "FINISHED", "FAILED")
        ]
        if not alive:
            return
        for job in alive:
            engine.cancel(job)
        time.sleep(1)
    raise AssertionError("a job does not end")
