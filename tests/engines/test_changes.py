"""On every engine: a folder and a database are synced, rows are deleted, files put together."""

from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import (
    CompactVectors,
    DeleteVectors,
    ReplaceOptions,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import changes
from tests.embedding.edits import rows_of
from tests.engines.engine import Engine
from tests.sinks.test_write_parquet import embedded


def run(engine: Engine, *steps: Any) -> Any:
    pipeline = beam.Pipeline(options=PipelineOptions(engine.flags()))
    for i, step in enumerate(steps):
        step(pipeline, f"{i}")
    result = pipeline.run()
    assert result.wait_until_finish() == "DONE", engine.logs()
    return result


def test_a_folder_and_a_database_are_changed_in_place(engine: Engine, tmp_path: Path) -> None:
    out, database = tmp_path / "out", tmp_path / "out.duckdb"

    def sync(first: int, last: int, rejected: str) -> Any:
        def build(pipeline: beam.Pipeline, name: str) -> None:
            rejects = pipeline | f"Rejects{name}" >> beam.Create([{"id": rejected}])
            replacing = ReplaceOptions(rejects=rejects)
            middle = (first + last) // 2
            blocks = [embedded(first, middle), embedded(middle, last)]
            rows = pipeline | f"Rows{name}" >> beam.Create(blocks)
            rows | WriteVectorsToParquet(str(out), "sync", replacing=replacing)
            rows | WriteVectorsToDuckDB(str(database), mode="sync", replacing=replacing)

        return build

    run(engine, sync(0, 20, "n0"))
    result = run(engine, sync(5, 22, "n3"))
    wanted = {"added": 2, "changed": 0, "removed": 4, "unchanged": 15, "kept": 1}
    for sink in ("WriteVectorsToParquet", "WriteVectorsToDuckDB"):
        assert changes(result, sink) == wanted
    ids = sorted(["n3", *(f"n{i}" for i in range(5, 22))])
    assert [rows_of(place)["id"].to_list() for place in (out, database)] == [ids, ids]

    def delete(place: Path) -> Any:
        def build(pipeline: beam.Pipeline, name: str) -> None:
            gone = pipeline | f"Ids{name}" >> beam.Create(["n3", "n21"])
            gone | f"Delete{name}" >> DeleteVectors(str(place))

        return build

    run(engine, delete(out), delete(database))
    run(engine, lambda pipeline, _: pipeline | CompactVectors(str(out)))
    ids = sorted(f"n{i}" for i in range(5, 21))
    assert [rows_of(place)["id"].to_list() for place in (out, database)] == [ids, ids]
    assert len(list(out.glob("part-*"))) == 1
