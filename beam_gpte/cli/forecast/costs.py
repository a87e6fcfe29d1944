"""Measure what something takes: seconds, CPU seconds and memory of this process."""

import contextlib
import ctypes
import dataclasses
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 0.01  # between two looks at the memory


@dataclasses.dataclass
class Costs:
    """Hold what something took.

    Attributes:
      seconds: of the clock.
      cpu: seconds of all threads.
      before: bytes of memory that the process had.
      peak: bytes that it had at most.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    before: int = 0
    peak: int = 0

    @property
    def grown(self) -> int:
        """Return the bytes that were taken meanwhile, at most."""
        return self.peak - self.before


@contextlib.contextmanager
def measured() -> Iterator[Costs]:
    """Measure what happens while the context is open; memory where the system shows it."""
    costs, ended = Costs(), threading.Event()
    _release_memory()
    costs.before = costs.peak = _memory()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            costs.peak = max(costs.peak, _memory())

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    began, cpu = time.monotonic(), time.process_time()
    try:
        yield costs
    finally:
        costs.seconds, costs.cpu = time.monotonic() - began, time.process_time() - cpu
        ended.set()
        watch.join()
        costs.peak = max(costs.peak, _memory())


def since_start() -> Costs:
    """Measure the process from its start until now."""
    cpu = time.process_time()
    seconds = cpu
    if sys.platform == "linux":
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        began = ticks / os.sysconf("SC_CLK_TCK")
        seconds = max(cpu, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    return Costs(seconds, cpu, 0, _memory())


def _memory() -> int:
    """Return the bytes of memory of this process; 0 if the system does not show them."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _release_memory() -> None:
    """Give memory that is free back to the system, so that what is taken next is seen."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
