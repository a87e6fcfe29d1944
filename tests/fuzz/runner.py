"""Run a target on one input after the other, in child processes with a limit of memory and time.

A child that is killed, or that ends by itself, costs the input that it was working on alone: the
next child goes on with the one after it.
"""

import dataclasses
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from beam_gpte import InputError

ROUNDS = 200  # of a child
SECONDS = 60  # of the CPU for one input, and on a machine that does nothing else
BUSY = 5  # times as long as that an input may take where it does much else
MEMORY = 3 << 30  # bytes of a child, beyond what it has when it begins

Target = Callable[[random.Random, Path], None]


class WrongResultError(Exception):
    """Say what is wrong with a result."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Describe an input that the target does not stand.

    Attributes:
      target: its name.
      seed: of the run.
      number: of the input; with the seed it makes the input again.
      problem: the error, or how the process ended.
    """

    target: str
    seed: int
    number: int
    problem: str


def rng_of(target: str, seed: int, number: int) -> random.Random:
    """Make the generator of one input."""
    return random.Random(f"{target} {seed} {number}")


def try_one(target: Target, rng: random.Random, folder: Path) -> str | None:
    """Run one input; return what is wrong, None if it is right or refused."""
    try:
        target(rng, folder)
    except InputError:
        return None
    except WrongResultError as error:
        return f"wrong: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a MemoryError too, and Polars' panics
        place = traceback.extract_tb(error.__traceback__)[-1]
        shown = f"{type(error).__name__}: {error}"[:300]
        return f"{shown} ({Path(place.filename).name}:{place.lineno})"
    return None


def run(
    name: str,
    target: Target,
    seed: int,
    numbers: range,
    until: float | None = None,
    limits: tuple[int, int] = (SECONDS, MEMORY),
) -> Iterator[Fault | int]:
    """Try inputs; yield each fault, and now and then the number of the next input.

    Args:
      name: of the target.
      target: to run.
      seed: of all inputs.
      numbers: of the inputs.
      until: when to stop, of `time.monotonic()`; None for never.
      limits: of one input: CPU seconds, of which it may wait `BUSY` times as many, and bytes.
    """
    # not forked from this process, whose threads, as those of Polars, a child would wait for
    context, at = multiprocessing.get_context("forkserver"), numbers.start
    while at < numbers.stop and (until is None or time.monotonic() < until):
        mine, theirs = context.Pipe(duplex=False)
        stop = min(at + ROUNDS, numbers.stop)
        child = context.Process(
            target=_work, args=(theirs, name, target, seed, range(at, stop), until, limits)
        )
        child.start()
        theirs.close()
        at = stop
        for number, problem in _received(mine):
            if problem is None:
                at = number
            else:
                yield Fault(name, seed, number, problem)
                at = number + 1
        child.join()
        if child.exitcode:
            yield Fault(name, seed, at, _ending(child.exitcode))
            at += 1
        yield at


def _received(connection: Connection) -> Iterator[tuple[int, str | None]]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def _work(
    connection: Connection,
    name: str,
    target: Target,
    seed: int,
    numbers: range,
    until: float | None,
    limits: tuple[int, int],
) -> None:
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    seconds, memory = limits
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        if until is not None and time.monotonic() > until:
            connection.send((number, None))
            return
        connection.send((number, None))
        _end_process_in(seconds)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            problem = try_one(target, rng_of(name, seed, number), Path(folder))
        _end_process_in(0)
        if problem is not None:
            connection.send((number, problem))
    connection.send((numbers.stop, None))


def _end_process_in(seconds: int) -> None:
    """Set both clocks, whose signals end a process; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(BUSY * seconds)


def _ending(code: int) -> str:
    if code in (-signal.SIGALRM, -signal.SIGPROF):
        return "not done in time"
    return f"the process ended: {signal.Signals(-code).name if code < 0 else code}"


@dataclasses.dataclass
class Progress:
    """Keep in a file how far a target has come, and what it did not stand."""

    path: Path
    next: int = 0
    faults: list[dict] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read the file, if it is there."""
        found = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, **found)

    def save(self) -> None:
        """Write it anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"next": self.next, "faults": self.faults}, indent=1))
        partial.replace(self.path)
