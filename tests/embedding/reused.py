"""Make a run that a later one reuses, and look at it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte import Block, WriteVectorsToParquet
from beam_gpte.cli.runtime import counters


def run_blocks(
    pipeline: beam.Pipeline, blocks: Iterable[Block], out: Path, *steps: Any
) -> tuple[dict[str, int], pa.Table]:
    """Write what steps make of blocks; return the counters, and the rows sorted by id."""
    rows = pipeline | beam.Create(blocks).with_output_types(Block)
    for step in steps:
        rows = rows | step
    rows | WriteVectorsToParquet(str(out))
    result = pipeline.run()
    result.wait_until_finish()
    return counters(result), read(out)


def one_to_a_block(documents: dict[str, str]) -> list[Block]:
    """Make blocks of one document, so that the bits of a vector depend on its text alone."""
    return [Block.from_pydict({"id": [id_], "text": [documents[id_]]}) for id_ in documents]


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("*.parquet")))).sort_by("id")


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in folder.glob("*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


def reasons(count: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in count.items() if name.startswith("not reused")}
