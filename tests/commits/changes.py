"""Kill what changes a folder or a table in place before every step that it does, and go on.

rows of a named run, in several files; a sync, deletion, compaction or rollback, in a process that
ends before step n --> what readers see: the old rows or the new ones --> the commit again, or the
job again --> the new rows, once --> the named run again: nothing more --> rolled back, if that is
kept: the old rows
"""

import dataclasses
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_gpte import Block
from beam_gpte.core.errors import InputError
from beam_gpte.files.folders import is_remote
from beam_gpte.sinks.duckdb_sync import Sync
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Destination, Pane
from beam_gpte.sinks.folders import compact_vectors, delete_vectors, sync_rows
from beam_gpte.sinks.folders.commit_rewritten import Rewritten, commit_changes
from beam_gpte.sinks.folders.parquet_folder import EXTENSION, PREFIX
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.roll_back import roll_back
from beam_gpte.sinks.runs.folder_state import REPLACES, read_state
from beam_gpte.sinks.runs.previous_state import PREVIOUS
from beam_gpte.sinks.staging import StagedFile
from beam_gpte.sinks.write_duckdb import commit_duckdb
from beam_gpte.sinks.write_parquet import commit_parquet, commit_sync
from beam_gpte.sources.read_vectors import read_vectors
from tests.commits.kills import KILLED, RERUN, RETRY, in_process
from tests.sinks.test_write_parquet import stage

SYNC, SYNC_AGAIN, SYNC_EMPTY = "sync", "a second sync", "a sync without rows"
DELETE, DELETE_ALL, COMPACT, COMPACT_AGAIN = "delete", "delete all", "compact", "compact after sync"
ADD, ROLL_BACK, ROLL_BACK_ADDED = "a sync that only adds", "roll back", "roll back what was added"
REPLACE, REPLACE_AGAIN = "replace", "replace after sync"

# Each row is its id, a letter, and its version, a digit; each file is a word.
OLD = ("a1b1", "c1d1", "e1")
SYNCED = ("a2b1d1", "e1f1")
SYNCED_AGAIN = ("a2b1d2", "e1f2g1")
TARGETS = {
    SYNC: SYNCED,
    SYNC_AGAIN: SYNCED_AGAIN,
    SYNC_EMPTY: (),
    ADD: (*OLD, "h1"),
    DELETE: ("b1", "e1"),
    DELETE_ALL: (),
    COMPACT: OLD,
    COMPACT_AGAIN: SYNCED,
    ROLL_BACK: OLD,
    ROLL_BACK_ADDED: OLD,
    REPLACE: ("a2", "h1", "i1j1"),
    REPLACE_AGAIN: ("a2", "h1", "i1j1"),
}
DELETED = {DELETE: ["a", "c", "d", "x"], DELETE_ALL: ["a", "b", "c", "d", "e"]}
BEFORE = {
    **dict.fromkeys((SYNC_AGAIN, COMPACT_AGAIN, ROLL_BACK, REPLACE_AGAIN), SYNC),
    ROLL_BACK_ADDED: ADD,
}
ROLLBACKS, REPLACING = (ROLL_BACK, ROLL_BACK_ADDED), (REPLACE, REPLACE_AGAIN)
IN_DATABASES = (SYNC, SYNC_AGAIN, SYNC_EMPTY, ADD, DELETE, DELETE_ALL)


@dataclasses.dataclass(frozen=True)
class Change:
    """Describe the kills of one change, before each of its steps.

    Attributes:
      sink: "parquet" or "duckdb".
      what: a key of `TARGETS`.
      keep: whether the previous state is kept.
      then: what comes after the kill.
    """

    sink: str
    what: str
    keep: bool
    then: str

    def __str__(self) -> str:
        keeping = "keeping" if self.keep else "not keeping"
        return f"{self.sink} {self.what}, {keeping}, killed, {self.then}"

    @property
    def before(self) -> tuple[str, ...]:
        """The rows before it."""
        return TARGETS[BEFORE[self.what]] if self.what in BEFORE else OLD


def all_changes() -> list[Change]:
    """List what can be killed; a rollback is one call, which nothing but a person repeats."""
    return [
        Change(sink, what, keep, then)
        for what, keep, then in itertools.product(TARGETS, (False, True), (RETRY, RERUN))
        for sink in ("parquet", "duckdb")
        if not (sink == "duckdb" and (keep or what not in IN_DATABASES))
        and not (what in ROLLBACKS and then == RETRY)
    ]


def problems(
    change: Change,
    folder: str,
    steps: Iterable[int] | None = None,
    until: Callable[..., int] = in_process,
) -> Iterator[tuple[int, str]]:
    """Kill before each of `steps`, or every step; give the number of each and what was wrong.

    Args:
      change: what is killed.
      folder: for a folder of each kill, local or in an object store.
      steps: the numbers of the steps.
      until: does some work in a process that ends before a step, as `in_process`.
    """
    for n in steps or itertools.count():
        out = f"{folder}/step{n}/out"
        if not is_remote(out):
            Path(out).mkdir(parents=True)
        prepare(change, out)
        planned = plan(change, out) if change.then == RETRY else None
        ended = until(_planned, (change, out, planned), out, n)
        if ended not in (0, KILLED):
            yield n, f"the process ended with {ended}"
            return
        try:
            yield n, _problem_after(change, out, planned, ended == KILLED)
        except InputError as error:
            yield n, f"{type(error).__name__}: {error}"
        if ended == 0:
            return


def prepare(change: Change, out: str) -> None:
    """Make the state before the change: a named run, and a sync that keeps the state before it."""
    commit_named(change.sink, out)
    if change.what in BEFORE:
        before = BEFORE[change.what]
        apply(Change(change.sink, before, change.sink == "parquet", RERUN), out, None)


def commit_named(sink: str, out: str) -> None:
    """Commit the old rows, by a run with a name."""
    staged, destination = stage_rows(sink, out, OLD, "monday")
    if sink == "parquet":
        commit_parquet(staged, Pane(), destination, "append")
    else:
        commit_duckdb(staged, Pane(), destination, _table(out, "upsert"))


def stage_rows(
    sink: str, out: str, files: tuple[str, ...], run: str | None = None
) -> tuple[list[StagedFile], Destination]:
    """Stage a file for each word."""
    bundles = [
        [Block.from_pydict({"id": [*word[::2]], "text": [*word[1::2]]})] for word in files if word
    ]
    return stage(out, "parquet" if sink == "parquet" else "duckdb-test", bundles, run)


def _table(out: str, mode: str) -> Table:
    return Table(f"{out}/x.duckdb", "vectors", "id", mode, sync=Sync(allow_empty=True))


@dataclasses.dataclass(frozen=True)
class Planned:
    """Hold what a commit gets, the same when it is repeated."""

    staged: list[StagedFile]
    rewritten: list[Rewritten]
    destination: Destination


def plan(change: Change, out: str) -> Planned:
    """Do what workers do before the commit."""
    stages = change.what not in (*DELETED, COMPACT, COMPACT_AGAIN)
    files = TARGETS[change.what] if stages else ()
    staged, destination = stage_rows(change.sink, out, files)
    if change.sink == "duckdb" or change.what in REPLACING:
        return Planned(staged, [], destination)
    if stages:
        rewritten = find_changes(staged, destination)
    elif change.what in DELETED:
        rewritten = find_deleted(DELETED[change.what], destination)
    else:
        rewritten = find_small(destination)
    return Planned(staged, rewritten, destination)


def find_changes(staged: list[StagedFile], destination: Destination) -> list[Rewritten]:
    """Do what the steps of `FindChanges` do."""
    folder = destination.folder
    read = sync_rows._ReadRows("Sync", folder, "id", "parent_id", None)
    keyed = [row for file in staged for row in read.of_staged(file)]
    keyed += [row for path in sync_rows.own_files(folder) for row in read.of_file(path)]
    decisions = defaultdict(list)
    for partition in _grouped(keyed):
        for path, decision in sync_rows._decide(partition, "Sync", "id", False):
            decisions[path].append(decision)
    rewrite = sync_rows._Rewrite(folder, destination.temporary)
    return [report for decided in decisions.items() for report in rewrite.process(decided)]


def _grouped(keyed: list[tuple[int, Block]]) -> list[tuple[int, list[Block]]]:
    groups = defaultdict(list)
    for key, block in keyed:
        groups[key].append(block)
    return list(groups.items())


def find_deleted(ids: list[str], destination: Destination) -> list[Rewritten]:
    """Do what the steps of `DeleteVectors` do before its commit."""
    without = delete_vectors._Without(
        destination.folder, destination.temporary, "Delete", ReplaceOptions()
    )
    files = delete_vectors.own_files(destination.folder)
    return [report.value for report in without.process((0, files), ids)]


def find_small(destination: Destination, max_bytes: int = 1 << 20) -> list[Rewritten]:
    """Do what the steps of `CompactVectors` do before its commit."""
    combine = compact_vectors._Together("Compact", destination.folder, destination.temporary)
    groups = compact_vectors.plan_groups(destination.folder, max_bytes)
    return [report for group in groups for report in combine.read(group)]


def apply(change: Change, out: str, planned: Planned | None) -> None:
    """Commit a change, planned now or before."""
    if change.what in ROLLBACKS:
        roll_back(out, change.keep)
        return
    known = planned or plan(change, out)
    deletes = change.what in DELETED
    if change.sink == "duckdb" and deletes:
        ids = DELETED[change.what], known.destination, f"{out}/x.duckdb", "vectors"
        delete_vectors._commit_database(*ids, ("id", "parent_id"))
    elif change.sink == "duckdb":
        commit_duckdb(known.staged, Pane(), known.destination, _table(out, "sync"))
    elif deletes or change.what in (COMPACT, COMPACT_AGAIN):
        commit_changes(known.rewritten, known.destination, change.keep)
    elif change.what in REPLACING:
        commit_parquet(
            known.staged, Pane(), known.destination, "replace", keep_previous=change.keep
        )
    else:
        commit_sync(known.staged, Pane(), known.rewritten, known.destination, (), change.keep, True)


def _planned(change: Change, out: str, planned: Planned | None) -> Callable[[], None]:
    if planned is None and change.what not in ROLLBACKS:
        planned = plan(change, out)
    return functools.partial(apply, change, out, planned)


def _problem_after(change: Change, out: str, planned: Planned | None, killed: bool) -> str:
    old, new = rows_of(change.before), rows_of(TARGETS[change.what])
    seen = rows_in(change.sink, out)
    if seen not in ([old, new] if killed else [new]):
        return f"after the kill readers see {dict(seen)}"
    if change.what in REPLACING and change.then == RERUN:
        old = seen  # a run without a name that is repeated is another one, and replaces what it had
    if killed or change.what not in ROLLBACKS:
        apply(change, out, planned)
    seen = rows_in(change.sink, out)
    if seen != new:
        return f"at the end readers see {dict(seen)}"
    if change.what not in REPLACING:  # which forget the runs before
        commit_named(change.sink, out)
    doubled = rows_in(change.sink, out) - new
    if doubled and change.sink == "parquet":  # of a table, the run upserts what is there
        return f"the run again doubles {dict(doubled)}"
    left = leftovers(out, change.keep) if change.sink == "parquet" else _hidden(out)
    if left:
        return f"left {left}"
    if change.keep:
        roll_back(out)
        seen = rows_in(change.sink, out)
        return "" if seen == old else f"rolled back, readers see {dict(seen)}"
    return ""


def rows_of(files: tuple[str, ...]) -> Counter[str]:
    """List the rows of words."""
    return Counter(word[i : i + 2] for word in files for i in range(0, len(word), 2))


def rows_in(sink: str, out: str) -> Counter[str]:
    """Read the rows that are committed, as readers of this package see them."""
    path = out if sink == "parquet" else f"{out}/x.duckdb"
    rows: Any = [row for block in read_vectors(path) for row in block.batch.to_pylist()]
    return Counter(f"{row['id']}{row['text']}" for row in rows)


def leftovers(out: str, keep: bool) -> list[str]:
    """List what no run may leave.

    A folder has the ledger of the last set that was rewritten, and one previous state at most.
    """
    hidden = _hidden(out)
    ledgers = [name for name in hidden if name.startswith(REPLACES)]
    previous = [name for name in hidden if name.startswith(PREVIOUS)]
    allowed = {*ledgers[:1], *(previous[:1] if keep else [])}
    dead = read_state(out, PREFIX, EXTENSION).others
    return sorted({*hidden, *dead} - allowed)


def _hidden(out: str) -> list[str]:
    if is_remote(out):
        files = FileSystems.match([f"{out}/**"])[0].metadata_list
        names = {file.path.removeprefix(f"{out}/").split("/")[0] for file in files}
    else:
        names = {path.name for path in Path(out).iterdir()}
    return sorted(name for name in names if name.startswith("."))
