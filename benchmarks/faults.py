"""Count the rows that faults lose or duplicate, which have to be none.

    python -m benchmarks.faults [--seed 1] [--kills 210] [--only kills_in_sync] [--results FILE]

Every attempt is compared with an undisturbed run of the same input: ids, texts and vectors have to
be the same, in Parquet and in DuckDB. `fault_runs` has the processes that are killed or fail. With
`--results` each kill is a line of a file, and the same command goes on where it was stopped.
"""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fault_change_kills import kills_in_compaction, kills_in_sync
from benchmarks.fault_results import (
    DIFFERENCES,
    UNRECORDED,
    Kill,
    Outcome,
    Results,
    Series,
)
from benchmarks.fault_runs import (
    ROWS,
    Bench,
    Rows,
    committed_rows,
    drop,
    duckdb_rows,
    end_stream,
    parquet_rows,
    undisturbed,
    with_failing_bundles,
    with_full_disk,
    with_vanishing_file,
    write_batch,
    write_stream,
)
from tests.embedding.resumable import SlowEncoder, all_embedded, embedded
from tests.examples import WordEncoder

FILES = 12
SECONDS = 0.05  # that a slow model takes for a text
KILLS_OF_STREAM = 5  # of one stream, before it runs to its end
FILES_OF_KILL = 3  # at most so many are committed before the next kill
DROP_SECONDS = 1.5  # between two files, on average


def kills_in_batch(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a batch, then run the same command again; the next kill starts from that state."""
    title = "kill -9 while a batch is written"
    series = Series(bench, "kills_in_batch", title, results)
    if series.number >= kills:
        return series.outcome
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    drop(inbox, files)
    log = Path(f"{output}.log")
    arguments = (write_batch, inbox, output, SlowEncoder(str(log), 0))
    began = time.monotonic()
    bench.run(*arguments)
    seconds = time.monotonic() - began
    while series.number < kills:
        rng, alive = series.draw(series.number), False
        while not alive:
            before, share = embedded(log).total(), rng.uniform(0.1, 1)
            alive = bench.killed(share * seconds, *arguments)
        bench.run(*arguments)
        again = embedded(log).total() - before - len(expected)
        kill = Kill(moment=share, repeated=again / len(expected))
        kill.compare_output(expected, output)
        series.add(kill)
    return series.outcome


def kills_while_embedding(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a batch of a slow model, and resume it; print what is embedded again, as a share."""
    title = "kill -9 while a batch is embedded"
    series = Series(bench, "kills_while_embedding", title, results)
    if series.number >= kills:
        return series.outcome
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    inbox = bench.new_folder("in")
    drop(inbox, files)
    while series.number < kills:
        rng = series.draw(series.number)
        kill = _killed_while_embedding(bench, rng.uniform(0.05, 0.95), inbox, expected)
        if kill is not None:
            series.add(kill)
    return series.outcome


def _killed_while_embedding(bench: Bench, share: float, inbox: Path, expected: Rows) -> Kill | None:
    """Kill a batch when a share of its texts is embedded; None if it has ended before."""
    rows, output = len(expected), bench.new_folder("work") / "out"
    log = Path(f"{output}.log")
    arguments = (write_batch, inbox, output, SlowEncoder(str(log), SECONDS))
    process = bench.start(*arguments)
    while process.is_alive() and embedded(log).total() < share * rows:
        time.sleep(0.01)
    alive = process.is_alive()
    process.kill()
    process.join()
    done = embedded(log).total()
    bench.run(*arguments)
    again = embedded(log).total() - len({row[1] for row in expected})
    kill = Kill(moment=done / rows, repeated=again / rows)
    kill.compare_output(expected, output)
    return kill if alive or kill.any else None


def kills_in_stream(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a stream while files appear; after a few kills it runs to its end."""
    series = Series(bench, "kills_in_stream", "kill -9 while a stream is written", results)
    while series.number < kills:
        series.draw(series.number)
        files = bench.files(FILES)
        expected = undisturbed(bench, write_stream, files)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        log, killed, ends = Path(f"{output}.log"), [], []
        encoder = SlowEncoder(str(log), 0)
        with _dropping(bench, inbox, files):
            for kill in _kill_stream(bench, series, kills, inbox, output, encoder):
                killed.append(kill)
                ends.append(len(all_embedded(log)))
        end_stream(bench, inbox, output, encoder)
        killed[-1].compare_output(expected, output)
        _count_again(killed, ends, all_embedded(log))
        series.add(*killed)
    return series.outcome


def kills_with_duplicates(bench: Bench, kills: int, results: Results = UNRECORDED) -> Outcome:
    """Kill a stream that keeps a text once, which is in all files, and removes it elsewhere."""
    more = ("--horizon", "3600", "--threshold", "0.999999")
    title = "kill -9 while a stream is deduplicated"
    series = Series(bench, "kills_with_duplicates", title, results)
    while series.number < kills:
        series.draw(series.number)
        files = bench.files(FILES, repeat=10)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        with _dropping(bench, inbox, files):
            killed = [*_kill_stream(bench, series, kills, inbox, output, WordEncoder(), *more)]
        end_stream(bench, inbox, output, WordEncoder(), *more)
        _compare_kept(killed[-1], files, output)
        series.add(*killed)
    return series.outcome


@contextlib.contextmanager
def _dropping(bench: Bench, inbox: Path, files: dict[str, bytes]) -> Iterator[None]:
    """Put files into a folder, one after the other, and at the end the others at once."""
    rng, ended = random.Random(bench.random.random()), threading.Event()
    arguments = inbox, files, lambda: 0 if ended.is_set() else rng.uniform(0, 2 * DROP_SECONDS)
    dropping = threading.Thread(target=drop, args=arguments)
    dropping.start()
    try:
        yield
    finally:
        ended.set()
        dropping.join()


def _compare_kept(kill: Kill, files: dict[str, bytes], output: Path) -> None:
    """Add the differences between all rows and those that are kept or removed."""
    kept = parquet_rows(output)
    found = kept + parquet_rows(output / "removed")
    everything = [(f"{name}:{n}", "", ()) for name in files for n in range(1, ROWS + 1)]
    kill.compare(everything, [(row[0], "", ()) for row in found])
    texts = Counter(row[1] for row in kept)
    kill.duplicated += sum(n - 1 for n in texts.values())
    kill.compare(kept, duckdb_rows(f"{output}.duckdb"))


def _kill_stream(
    bench: Bench, series: Series, kills: int, inbox: Path, output: Path, *more: Any
) -> Iterator[Kill]:
    """Kill a stream some times, each soon after some more files; by itself it never ends."""

    def rows() -> int:
        return committed_rows(output) + committed_rows(output / "removed")

    for _ in range(min(KILLS_OF_STREAM, kills - series.number)):
        goal = min(FILES * ROWS, rows() + bench.random.randint(0, FILES_OF_KILL * ROWS))
        reached = partial(lambda wanted: rows() >= wanted, goal)
        pause = bench.random.uniform(0, 1)
        bench.killed_after(reached, pause, write_stream, inbox, output, *more)
        yield Kill(moment=rows() / (FILES * ROWS))


def _count_again(kills: list[Kill], ends: list[int], texts: list[str]) -> None:
    """Count what is embedded again after each kill of a stream, until the next one."""
    for kill, end, following in zip(kills, ends, [*ends[1:], len(texts)], strict=True):
        known = set(texts[:end])
        kill.repeated = sum(text in known for text in texts[end:following]) / (FILES * ROWS)


def failing_workers(bench: Bench, tries: int) -> Outcome:
    """Raise in a worker: a batch fails as a whole and is repeated, a stream retries the bundle."""
    outcome = Outcome(fault="a worker raises at the n-th bundle")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    for k in range(tries):
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        drop(inbox, files)
        Path(f"{output}.stop").touch()
        calls, n = f"{output}.calls", bench.random.randrange(3, 6)
        work = (write_stream, write_batch)[k % 2]
        for _ in range(10):
            if bench.run(with_failing_bundles, calls, n, work, inbox, output, WordEncoder()) == 0:
                break
        outcome.faults += os.path.getsize(calls) // n
        outcome.compare_output(expected, output)
    return outcome


def full_disks(bench: Bench, tries: int) -> Outcome:
    """Fill the disk, so that the run fails; with space again, the same command completes it."""
    outcome = Outcome(fault="the disk is full")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    for k in range(tries):
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        drop(inbox, files)
        work = (write_batch, write_stream)[k % 2]
        Path(f"{output}.stop").touch()
        limit = int(2 ** bench.random.uniform(8, 19))
        outcome.faults += bench.run(with_full_disk, limit, work, inbox, output, WordEncoder()) != 0
        bench.run(work, inbox, output, WordEncoder())
        outcome.compare_output(expected, output)
    return outcome


def truncated_files(bench: Bench, tries: int) -> Outcome:
    """Truncate a file: a batch fails and leaves the previous output; a stream rejects the file.

    The stream rejects it once and reads all others.
    """
    outcome = Outcome(fault="a Parquet file is truncated")
    files = bench.files(FILES)
    for k in range(tries):
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        drop(inbox, files)
        name = bench.random.choice([name for name in files if name.endswith(".parquet")])
        cut = files[name][: bench.random.randrange(len(files[name]))]
        Path(f"{output}.stop").touch()
        outcome.faults += 1
        if k % 2:
            expected = undisturbed(bench, write_batch, files)
            bench.run(write_batch, inbox, output, WordEncoder())
            drop(inbox, {name: cut})
            if bench.run(write_batch, inbox, output, WordEncoder()) == 0:
                outcome.lost += ROWS
        else:
            expected = undisturbed(bench, write_stream, _without(files, name))
            drop(inbox, {name: cut})
            for _ in range(2):  # a restart does not reject it again
                bench.run(write_stream, inbox, output, WordEncoder())
            outcome.compare_reject(name, output)
        outcome.compare_output(expected, output)
    return outcome


def vanishing_files(bench: Bench, tries: int) -> Outcome:
    """Remove a file between listing and reading; otherwise as `truncated_files`."""
    outcome = Outcome(fault="a file vanishes before it is read")
    files = bench.files(FILES)
    for k in range(tries):
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        drop(inbox, files)
        name = bench.random.choice([*files])
        Path(f"{output}.stop").touch()
        outcome.faults += 1
        if k % 2:
            expected = undisturbed(bench, write_batch, files)
            bench.run(write_batch, inbox, output, WordEncoder())
            if bench.run(with_vanishing_file, name, write_batch, inbox, output, WordEncoder()) == 0:
                outcome.lost += ROWS
        else:
            expected = undisturbed(bench, write_stream, _without(files, name))
            bench.run(with_vanishing_file, name, write_stream, inbox, output, WordEncoder())
            outcome.compare_reject(name, output)
        outcome.compare_output(expected, output)
    return outcome


def _without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: data for key, data in files.items() if key != name}


KILLS = (
    kills_in_batch,
    kills_while_embedding,
    kills_in_stream,
    kills_with_duplicates,
    kills_in_sync,
    kills_in_compaction,
)
OTHERS = (failing_workers, full_disks, truncated_files, vanishing_files)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=36, help="of all kinds together")
    parser.add_argument("--tries", type=int, default=6, help="of each other fault")
    parser.add_argument("--only", nargs="+", help="names of functions of this module")
    parser.add_argument("--results", type=Path, help="file of lines, a kill each, to go on from")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    bench, results = Bench(folder, options.seed), Results(options.results, options.seed)
    kills, others = (
        [fault for fault in faults if not options.only or fault.__name__ in options.only]
        for faults in (KILLS, OTHERS)
    )
    print(f"seed {options.seed}")
    print(
        f"{'fault':<45}{'faults':>8}" + "".join(f"{name:>12}" for name in DIFFERENCES), flush=True
    )
    outcomes = []
    for k, kill in enumerate(kills):
        n = options.kills * (k + 1) // len(kills) - options.kills * k // len(kills)
        outcomes.append(show(kill(bench, n, results)))
    for fault in others:
        bench.random = random.Random(f"{options.seed} {fault.__name__}")
        outcomes.append(show(fault(bench, options.tries)))
    if any(outcome.any for outcome in outcomes):
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


def show(outcome: Outcome) -> Outcome:
    """Print a line of the table."""
    counts = "".join(f"{getattr(outcome, name):>12}" for name in DIFFERENCES)
    print(f"{outcome.fault:<45}{outcome.faults:>8}{counts}", flush=True)
    return outcome


if __name__ == "__main__":
    main()
