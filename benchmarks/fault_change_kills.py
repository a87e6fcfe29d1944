"""Kill syncs and compactions, beside processes that read and append.

Every second kill is at a random share of the time that the work takes, the others in its commit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.fault_changes import (
    MIXED,
    ROWS_OF_PANE,
    Documents,
    append_panes,
    compact,
    edited,
    first_documents,
    pane_texts,
    put,
    read_panes,
    read_states,
    write_sync,
)
from benchmarks.fault_results import UNRECORDED, Kill, Outcome, Results, Series
from benchmarks.fault_runs import Bench, finish, parquet_rows
from tests.embedding.resumable import SlowEncoder, embedded

PANES = 8  # that are there before a compaction, and that are appended meanwhile


def kills_in_sync(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a sync of a folder and a database, then run the same command again.

    Before each, a tenth of the documents is edited, deleted and inserted. A process reads the
    folder all the time. Every second kill is in the commit.
    """
    series = Series(bench, "kills_in_sync", "kill -9 while a sync is written", results)
    documents = first_documents(series.draw("documents"))
    for number in range(series.number):
        documents = edited(documents, series.draw(f"edits {number}"))
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    put(inbox, documents)
    began = time.monotonic()
    if series.number < kills:
        _succeed(bench, write_sync, inbox, output, _encoder(output), False)
    seconds = time.monotonic() - began
    while series.number < kills:
        new = edited(documents, series.draw(f"edits {series.number}"))
        series.add(_killed_sync(bench, series, (documents, new), (inbox, output), seconds))
        documents = new
    return series.outcome


def _killed_sync(
    bench: Bench,
    series: Series,
    states: tuple[Documents, Documents],
    places: tuple[Path, Path],
    seconds: float,
) -> Kill:
    """Kill one sync from one state of the documents to another; compare with a fresh folder."""
    (inbox, output), (old, new), number = places, states, series.number
    keep = number % 4 > 1
    before = parquet_rows(output)
    put(inbox, new)
    embedded_before = embedded(_log(output)).total()
    arguments = write_sync, inbox, output, _encoder(output), keep
    known = {"old": old, "new": new}
    with _reading(bench, read_states, output, known) as reads:
        moment = _kill(bench, series, seconds, output, *arguments)
        _succeed(bench, *arguments)
    changed = sum(old.get(name) != text for name, text in new.items())
    again = embedded(_log(output)).total() - embedded_before - changed
    kill = Kill(moment=moment, repeated=again / changed, mixed=_mixed(reads))
    fresh = bench.new_folder("work") / "out"
    _succeed(bench, write_sync, inbox, fresh, _encoder(fresh), False)
    kill.compare_output(parquet_rows(fresh), output, before)
    return kill


def kills_in_compaction(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a compaction while a named run appends panes, and compact again; then that run again.

    A process reads the folder all the time. Every second kill is in the commit.
    """
    title = "kill -9 while a folder is compacted"
    series = Series(bench, "kills_in_compaction", title, results)
    if series.number >= kills:
        return series.outcome
    output = bench.new_folder("work") / "out"
    append_panes(output, range(PANES), 0)
    began = time.monotonic()
    _succeed(bench, compact, output, False)
    seconds = time.monotonic() - began
    while series.number < kills:
        series.add(_killed_compaction(bench, series, seconds))
    return series.outcome


def _killed_compaction(bench: Bench, series: Series, seconds: float) -> Kill:
    """Kill one compaction of a new folder."""
    output, number = bench.new_folder("work") / "out", series.number
    append_panes(output, range(PANES), 0)
    panes, pause = range(PANES, 2 * PANES), seconds / PANES
    arguments = compact, output, number % 4 > 1
    with _reading(bench, read_panes, output) as reads:
        writer = bench.start(append_panes, output, panes, pause)
        moment = _kill(bench, series, seconds, output, *arguments)
        _succeed(bench, *arguments)
        if finish(writer) != 0:
            raise RuntimeError(f"a pane failed; see {bench.folder / 'log'}")
        _succeed(bench, *arguments)
        append_panes(output, range(2 * PANES), 0)
    numbers = range(2 * PANES * ROWS_OF_PANE)
    texts = pane_texts(numbers).to_pylist()
    kill = Kill(moment=moment, mixed=_mixed(reads))
    kill.compare(
        [(f"n{n}", text, (n, n + 0.5, n + 0.5)) for n, text in zip(numbers, texts, strict=True)],
        parquet_rows(output),
    )
    return kill


def _kill(bench: Bench, series: Series, seconds: float, output: Path, *arguments: Any) -> float:
    """Kill a process, every second one in its commit; return when, as a share of the seconds."""
    rng = series.draw(series.number)
    if series.number % 2:
        return bench.killed_in_commit(rng, seconds, output, *arguments)
    return bench.killed_at(rng, seconds, *arguments)


@contextlib.contextmanager
def _reading(bench: Bench, read: Callable, *arguments: Any) -> Iterator[Path]:
    """Let a process read all the time; give the file where it notes what it has seen."""
    reads, stop = (bench.new_folder("reads") / name for name in ("reads", "stop"))
    reader = bench.start(read, *arguments, reads, stop)
    try:
        yield reads
    finally:
        stop.touch()
        code = finish(reader)
    if code != 0:
        raise RuntimeError(f"a reader failed; see {bench.folder / 'log'}")


def _log(output: Path) -> Path:
    return Path(f"{output}.log")


def _encoder(output: Path) -> SlowEncoder:
    """Make a model that notes what it embeds."""
    return SlowEncoder(str(_log(output)), 0)


def _succeed(bench: Bench, work: Callable, *arguments: Any) -> None:
    if bench.run(work, *arguments) != 0:
        raise RuntimeError(f"a run that nothing disturbs failed; see {bench.folder / 'log'}")


def _mixed(reads: Path) -> int:
    """Count what a reader has noted that no state is; it has to have read."""
    lines = reads.read_text().splitlines()
    if not lines:
        raise RuntimeError("nothing was read meanwhile")
    return lines.count(MIXED)
