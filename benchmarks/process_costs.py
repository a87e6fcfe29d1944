"""Measure what a program and the processes of an engine cost: CPU seconds and memory.

The program is a child of this process; the engine ran before and goes on after it, so what it has
used until then is taken off. Memory is the proportional set size: pages that several processes hold
are counted once.
"""

import contextlib
import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

SAMPLE_SECONDS = 1
MEGABYTE = 1_000_000

Family = Callable[[], list[psutil.Process]]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Hold what one run costs.

    Attributes:
      seconds: of the clock.
      python: CPU seconds of the program and of the engine's Python workers.
      others: CPU seconds of the engine's other processes.
      peak: megabytes of all of them together, at most.
      largest: megabytes of the largest process, at most.
    """

    seconds: float
    python: float
    others: float
    peak: float
    largest: float


class Memory:
    """Sample the memory of processes until the `with` block ends.

    Args:
      family: lists the processes, which come and go.
    """

    def __init__(self, family: Family) -> None:
        self.peak = self.largest = 0.0
        self._family, self._ended = family, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            sizes = [0.0]
            for process in self._family():
                with contextlib.suppress(psutil.Error):
                    sizes.append(process.memory_full_info().pss / MEGABYTE)
            self.peak = max(self.peak, sum(sizes))
            self.largest = max(self.largest, *sizes)


def run_program(
    command: Sequence[str], log: Path, python: Family, engine: Family, limit: float
) -> Costs:
    """Run a program to its end, and measure it together with an engine.

    Args:
      command: of the program.
      log: file for what it prints.
      python: lists the engine's processes that run Python.
      engine: lists its other processes.
      limit: seconds after which the program is killed.

    Raises:
      RuntimeError: the program failed; with the end of what it printed.
    """
    before, began = (_cpu_seconds(python()), _cpu_seconds(engine())), time.monotonic()
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    program = psutil.Process(started.pid)

    def everything() -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [program, *program.children(recursive=True), *python(), *engine()]
        return []

    killer = threading.Timer(limit, started.kill)
    killer.start()
    with Memory(everything) as memory:
        _, status, used = os.wait4(started.pid, 0)
    killer.cancel()
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode != 0:
        raise RuntimeError(f"{command[1]} failed: {log.read_text(errors='replace')[-3000:]}")
    seconds = time.monotonic() - began
    after = _cpu_seconds(python()), _cpu_seconds(engine())
    of_python = used.ru_utime + used.ru_stime + after[0] - before[0]
    return Costs(seconds, of_python, after[1] - before[1], memory.peak, memory.largest)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    """Add up what processes and their children that have ended used."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)
