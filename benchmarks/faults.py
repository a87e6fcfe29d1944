"""Faults, and what they cost: rows lost and rows doubled, which have to be none.

    python -m benchmarks.faults [--seed 1] [--kills 40]

Every try is compared with an undisturbed run of the same input: ids, texts and vectors have to be the same, in Parquet and
in DuckDB. The encoder is a toy, so that the time goes to reading and writing. Processes are forked from one that has
imported everything, and really killed: SIGKILL at a random moment, whatever they are doing.
"""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import beam_gpte
from beam_gpte.sinks.staging import StageFiles
from beam_gpte.sources import watch_corpus
from beam_gpte.sources.committed_rows import StreamOutput
from tests.examples import WordEncoder

# isort: split
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import executor

# no program: its options would be required of every pipeline
PRELOAD = [
    "apache_beam.ml.inference.base",
    "beam_gpte.embedding.model_handler",
    "beam_gpte.sources.committed_rows",
    "tests.examples",
]
ROWS = 40  # of a file
FILES = 12
TIMEOUT = 300  # seconds for a process to end by itself
WORDS = [f"{a}{b}" for a in "bcdfghklmn" for b in ("ane", "olt", "ism", "urk")]

Rows = list[tuple[str, str, tuple[float, ...]]]  # id, text, vector


@dataclasses.dataclass
class Outcome:
    """What became of the rows after a kind of fault.

    Attributes:
      faults: how many struck: a process that had finished before its moment is none.
      wrong: rows that an undisturbed run does not have so.
    """

    fault: str
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0

    def compare(self, expected: Rows, found: Rows) -> None:
        truth, times = {row[0]: row for row in expected}, Counter(row[0] for row in found)
        self.lost += len(truth.keys() - times.keys())
        self.doubled += sum(n - 1 for n in times.values())
        self.wrong += sum(truth.get(row[0]) != row for row in found)


# What runs in a process of its own


def write_batch(inbox: Path, output: Path, encoder: Any) -> None:
    """A bounded corpus to a folder and a database, as `embed_corpus.py` does it."""
    with beam.Pipeline("FnApiRunner") as pipeline:
        vectors = pipeline | beam_gpte.ReadCorpus(f"{inbox}/*") | beam_gpte.EmbedText(encoder)
        vectors | beam_gpte.WriteVectorsToParquet(str(output))
        vectors | beam_gpte.WriteVectorsToDuckDB(f"{output}.duckdb")


def write_stream(inbox: Path, output: Path, encoder: Any, *more: str) -> None:
    """What `embed_stream.py` runs, until there is a file `<output>.stop`."""
    from pipelines.embed_stream import EmbedStreamOptions, build

    arguments = ["--input", f"{inbox}/*.jsonl", f"{inbox}/*.parquet", "--output", str(output)]
    arguments += [
        "--duckdb",
        f"{output}.duckdb",
        "--model",
        "-",
        "--interval",
        "0.2",
        "--every",
        "1",
        *more,
    ]
    executor._ExecutorService._ExecutorServiceWorker.TIMEOUT = (
        0.1  # else the runner waits five seconds, idle, at its end
    )
    options = PipelineOptions(arguments, streaming=True)
    where = StreamOutput(str(output), f"{output}.duckdb", "id")
    with where.alone():
        pipeline = beam.Pipeline("BundleBasedDirectRunner", options=options)
        build(pipeline, options.view_as(EmbedStreamOptions), encoder, where, f"{output}.stop")
        pipeline.run().wait_until_finish()


def with_full_disk(limit: int, work: Callable, *arguments: Any) -> None:
    """No file of this process grows past `limit` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    work(*arguments)


def with_failing_bundles(calls: str, n: int, work: Callable, *arguments: Any) -> None:
    """Every `n`-th bundle that is staged raises when its files are written; the file `calls` counts, across processes."""
    finish_bundle = StageFiles.finish_bundle

    def finish_or_raise(self: StageFiles) -> Any:
        yield from finish_bundle(self)
        with open(calls, "ab") as file:
            file.write(b".")
        if os.path.getsize(calls) % n == 0:
            raise RuntimeError("this worker has a bad day")

    StageFiles.finish_bundle = finish_or_raise  # type: ignore[method-assign]
    work(*arguments)


def with_vanishing_file(name: str, work: Callable, *arguments: Any) -> None:
    """The file is removed after it was listed, before it is opened."""
    read = watch_corpus.read_file

    def remove_and_read(path: str, *more: Any) -> Any:
        if path.endswith(f"/{name}"):
            os.unlink(path)
        return read(path, *more)

    watch_corpus.read_file = beam_gpte.sources.read_corpus.read_file = remove_and_read
    work(*arguments)


def _quietly(log: str, work: Callable, *arguments: Any) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    work(*arguments)


class Bench:
    """Processes and folders of one series of faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._names = iter(range(1 << 30))

    def new_folder(self, name: str) -> Path:
        path = self.folder / f"{name}{next(self._names)}"
        path.mkdir(parents=True)
        return path

    def start(self, work: Callable, *arguments: Any) -> BaseProcess:
        process = self._context.Process(
            target=_quietly, args=(str(self.folder / "log"), work, *arguments)
        )
        process.start()
        return process

    def run(self, work: Callable, *arguments: Any) -> int:
        """To the end; gives the exit code."""
        return finish(self.start(work, *arguments))

    def killed(self, seconds: float, work: Callable, *arguments: Any) -> bool:
        """Kill the process after so long; whether it was still there."""
        process = self.start(work, *arguments)
        process.join(seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        return alive

    def files(self, n: int, repeat: int = 0) -> dict[str, bytes]:
        """JSON Lines and Parquet files of short texts, by name; `repeat` rows of each repeat a text of the first file."""
        files = {}
        for k in range(n):
            texts = [" ".join(self.random.choices(WORDS, k=8)) for _ in range(ROWS)]
            if k == 0:
                known = texts
            texts[: repeat if k else 0] = known[: repeat if k else 0]
            if k % 3 == 2:
                sink = io.BytesIO()
                pq.write_table(pa.table({"text": texts}), sink)
                files[f"f{k:03}.parquet"] = sink.getvalue()
            else:
                files[f"f{k:03}.jsonl"] = "".join(
                    json.dumps({"text": text}) + "\n" for text in texts
                ).encode()
        return files


def finish(process: BaseProcess) -> int:
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("a process did not end")
    return process.exitcode


def drop(inbox: Path, files: dict[str, bytes], pauses: Callable[[], float] = lambda: 0) -> None:
    """Put files into a folder, each whole at once."""
    for name, data in files.items():
        time.sleep(pauses())
        (inbox / f".{name}").write_bytes(data)
        os.rename(inbox / f".{name}", inbox / name)


def parquet_rows(folder: Path) -> Rows:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    columns = [table.select(["id", "text", "embedding"]).to_pydict() for table in tables]
    return [
        (i, t, tuple(v))
        for c in columns
        for i, t, v in zip(c["id"], c["text"], c["embedding"], strict=True)
    ]


def duckdb_rows(path: str) -> Rows:
    with duckdb.connect(path, read_only=True) as connection:
        return connection.execute("SELECT id, text, embedding FROM vectors").fetchall()


def undisturbed(bench: Bench, work: Callable, files: dict[str, bytes]) -> Rows:
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    drop(inbox, files)
    Path(f"{output}.stop").touch()
    if bench.run(work, inbox, output, WordEncoder()) != 0:
        raise RuntimeError(f"the undisturbed run failed; see {bench.folder / 'log'}")
    return parquet_rows(output)


def check(outcome: Outcome, expected: Rows, output: Path) -> None:
    outcome.compare(expected, parquet_rows(output))
    outcome.compare(expected, duckdb_rows(f"{output}.duckdb"))


# The faults


def kills_in_batch(bench: Bench, kills: int) -> Outcome:
    """Every kill is followed by the same command again, over the state of all before."""
    outcome = Outcome("kill -9 while a batch is written")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    drop(inbox, files)
    began = time.monotonic()
    bench.run(write_batch, inbox, output, WordEncoder())
    seconds = time.monotonic() - began
    while outcome.faults < kills:
        outcome.faults += bench.killed(
            bench.random.uniform(0.1, 1.1) * seconds, write_batch, inbox, output, WordEncoder()
        )
        bench.run(write_batch, inbox, output, WordEncoder())
        check(outcome, expected, output)
    return outcome


def kills_in_stream(bench: Bench, kills: int, *more: str) -> Outcome:
    """Files appear all the time; after a few kills the stream runs to its end."""
    outcome = Outcome(" ".join(["kill -9 while a stream is written", *more]))
    while outcome.faults < kills:
        files = bench.files(FILES)
        expected = undisturbed(bench, write_stream, files)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        pauses = [bench.random.uniform(0, 1) for _ in files]
        dropping = threading.Thread(target=drop, args=(inbox, files, iter(pauses).__next__))
        dropping.start()
        for _ in range(min(5, kills - outcome.faults)):
            seconds = bench.random.uniform(0.3, 5)
            outcome.faults += bench.killed(
                seconds, write_stream, inbox, output, WordEncoder(), *more
            )
        dropping.join()
        end_stream(bench, inbox, output, *more)
        check(outcome, expected, output)
    return outcome


def kills_with_duplicates(bench: Bench, kills: int) -> Outcome:
    """A text that is in all files has to be kept once, and be removed in all others."""
    more = ("--horizon", "3600", "--threshold", "0.999999")
    outcome = Outcome("kill -9 while a stream is deduplicated")
    while outcome.faults < kills:
        files = bench.files(FILES, repeat=10)
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        dropping = threading.Thread(target=drop, args=(inbox, files, lambda: 0.4))
        dropping.start()
        for _ in range(min(5, kills - outcome.faults)):
            seconds = bench.random.uniform(0.3, 5)
            outcome.faults += bench.killed(
                seconds, write_stream, inbox, output, WordEncoder(), *more
            )
        dropping.join()
        end_stream(bench, inbox, output, *more)
        kept = parquet_rows(output)
        everything = [(f"{name}:{n}", "", ()) for name in files for n in range(1, ROWS + 1)]
        outcome.compare(
            everything, [(row[0], "", ()) for row in kept + parquet_rows(output / "removed")]
        )
        texts = Counter(row[1] for row in kept)
        outcome.doubled += sum(n - 1 for n in texts.values())
        outcome.compare(kept, duckdb_rows(f"{output}.duckdb"))
    return outcome


def end_stream(bench: Bench, inbox: Path, output: Path, *more: str) -> None:
    """Run once more, until all that is in the inbox is committed."""
    process = bench.start(write_stream, inbox, output, WordEncoder(), *more)
    time.sleep(0.5)
    Path(f"{output}.stop").touch()
    if finish(process) != 0:
        raise RuntimeError(f"the last run failed; see {bench.folder / 'log'}")


def failing_workers(bench: Bench, tries: int) -> Outcome:
    """A batch fails as a whole and is run again until it succeeds; the stream's runner tries the bundle again."""
    outcome = Outcome("a worker raises at the n-th bundle")
    files = bench.files(FILES)
    expected = undisturbed(bench, write_batch, files)
    for k in range(tries):
        inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
        drop(inbox, files)
        Path(f"{output}.stop").touch()
        calls, n, work = (
            f"{output}.calls",
            bench.random.randrange(3, 6),
            (write_stream, write_batch)[k % 2],
        )
        for _ in range(10):
            if bench.run(with_failing_bundles, calls, n, work, inbox, output, WordEncoder()) == 0:
                break
        outcome.faults += os.path.getsize(calls) // n
        check(outcome, expected, output)
    return outcome


def full_disks(bench: Bench, tries: int) -> Outcome:
    """The run fails; with room again, the same command goes on."""
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
        check(outcome, expected, output)
    return outcome


def truncated_files(bench: Bench, tries: int) -> Outcome:
    """A batch fails and leaves what was there; a stream sets the file aside, once, and reads all others."""
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
            expected = undisturbed(
                bench, write_stream, {key: data for key, data in files.items() if key != name}
            )
            drop(inbox, {name: cut})
            for _ in range(2):  # and after a restart not once more
                bench.run(write_stream, inbox, output, WordEncoder())
            _check_reject(outcome, output, name)
        check(outcome, expected, output)
    return outcome


def vanishing_files(bench: Bench, tries: int) -> Outcome:
    """As `truncated_files`, for a file that goes between listing and reading."""
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
            expected = undisturbed(
                bench, write_stream, {key: data for key, data in files.items() if key != name}
            )
            bench.run(with_vanishing_file, name, write_stream, inbox, output, WordEncoder())
            _check_reject(outcome, output, name)
        check(outcome, expected, output)
    return outcome


def _check_reject(outcome: Outcome, output: Path, name: str) -> None:
    lines = [
        json.loads(line) for path in (output / "rejects").glob("*.jsonl") for line in path.open()
    ]
    outcome.compare([(f"{name}:0", "", ())], [(line["id"], "", ()) for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=36)
    parser.add_argument("--tries", type=int, default=6)
    options = parser.parse_args()
    third = options.kills // 3
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    bench, outcomes = Bench(folder, options.seed), []
    print(
        f"seed {options.seed}\n{'fault':<45}{'faults':>8}{'lost':>8}{'doubled':>9}{'wrong':>8}",
        flush=True,
    )
    for fault, n in [
        (kills_in_batch, third),
        (kills_in_stream, options.kills - 2 * third),
        (kills_with_duplicates, third),
        (failing_workers, options.tries),
        (full_disks, options.tries),
        (truncated_files, options.tries),
        (vanishing_files, options.tries),
    ]:
        done = fault(bench, n)
        outcomes.append(done)
        print(
            f"{done.fault:<45}{done.faults:>8}{done.lost:>8}{done.doubled:>9}{done.wrong:>8}",
            flush=True,
        )
    if any(done.lost or done.doubled or done.wrong for done in outcomes):
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
