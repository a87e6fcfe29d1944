"""Kill commits before every step that they do in the file system or the database, and go on.

a committed set; a commit of other rows, in a process that ends before step n --> what readers
see: the old rows or the new ones --> the commit again, or the job again --> the new rows, once
"""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beam_gpte import Block
from beam_gpte.sinks import duckdb_sql
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Destination, Pane
from beam_gpte.sinks.staging import StagedFile
from beam_gpte.sinks.write_duckdb import commit_duckdb
from beam_gpte.sinks.write_parquet import commit_parquet
from beam_gpte.sinks.write_rejects import JsonLinesWriter, commit_jsonl
from tests.commits.cells import MODES, REPLACING
from tests.commits.jobs import leftovers, rows_in
from tests.programs import PRELOAD
from tests.sinks.test_write_parquet import stage

RETRY, RERUN = "the commit again", "the job again"
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.symlink", "open"}
KILLED = 9


@dataclasses.dataclass(frozen=True)
class Kill:
    """Describe the kills of one commit, before each of its steps.

    Attributes:
      sink: a key of `MODES`.
      mode: of the sink.
      named: whether the run has a name.
      windowed: whether it commits a pane, not a whole collection.
      then: what comes after the kill.
    """

    sink: str
    mode: str
    named: bool
    windowed: bool
    then: str

    def __str__(self) -> str:
        run, what = "named" if self.named else "unnamed", "pane" if self.windowed else "whole"
        return f"{self.sink} {self.mode}, {run}, killed, {what}, {self.then}"

    @property
    def pane(self) -> Pane:
        """What is committed."""
        return Pane("w", 0) if self.windowed else Pane()

    @property
    def replaces(self) -> bool:
        """Whether the previous rows go."""
        return self.mode in REPLACING or (self.sink == "rejects" and not self.windowed)


def all_kills() -> list[Kill]:
    """List what can be killed; a rerun without a name may double rows that it adds."""
    kills = []
    for sink, modes in MODES.items():
        for mode, named, windowed, then in itertools.product(
            modes, (False, True), (False, True), (RETRY, RERUN)
        ):
            kill = Kill(sink, mode, named, windowed, then)
            adds = not kill.replaces and mode != "upsert"
            if (
                not (windowed and mode in REPLACING)
                and not (sink == "rejects" and named)
                and not (then == RERUN and adds and not named)
            ):
                kills.append(kill)
    return kills


def problems(kill: Kill, folder: Path, steps: range | None = None) -> Iterator[tuple[int, str]]:
    """Kill before each of `steps`, or every step; give the number of each and what was wrong."""
    for n in steps or itertools.count():
        out = folder / f"step{n}" / "out"
        out.mkdir(parents=True)
        _commit(kill, *_staged(kill, out, ("old", "older"), run=None), out, Pane())
        ended = _in_process(kill, out, n)
        if ended not in (0, KILLED):
            yield n, f"the process ended with {ended}"
            return
        yield n, _problem_after(kill, out, ended == KILLED)
        if ended == 0:
            return


def _problem_after(kill: Kill, out: Path, killed: bool) -> str:
    old, new = Counter(["old", "older"]), Counter(["a", "b", "c"])
    after = new if kill.replaces else old + new
    seen = rows_in(kill.sink, out)
    if seen not in ([old, after] if killed else [after]):
        return f"after the kill readers see {dict(seen)}"
    if killed or kill.then == RERUN:
        again = _job(kill, out) if kill.then == RERUN else _saved(out)
        _commit(kill, *again, out, kill.pane)
    seen = rows_in(kill.sink, out)
    if seen != after:
        return f"at the end readers see {dict(seen)}"
    left = leftovers(out)
    return f"left {left}" if left else ""


# one staged job for the process that is killed, and for the one that tries again


def _in_process(kill: Kill, out: Path, n: int) -> int:
    if kill.then == RETRY:
        _SAVED[out] = _job(kill, out)
    return in_process(_planned, (kill, out, _SAVED.get(out)), out, n)


def in_process(plan: Callable[..., Callable], arguments: tuple, out: Path | str, n: int) -> int:
    """Plan some work in a process, and do it until before its step n; return the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "tests.commits.kills"])
    process = context.Process(target=_until, args=(n, str(out), plan, arguments))
    process.start()
    process.join(60)
    return process.exitcode if process.exitcode is not None else -1


_SAVED: dict[Path, tuple[list[StagedFile], Destination]] = {}


def _saved(out: Path) -> tuple[list[StagedFile], Destination]:
    return _SAVED.pop(out)


def _job(kill: Kill, out: Path) -> tuple[list[StagedFile], Destination]:
    return _staged(kill, out, ("a", "b", "c"), run="monday" if kill.named else None)


def _staged(
    kill: Kill, out: Path, ids: tuple[str, ...], run: str | None
) -> tuple[list[StagedFile], Destination]:
    sink = {"parquet": "parquet", "duckdb": "duckdb-test", "rejects": "rejects"}[kill.sink]
    bundles = [[Block.from_pydict({"id": [name]})] for name in ids]
    more = {"writer": JsonLinesWriter} if kill.sink == "rejects" else {}
    return stage(out, sink, bundles, run, **more)


def _commit(
    kill: Kill, staged: list[StagedFile], destination: Destination, out: Path, pane: Pane
) -> None:
    if kill.sink == "duckdb":
        commit_duckdb(
            staged, pane, destination, Table(f"{out}/x.duckdb", "vectors", "id", kill.mode)
        )
    elif kill.sink == "rejects":
        commit_jsonl(staged, pane, destination)
    else:
        commit_parquet(staged, pane, destination, kill.mode)


# in the process that is killed


def _planned(kill: Kill, out: Path, given: Any) -> Callable:
    return functools.partial(_commit, kill, *(given or _job(kill, out)), out, kill.pane)


def _until(n: int, folder: str, plan: Callable[..., Callable], arguments: tuple) -> None:
    work = plan(*arguments)
    countdown = _Countdown(n, folder)
    sys.addaudithook(countdown.hook)
    connect = duckdb_sql.duckdb.connect

    def counted(path: str = ":memory:", *more: Any, **options: Any) -> Any:
        connection = connect(path, *more, **options)
        return _Counted(connection, countdown) if path.startswith(folder) else connection

    duckdb_sql.duckdb.connect = counted  # type: ignore[assignment]
    work()
    os._exit(0)


class _Countdown:
    """End the process before step n."""

    def __init__(self, n: int, folder: str) -> None:
        self.left, self._folder = n, folder

    def hook(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and any(str(each).startswith(self._folder) for each in arguments):
            self.step()

    def step(self) -> None:
        if self.left == 0:
            os._exit(KILLED)
        self.left -= 1


class _Counted:
    """Count the statements of a connection."""

    def __init__(self, connection: Any, countdown: _Countdown) -> None:
        self._connection, self._countdown = connection, countdown

    def execute(self, *arguments: Any) -> Any:
        self._countdown.step()
        return self._connection.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
