"""Count the rows that faults lose or duplicate, which have to be none.

    python -m benchmarks.faults [--seed 1] [--kills 40] [--only kills_while_embedding]

Every attempt is compared with an undisturbed run of the same input: ids, texts and vectors have to
be the same, in Parquet and in DuckDB. `fault_runs` has the processes that are killed or fail.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.fault_runs import (
    ROWS,
    Bench,
    Rows,
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
from tests.embedding.resumable import SlowEncoder, embedded
from tests.examples import WordEncoder

FILES = 12
SECONDS = 0.05  # that a slow model takes for a text


@dataclasses.dataclass
class Outcome:
    """Count what happened to the rows after one kind of fault.

    Attributes:
      fault: its name.
      faults: how many occurred; a process that had finished before its moment is not counted.
      lost: rows that are missing.
      duplicated: rows that are there once too often.
      wrong: rows that differ from those of an undisturbed run.
    """

    fault: str
    faults: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0

    def compare(self, expected: Rows, found: Rows) -> None:
        """Add the differences between what an undisturbed run writes and what was found."""
        truth, times = {row[0]: row for row in expected}, Counter(row[0] for row in found)
        self.lost += len(truth.keys() - times.keys())
        self.duplicated += sum(n - 1 for n in times.values())
        self.wrong += sum(truth.get(row[0]) != row for row in found)

    def compare_output(self, expected: Rows, output: Path) -> None:
        """Add the differences in the folder and in the database."""
        self.compare(expected, parquet_rows(output))
        self.compare(expected, duckdb_rows(f"{output}.duckdb"))

    def compare_reject(self, name: str, output: Path) -> None:
        """Add the differences between the rejects and the one for the whole file `name`."""
        paths = (output / "rejects").glob("*.jsonl")
        lines = [json.loads(line) for path in paths for line in path.open()]
        self.compare([(f"{name}:0", "", ())], [(line["id"], "", ()) for line in lines])


def kills_in_batch(bench: Bench, kills: int) -> Outcome:
    """Kill a batch, then run the same command again; the next kill starts from that state."""
    outcome = Outcome("kill -9 while a batch is written")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    drop(inbox, files)
    arguments = (write_batch, inbox, output, WordEncoder())
    began = time.monotonic()
    bench.run(*arguments)
    seconds = time.monotonic() - began
    while outcome.faults < kills:
        outcome.faults += bench.killed(bench.random.uniform(0.1, 1.1) * seconds, *arguments)
        bench.run(*arguments)
        outcome.compare_output(expected, output)
    return outcome


def kills_while_embedding(bench: Bench, kills: int) -> Outcome:
    """Kill a batch of a slow model, and resume it; print what is embedded again, as a share."""
    outcome = Outcome("kill -9 while a batch is embedded")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    inbox, rows = bench.new_folder("in"), len(expected)
    drop(inbox, files)
    while outcome.faults < kills:
        output, share = bench.new_folder("work") / "out", bench.random.uniform(0.05, 0.95)
        log = Path(f"{output}.log")
        arguments = (write_batch, inbox, output, SlowEncoder(str(log), SECONDS))
        process = bench.start(*arguments)
        while process.is_alive() and embedded(log).total() < share * rows:
            time.sleep(0.01)
        outcome.faults += process.is_alive()
        process.kill()
        process.join()
        done = embedded(log).total()
        bench.run(*arguments)
        again = embedded(log).total() - len({row[1] for row in expected})
        print(f"  killed at {done / rows:.0%}: {again / rows:.1%} embedded again", flush=True)
        outcome.compare_output(expected, output)
    return outcome


def kills_in_stream(bench: Bench, kills: int, *more: str) -> Outcome:
    """Kill a stream while files appear; after a few kills it runs to its end."""
    outcome = Outcome(" ".join(["kill -9 while a stream is written", *more]))
    while outcome.faults < kills:
        files = bench.files(FILES)
        expected = undisturbed(bench, write_stream, files)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        pauses = [bench.random.uniform(0, 1) for _ in files]
        dropping = threading.Thread(target=drop, args=(inbox, files, iter(pauses).__next__))
        dropping.start()
        _kill_stream(bench, outcome, kills, inbox, output, *more)
        dropping.join()
        end_stream(bench, inbox, output, *more)
        outcome.compare_output(expected, output)
    return outcome


def kills_with_duplicates(bench: Bench, kills: int) -> Outcome:
    """Kill a stream that keeps a text once, which is in all files, and removes it elsewhere."""
    more = ("--horizon", "3600", "--threshold", "0.999999")
    outcome = Outcome("kill -9 while a stream is deduplicated")
    while outcome.faults < kills:
        files = bench.files(FILES, repeat=10)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        dropping = threading.Thread(target=drop, args=(inbox, files, lambda: 0.4))
        dropping.start()
        _kill_stream(bench, outcome, kills, inbox, output, *more)
        dropping.join()
        end_stream(bench, inbox, output, *more)
        kept = parquet_rows(output)
        found = kept + parquet_rows(output / "removed")
        everything = [(f"{name}:{n}", "", ()) for name in files for n in range(1, ROWS + 1)]
        outcome.compare(everything, [(row[0], "", ()) for row in found])
        texts = Counter(row[1] for row in kept)
        outcome.duplicated += sum(n - 1 for n in texts.values())
        outcome.compare(kept, duckdb_rows(f"{output}.duckdb"))
    return outcome


def _kill_stream(
    bench: Bench, outcome: Outcome, kills: int, inbox: Path, output: Path, *more: str
) -> None:
    for _ in range(min(5, kills - outcome.faults)):
        seconds = bench.random.uniform(0.3, 5)
        outcome.faults += bench.killed(seconds, write_stream, inbox, output, WordEncoder(), *more)


def failing_workers(bench: Bench, tries: int) -> Outcome:
    """Raise in a worker: a batch fails as a whole and is repeated, a stream retries the bundle."""
    outcome = Outcome("a worker raises at the n-th bundle")
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
    outcome = Outcome("the disk is full")
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
    outcome = Outcome("a Parquet file is truncated")
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
    outcome = Outcome("a file vanishes before it is read")
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=36)
    parser.add_argument("--tries", type=int, default=6)
    parser.add_argument("--only", nargs="+", help="names of functions of this module")
    options = parser.parse_args()
    third = options.kills // 3
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    bench, outcomes = Bench(folder, options.seed), []
    print(f"seed {options.seed}")
    print(f"{'fault':<45}{'faults':>8}{'lost':>8}{'duplicated':>12}{'wrong':>8}", flush=True)
    for fault, n in [
        (kills_in_batch, third),
        (kills_while_embedding, third),
        (kills_in_stream, options.kills - 2 * third),
        (kills_with_duplicates, third),
        (failing_workers, options.tries),
        (full_disks, options.tries),
        (truncated_files, options.tries),
        (vanishing_files, options.tries),
    ]:
        if options.only and fault.__name__ not in options.only:
            continue
        outcome = fault(bench, n)
        outcomes.append(outcome)
        counts = f"{outcome.lost:>8}{outcome.duplicated:>12}{outcome.wrong:>8}"
        print(f"{outcome.fault:<45}{outcome.faults:>8}{counts}", flush=True)
    if any(outcome.lost or outcome.duplicated or outcome.wrong for outcome in outcomes):
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
