"""Share what tests of changed folders and tables need: rows, runs with their counters, states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_gpte import (
    Block,
    ReplaceOptions,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.sources.read_vectors import read_vectors

KINDS = ("added", "changed", "removed", "unchanged", "kept")
SINKS: dict[str, Any] = {"parquet": WriteVectorsToParquet, "duckdb": WriteVectorsToDuckDB}
Pipelines = Callable[..., beam.Pipeline]


def place(folder: Path, sink: str) -> str:
    """Name a place of a sink."""
    return str(folder / "out.duckdb" if sink == "duckdb" else folder / "out")


def sink_of(path: str) -> Any:
    """Return the sink of a place."""
    return SINKS["duckdb" if path.endswith(".duckdb") else "parquet"]


def rows_of(ids: str, n: int = 0, **columns: Any) -> Block:
    """Make a row per letter, with a number that is the same for all."""
    length = len(ids)
    return Block.from_pydict({"id": list(ids), "n": pa.array([n] * length), **columns})


def append(path: str, *blocks: Block, **settings: Any) -> None:
    """Write blocks, each by a run of its own."""
    mode = "append" if sink_of(path) is WriteVectorsToParquet else "insert"
    for block in blocks:
        with beam.Pipeline("FnApiRunner") as p:
            _ = create(p, [block]) | sink_of(path)(path, mode=mode, **settings)


def create(p: beam.Pipeline, blocks: list[Block], label: str = "Blocks") -> beam.PCollection:
    return p | label >> beam.Create(blocks, reshuffle=False).with_output_types(Block)


def sync(
    p: beam.Pipeline,
    path: str,
    blocks: list[Block],
    rejects: list[dict] | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, int]:
    """Sync a place with blocks; return what was counted, without zeros."""
    if rejects is not None:
        options["rejects"] = p | "Rejects" >> beam.Create(rejects)
    replacing = ReplaceOptions(**options)
    write = sink_of(path)(path, mode="sync", replacing=replacing, **(settings or {}))
    _ = create(p, blocks) | write
    return changes(p)


def changes(p: beam.Pipeline) -> dict[str, int]:
    """Run a pipeline, and return the counters of changes that are not 0."""
    result = p.run()
    result.wait_until_finish()
    found = counters(result)
    return {kind: found[f"rows_{kind}"] for kind in KINDS if found.get(f"rows_{kind}")}


def stored(path: str) -> dict[str, dict]:
    """Read all rows, by id."""
    rows = [row for block in read_vectors(path) for row in block.batch.to_pylist()]
    found = {str(row["id"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def files(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Every file that is not hidden, with what tells whether it is the same one."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(".kept")
    }
