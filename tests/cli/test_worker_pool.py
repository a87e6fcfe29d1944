"""A pool runs all workers of a host in one process, starts that again, and ends as a whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte.cli.worker_pool import is_listening
from tests.engines.processes import free_port

POOL = [sys.executable, "-m", "beam_gpte.cli.worker_pool", "--port"]
SECONDS = 60


class Pool:
    """Start a pool, and name its two processes.

    Args:
      log: the file that it prints to.
    """

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        with log.open("wb") as out:
            self.supervisor = subprocess.Popen([*POOL, str(self.port)], stdout=out, stderr=out)

    def worker(self) -> int:
        """Wait until workers can be started; return the number of their process."""
        until(lambda: is_listening("localhost", self.port))
        (worker,) = [p for p in psutil.Process(self.supervisor.pid).children() if _is_worker(p)]
        return worker.pid

    def run(self) -> None:
        """Run a pipeline of several stages, each with a worker, in one process."""
        flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
        flags.append(f"--environment_config=localhost:{self.port}")
        with beam.Pipeline(options=PipelineOptions(flags)) as p:
            ids = p | beam.Create(range(8)) | beam.Reshuffle() | beam.Map(lambda _: os.getpid())
            more = ids | "again" >> beam.Reshuffle() | "where" >> beam.Map(lambda _: os.getpid())
            assert_that((ids, more) | beam.Flatten() | beam.Distinct(), equal_to([self.worker()]))


def _is_worker(process: psutil.Process) -> bool:
    return "resource_tracker" not in " ".join(process.cmdline())


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    started = Pool(tmp_path / "log")
    yield started
    started.supervisor.kill()
    started.supervisor.wait()


def test_all_workers_of_a_port_are_one_process_and_a_dead_one_is_replaced(pool: Pool) -> None:
    pool.run()
    first = pool.worker()
    os.kill(first, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(first))
    assert pool.worker() != first
    pool.run()
    assert_refused(pool.port)


def assert_refused(port: int) -> None:
    """Assert that no second pool starts at a port."""
    done = subprocess.run([*POOL, str(port)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_workers_end_with_the_pool(pool: Pool, number: int) -> None:
    worker = pool.worker()
    os.kill(pool.supervisor.pid, number)
    assert pool.supervisor.wait(SECONDS) == (-number if number == signal.SIGKILL else 0)
    until(lambda: not psutil.pid_exists(worker))
