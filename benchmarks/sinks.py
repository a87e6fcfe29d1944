"""Compare the cost of the sinks with that of the libraries they use, in the same process.

    python benchmarks/sinks.py parquet [--rows 1000000] [--beam_rows 50000] [--rounds 3]
    python benchmarks/sinks.py duckdb [--rows 1000000] [--rounds 3]
    python benchmarks/sinks.py encodings [--rows 60000]
    python benchmarks/sinks.py sync [--rows 200000] [--rounds 3]

parquet: `WriteVectorsToParquet` in a pipeline against one `pyarrow.parquet.write_table` with the
same settings, and against Beam's `WriteToParquet` and `WriteToParquetBatched` on fewer rows.
duckdb: the commit of `WriteVectorsToDuckDB` (ids checked, table and ledger in one transaction)
against `INSERT ... SELECT` from the same Parquet files. encodings: sizes and times of the candidate
codecs. sync: a folder or table that is synced with the rows it has, and with other vectors for one
row in a hundred, against writing all rows again. Vectors are random of length 1, float32[384], with
an integer id; they come from a pool, block by block, so that no variant holds all of them.
"""

import argparse
import functools
import io
import itertools
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from timing import measure, print_ratios

from beam_gpte import Block, VectorMetadata, WriteVectorsToDuckDB, WriteVectorsToParquet
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.elements.block import ROWS_PER_BLOCK
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Destination
from beam_gpte.sinks.parquet_files import ParquetFileWriter
from beam_gpte.sinks.staging import ROW_GROUP_BYTES, STAGED, StagedFile
from beam_gpte.sinks.write_duckdb import commit_duckdb

DIM = 384
POOL_ROWS = 1 << 16  # 100 MB, more than a row group, so that no codec sees a row twice
ROWS_PER_SEED = 1 << 14
ROWS_PER_FILE = 1 << 18  # as staged for DuckDB
METADATA = VectorMetadata("random", "random", "mean", "", DIM, True)
SCHEMA = pa.schema([pa.field("id", pa.int64()), METADATA.field("embedding")])


@functools.cache
def pool() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((POOL_ROWS, DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def batches(first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Make rows first .. last - 1, in batches as large as a block."""
    for start in range(first, last, ROWS_PER_BLOCK):
        stop, place = min(start + ROWS_PER_BLOCK, last), start % POOL_ROWS
        vectors = pool()[place : place + stop - start]
        yield pa.record_batch([pa.array(np.arange(start, stop)), column(vectors)], schema=SCHEMA)


def blocks(seed: int, rows: int) -> Iterator[Block]:
    last = min((seed + 1) * ROWS_PER_SEED, rows)
    return map(Block, batches(seed * ROWS_PER_SEED, last))


def through_beam(folder: str, rows: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with beam.Pipeline("FnApiRunner") as p:
        seeds = p | beam.Create(range(-(-rows // ROWS_PER_SEED)), reshuffle=False)
        seeds | beam.FlatMap(blocks, rows).with_output_types(Block) | WriteVectorsToParquet(folder)


def bare_parquet(path: str, rows: int) -> None:
    """Write with the settings of `ParquetFileWriter` and its number of rows per row group."""
    table = pa.Table.from_batches(batches(0, rows))
    group = ROW_GROUP_BYTES // (table.nbytes // rows) // ROWS_PER_BLOCK * ROWS_PER_BLOCK
    floats = ["embedding.list.element"]
    pq.write_table(
        table, path, group, compression="zstd", use_dictionary=["id"], use_byte_stream_split=floats
    )


def beam_rows(folder: str, rows: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("embedding", pa.list_(pa.float32()))])
    with beam.Pipeline("FnApiRunner") as p:
        made = (
            p
            | beam.Create([rows])
            | beam.FlatMap(lambda n: (row for b in batches(0, n) for row in b.to_pylist()))
        )
        made | beam.io.WriteToParquet(f"{folder}/rows", schema, codec="zstd")


def beam_tables(folder: str, rows: int) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        made = (
            p
            | beam.Create([rows])
            | beam.FlatMap(lambda n: (pa.Table.from_batches([b]) for b in batches(0, n)))
        )
        made | beam.io.parquetio.WriteToParquetBatched(f"{folder}/tables", SCHEMA, codec="zstd")


def size(pattern: str) -> int:
    path = Path(pattern)
    return sum(file.stat().st_size for file in path.parent.glob(path.name))


def print_sizes(ours: str, bare: str) -> None:
    sizes = size(ours), size(bare)
    ratio = sizes[0] / sizes[1]
    print(f"size: {sizes[0] / 1e6:,.1f} MB and {sizes[1] / 1e6:,.1f} MB, ratio {ratio:.4f}\n")


def parquet(folder: str, rows: int, rows_in_beam: int, rounds: int) -> None:
    pool()
    ours, bare = "WriteVectorsToParquet", "pyarrow.parquet.write_table"
    variants = {
        bare: lambda: bare_parquet(f"{folder}/bare.parquet", rows),
        ours: lambda: through_beam(f"{folder}/ours", rows),
    }
    print(f"{rows:,} rows, {rounds} rounds")
    print_ratios(measure(variants, rounds), bare, rows)
    print_sizes(f"{folder}/ours/*.parquet", f"{folder}/bare.parquet")
    if rows_in_beam:
        tables, dicts = "tables of a block", "dictionaries with lists"
        variants = {
            ours: lambda: through_beam(f"{folder}/ours", rows_in_beam),
            f"Beam's WriteToParquetBatched, {tables}": lambda: beam_tables(folder, rows_in_beam),
            f"Beam's WriteToParquet, {dicts}": lambda: beam_rows(folder, rows_in_beam),
        }
        print(f"{rows_in_beam:,} rows, {rounds} rounds")
        print_ratios(measure(variants, rounds), ours, rows_in_beam)


def stage(destination: Destination, rows: int) -> list[StagedFile]:
    """Write the Parquet files that workers leave for the commit."""
    folder = Path(destination.temporary)
    folder.mkdir(parents=True)
    staged = []
    for first in range(0, rows, ROWS_PER_FILE):
        path, last = folder / f"{first}{STAGED}", min(first + ROWS_PER_FILE, rows)
        with path.open("wb") as stream:
            writer = ParquetFileWriter(stream, SCHEMA)
            writer.write_table(
                pa.Table.from_batches(batches(first, last)),
                row_group_size=ROW_GROUP_BYTES // (4 * DIM),
            )
            writer.close()
        staged.append(StagedFile(str(path), "", last - first, 0, SCHEMA.serialize().to_pybytes()))
    return staged


def bare_insert(path: Path, pattern: str) -> None:
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE TABLE vectors (id BIGINT, embedding FLOAT[{DIM}])")
        connection.execute(
            f"INSERT INTO vectors SELECT id, embedding::FLOAT[{DIM}] FROM read_parquet('{pattern}')"
        )


def load(folder: str, rows: int, rounds: int) -> None:
    destination = Destination.new(f"{folder}/staging", "duckdb-benchmark")
    staged = stage(destination, rows)
    ours, bare = "commit of WriteVectorsToDuckDB", "CREATE, INSERT ... SELECT"

    def commit() -> None:
        Path(folder, "ours.duckdb").unlink(missing_ok=True)
        links, run = links_to(staged, destination)
        commit_duckdb(links, WHOLE, run, Table(f"{folder}/ours.duckdb", "vectors", "id", "upsert"))

    pattern = f"{destination.temporary}/*{STAGED}"
    variants = {
        bare: lambda: bare_insert(Path(folder, "bare.duckdb"), pattern),
        ours: commit,
    }
    print(f"{rows:,} rows, {rounds} rounds")
    print_ratios(measure(variants, rounds), bare, rows)
    print_sizes(f"{folder}/ours.duckdb", f"{folder}/bare.duckdb")


def links_to(
    staged: list[StagedFile], destination: Destination
) -> tuple[list[StagedFile], Destination]:
    """Link the staged files as those of another run, since a commit removes the files it loads."""
    new = Destination.new(destination.folder, "duckdb-copy")
    Path(new.temporary).mkdir()
    links = []
    for file in staged:
        path = Path(new.temporary, Path(file.path).name)
        path.hardlink_to(file.path)
        links.append(StagedFile(str(path), file.partition, file.rows, file.nbytes, file.schema))
    return links, new


def encodings(rows: int) -> None:
    vectors = pool()[:rows]
    print(f"{'vectors':9}{'encoding':12}{'codec':8}{'of Arrow':>9}", end="")
    print(f"{'write s':>9}{'read s':>8}  DuckDB, Polars")
    for kind in ("float32", "float16", "int8", "binary"):
        table = pa.table({"v": column(vectors if kind == "float32" else quantize(vectors, kind))})
        for encoding, level in itertools.product(("plain", "dictionary", "split"), (None, 1, 3)):
            codec = "none" if level is None else f"zstd {level}"
            print(f"{kind:9}{encoding:12}{codec:8}{try_encoding(table, encoding, level)}")


def try_encoding(table: pa.Table, encoding: str, level: int | None) -> str:
    split = ["v.list.element"] if encoding == "split" else False
    options = {
        "use_dictionary": encoding == "dictionary",
        "use_byte_stream_split": split,
        "compression_level": level,
    }
    write, read = [], []
    for _ in range(3):
        stream = io.BytesIO()
        began = time.process_time()
        pq.write_table(table, stream, compression="zstd" if level else "none", **options)
        write.append(time.process_time() - began)
        stream.seek(0)
        began = time.process_time()
        pq.read_table(stream)
        read.append(time.process_time() - began)
    share = len(stream.getvalue()) / table.nbytes
    seconds = f"{statistics.median(write):9.2f}{statistics.median(read):8.2f}"
    return f"{share:9.3f}{seconds}  {readers(stream.getvalue(), table)}"


def readers(data: bytes, table: pa.Table) -> str:
    expected = table["v"][1].as_py()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "v.parquet")
        path.write_bytes(data)
        try:
            [(found,)] = duckdb.sql(f"SELECT v FROM '{path}' LIMIT 1 OFFSET 1").fetchall()
            by_duckdb = "ok" if found == expected else "wrong"
        except duckdb.Error:
            by_duckdb = "fails"
        by_polars = "ok" if pl.read_parquet(path)["v"][1].to_list() == expected else "wrong"
    return f"{by_duckdb}, {by_polars}"


def syncs(folder: str, rows: int, rounds: int) -> None:
    """Compare a sync with a replacement, in a folder and in a database."""
    for name, sink in (("folder", WriteVectorsToParquet), ("x.duckdb", WriteVectorsToDuckDB)):

        def run(mode: str, changed: int, path: str, sink: Any = sink) -> None:
            seeds = [*range(-(-rows // ROWS_PER_SEED))]
            with beam.Pipeline("FnApiRunner") as pipeline:
                seeded = pipeline | beam.Create(seeds)
                made = seeded | beam.FlatMap(versions, rows, changed).with_output_types(Block)
                made | sink(path, mode=mode)

        def at(path: str, mode: str, changed: int, run: Any = run) -> float:
            began = time.process_time()
            run(mode, changed, path)
            return time.process_time() - began

        seconds: dict[str, list[float]] = {"replace": [], "same": [], "changed": []}
        for number in range(rounds):
            path = f"{folder}/{number}-{name}"
            at(path, "replace", 0)
            seconds["replace"].append(at(path, "replace", 0))
            seconds["same"].append(at(path, "sync", 0))
            seconds["changed"].append(at(path, "sync", 1))
        medians = {what: statistics.median(some) for what, some in seconds.items()}
        print(f"{name}: replace {medians['replace']:.1f} CPU s", end="")
        for what in ("same", "changed"):
            print(f", sync {what} {medians[what] / medians['replace']:.2f}", end="")
        print()


def versions(seed: int, rows: int, changed: int) -> Iterator[Block]:
    """Make rows, of which one in a hundred has another vector in another version."""
    for block in blocks(seed, rows):
        ids = block.column("id").to_numpy()
        vectors = block.column("embedding")
        flat = vectors.flatten().to_numpy().reshape(len(block), DIM).copy()
        flat[ids % 100 == 0] *= 1 - 2 * changed
        yield block.with_column(block.schema.field("embedding"), column(flat))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["parquet", "duckdb", "encodings", "sync"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--beam_rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write (default: the temporary one)")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.what == "encodings":
            encodings(arguments.rows or 60_000)
        elif arguments.what == "sync":
            syncs(folder, arguments.rows or 200_000, arguments.rounds)
        elif arguments.what == "parquet":
            parquet(folder, arguments.rows or 1_000_000, arguments.beam_rows, arguments.rounds)
        else:
            load(folder, arguments.rows or 1_000_000, arguments.rounds)


if __name__ == "__main__":
    main()
