"""Kill runs that write to an object store, before each of the requests that change it.

    python -m tests.files.killed_runs s3://bucket       # before each request
    python -m tests.files.killed_runs s3://bucket 4     # before every fourth

Prints a line of JSON for each kill: what a reader finds after it, and after the same run again.
"""

import functools
import http.client
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from beam_gpte import Block, WriteRejects, WriteVectorsToDuckDB, WriteVectorsToParquet
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.folders import copied_here
from tests.files import objects

KILLED = 9
FILES = {"parquet": "vectors/*.parquet", "rejects": "rejects/*.jsonl"}
SINKS: dict[str, Callable[[str], beam.PTransform]] = {
    "parquet": lambda place: WriteVectorsToParquet(f"{place}/vectors", num_shards=1),
    "duckdb": lambda place: WriteVectorsToDuckDB(f"{place}/vectors.duckdb"),
    "rejects": lambda place: WriteRejects(f"{place}/rejects"),
}


def end_before(number: int) -> None:
    """End this process before it sends a request that changes something, the `number`-th."""
    send, left = http.client.HTTPConnection.putrequest, [number]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(KILLED)

    def counted(self: Any, method: str, *arguments: Any, **named: Any) -> None:
        if method not in ("GET", "HEAD"):
            count()
        send(self, method, *arguments, **named)

    http.client.HTTPConnection.putrequest = counted  # type: ignore[method-assign]
    objects.before_change = count


def until(plan: Callable[..., Callable], arguments: tuple, out: str, number: int) -> int:
    """Plan some work in a process, and do it until before a request; return the exit code.

    It is not a fork of this process, which has threads of Arrow's.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.commits.changes", "tests.files.killed_runs"])
    process = context.Process(target=_until, args=(plan, arguments, out, number))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _until(plan: Callable[..., Callable], arguments: tuple, out: str, number: int) -> None:
    check_bucket(out)
    planned = plan(*arguments)
    end_before(number)
    planned()
    os._exit(0)


def write(sink: beam.PTransform, name: str) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = [Block.from_pydict({"id": [i], "name": [name]}) for i in range(3)]
        _ = pipeline | beam.Create(rows).with_output_types(Block) | sink


def in_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own; return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def found(kind: str, place: str) -> list[str]:
    """Read the names of all rows as a user would."""
    if kind == "duckdb":
        with copied_here(f"{place}/vectors.duckdb") as path, duckdb.connect(path) as database:
            return [name for (name,) in database.execute("FROM vectors SELECT name").fetchall()]
    names: list[str] = []
    for file in FileSystems.match([f"{place}/{FILES[kind]}"])[0].metadata_list:
        with FileSystems.open(file.path) as stream:
            rows = pq.read_table(stream) if kind == "parquet" else pa.json.read_json(stream)
            names += rows["name"].to_pylist()
    return sorted(names)


def killed(sink: beam.PTransform, number: int) -> None:
    end_before(number)
    write(sink, "new")


def outcome(kind: str, place: str, number: int) -> tuple[int, dict[str, Any]]:
    """Write, be killed as it is replaced, and repeat that: the exit code, and what is there."""
    sink = SINKS[kind](place)
    assert in_child(functools.partial(write, sink, "old")) == 0
    code = in_child(functools.partial(killed, sink, number))
    after = found(kind, place)
    assert in_child(functools.partial(write, sink, "new")) == 0
    again, all_files = found(kind, place), FileSystems.match([f"{place}/**"])[0].metadata_list
    leftovers = [file.path for file in all_files if "tmp" in file.path]
    return code, {"kind": kind, "killed": after, "again": again, "leftovers": leftovers}


def main(url: str, step: int) -> None:
    for kind in SINKS:
        code, number = KILLED, 0
        while code == KILLED:
            code, shown = outcome(kind, f"{url}/kills/{kind}-{number}", number)
            print(json.dumps(shown), flush=True)
            number += step
        assert code == 0


if __name__ == "__main__":
    check_bucket(sys.argv[1])
    tempfile.tempdir = tempfile.mkdtemp()
    main(sys.argv[1], int((*sys.argv[2:], 1)[0]))
