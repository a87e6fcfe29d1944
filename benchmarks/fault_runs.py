"""Run batches and streams in processes that are killed or fail, and read what they wrote.

    files --> inbox --> write_batch or write_stream, in its own process --> `Rows` of the output

The encoder is a toy, so that the time is spent on reading and writing. Processes are forked from
one that has imported everything, and are really killed: SIGKILL at a random moment, whatever they
are doing.
"""

import io
import json
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import beam_gpte
from beam_gpte.sinks.runs.folder_state import REPLACES
from beam_gpte.sinks.staging import StageFiles
from beam_gpte.sources import read_files, watch_corpus
from beam_gpte.sources.committed_rows import StreamOutput
from tests.examples import WordEncoder

# isort: split
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import executor

# No program is preloaded: its options would then be required of every pipeline.
PRELOAD = [
    "apache_beam.ml.inference.base",
    "beam_gpte.embedding.handlers.text_handler",
    "beam_gpte.sources.committed_rows",
    "tests.examples",
]
ROWS = 40  # of a file
TIMEOUT = 300  # seconds for a process to end by itself
WORDS = [f"{a}{b}" for a in "bcdfghklmn" for b in ("ane", "olt", "ism", "urk")]

Rows = list[tuple[str, str, tuple[float, ...]]]  # id, text, vector


# Functions that run in their own process


def write_batch(inbox: Path, output: Path, encoder: Any) -> None:
    """Write a bounded corpus to a folder and a database, as `beam-gpte embed` does."""
    with beam.Pipeline("FnApiRunner") as pipeline:
        vectors = pipeline | beam_gpte.ReadCorpus(f"{inbox}/*") | beam_gpte.EmbedText(encoder)
        vectors | beam_gpte.WriteVectorsToParquet(str(output))
        vectors | beam_gpte.WriteVectorsToDuckDB(f"{output}.duckdb")


def write_stream(inbox: Path, output: Path, encoder: Any, *more: str) -> None:
    """Run the pipeline of `beam-gpte stream` until there is a file `<output>.stop`."""
    from beam_gpte.cli.arguments import parse
    from beam_gpte.cli.programs import stream

    arguments = ["--input", f"{inbox}/*.jsonl", f"{inbox}/*.parquet", "--output", str(output)]
    arguments += ["--duckdb", f"{output}.duckdb", "--model", "-", "--interval", "0.2"]
    arguments += ["--every", "1", *more]
    # By default the runner waits five seconds, idle, at its end.
    executor._ExecutorService._ExecutorServiceWorker.TIMEOUT = 0.1
    chosen, flags = parse(stream.PROGRAM, arguments)
    options = PipelineOptions(flags, streaming=True)
    where = StreamOutput(str(output), f"{output}.duckdb", "id")
    with where.alone():
        pipeline = beam.Pipeline("BundleBasedDirectRunner", options=options)
        stream.build(pipeline, chosen, encoder, where, f"{output}.stop")
        pipeline.run().wait_until_finish()


def with_full_disk(limit: int, work: Callable, *arguments: Any) -> None:
    """Let no file of this process grow past `limit` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    work(*arguments)


def with_failing_bundles(calls: str, n: int, work: Callable, *arguments: Any) -> None:
    """Raise in every `n`-th staged bundle, after its files are written.

    The size of the file `calls` counts the bundles across processes.
    """
    finish_bundle = StageFiles.finish_bundle

    def finish_or_raise(self: StageFiles) -> Any:
        yield from finish_bundle(self)
        with open(calls, "ab") as file:
            file.write(b".")
        if os.path.getsize(calls) % n == 0:
            raise RuntimeError("this worker fails")

    StageFiles.finish_bundle = finish_or_raise  # type: ignore[method-assign]
    work(*arguments)


def with_vanishing_file(name: str, work: Callable, *arguments: Any) -> None:
    """Remove a file after it is listed, before it is opened."""
    read = watch_corpus.read_file

    def remove_and_read(path: str, *more: Any) -> Any:
        if path.endswith(f"/{name}"):
            os.unlink(path)
        return read(path, *more)

    watch_corpus.read_file = read_files.read_file = remove_and_read
    work(*arguments)


def _quietly(log: str, work: Callable, *arguments: Any) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    work(*arguments)


# What starts them, and reads what they wrote


class Bench:
    """Make the processes, folders and files of one series of faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._names = iter(range(1 << 30))

    def new_folder(self, name: str) -> Path:
        """Make a folder that no other call gives."""
        path = self.folder / f"{name}{next(self._names)}"
        path.mkdir(parents=True)
        return path

    def start(self, work: Callable, *arguments: Any) -> BaseProcess:
        """Start a process; what it prints goes to the file `log`."""
        process = self._context.Process(
            target=_quietly, args=(str(self.folder / "log"), work, *arguments)
        )
        process.start()
        return process

    def run(self, work: Callable, *arguments: Any) -> int:
        """Run a process to its end; return the exit code."""
        return finish(self.start(work, *arguments))

    def killed(self, seconds: float, work: Callable, *arguments: Any) -> bool:
        """Kill a process after some seconds; return whether it was still running."""
        process = self.start(work, *arguments)
        process.join(seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        return alive

    def killed_after(
        self, reached: Callable[[], bool], pause: float, work: Callable, *arguments: Any
    ) -> None:
        """Kill a process some seconds after it has reached something."""
        process = self.start(work, *arguments)
        ends = time.monotonic() + TIMEOUT
        while process.is_alive() and not reached() and time.monotonic() < ends:
            time.sleep(0.02)
        process.join(pause)
        process.kill()
        process.join()

    def killed_at(
        self, rng: random.Random, seconds: float, work: Callable, *arguments: Any
    ) -> float:
        """Kill a process at a random share of the seconds that it takes; return the share."""
        while True:
            share = rng.uniform(0.1, 1)
            if self.killed(share * seconds, work, *arguments):
                return share

    def killed_in_commit(
        self, rng: random.Random, seconds: float, output: Path, work: Callable, *arguments: Any
    ) -> float:
        """Kill a process soon after it has begun to change a folder; return when, as a share.

        If it ends too soon, it is started again, and killed at any moment.
        """
        before, began = set(output.glob(f"{REPLACES}*")), time.monotonic()
        process = self.start(work, *arguments)
        while process.is_alive() and not set(output.glob(f"{REPLACES}*")) - before:
            time.sleep(0.0005)
        process.join(rng.uniform(0, 0.05))
        alive, share = process.is_alive(), (time.monotonic() - began) / seconds
        process.kill()
        process.join()
        return share if alive else self.killed_at(rng, seconds, work, *arguments)

    def files(self, n: int, repeat: int = 0) -> dict[str, bytes]:
        """Make JSON Lines and Parquet files of short texts, by name.

        In every file but the first, the first `repeat` rows have texts of the first file.
        """
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
                lines = [json.dumps({"text": text}) + "\n" for text in texts]
                files[f"f{k:03}.jsonl"] = "".join(lines).encode()
        return files


def finish(process: BaseProcess) -> int:
    """Wait for a process to end; return its exit code."""
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("a process did not end")
    return process.exitcode


def end_stream(bench: Bench, inbox: Path, output: Path, encoder: Any, *more: str) -> None:
    """Run a stream once more, until the whole inbox is committed."""
    process = bench.start(write_stream, inbox, output, encoder, *more)
    time.sleep(0.5)
    Path(f"{output}.stop").touch()
    if finish(process) != 0:
        raise RuntimeError(f"the last run failed; see {bench.folder / 'log'}")


def undisturbed(bench: Bench, work: Callable, files: dict[str, bytes]) -> Rows:
    """Run `work` without a fault; return the rows that it writes."""
    inbox, output = bench.new_folder("in"), bench.new_folder("work") / "out"
    drop(inbox, files)
    Path(f"{output}.stop").touch()
    if bench.run(work, inbox, output, WordEncoder()) != 0:
        raise RuntimeError(f"the undisturbed run failed; see {bench.folder / 'log'}")
    return parquet_rows(output)


def drop(inbox: Path, files: dict[str, bytes], pauses: Callable[[], float] = lambda: 0) -> None:
    """Put files into a folder, each whole at once."""
    for name, data in files.items():
        time.sleep(pauses())
        (inbox / f".{name}").write_bytes(data)
        os.rename(inbox / f".{name}", inbox / name)


def parquet_rows(folder: Path) -> Rows:
    """Read the rows of a folder."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    columns = [table.select(["id", "text", "embedding"]).to_pydict() for table in tables]
    return [
        (i, t, tuple(v))
        for c in columns
        for i, t, v in zip(c["id"], c["text"], c["embedding"], strict=True)
    ]


def committed_rows(folder: Path) -> int:
    """Count the rows of a folder."""
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def duckdb_rows(path: str) -> Rows:
    """Read the rows of a database."""
    with duckdb.connect(path, read_only=True) as connection:
        return connection.execute("SELECT id, text, embedding FROM vectors").fetchall()
