"""What earlier versions wrote is read, and what a later one writes is refused in one line."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import (
    ApplyPostprocess,
    DeduplicateSemantic,
    EmbedText,
    InputError,
    ReadVectors,
    ReplaceOptions,
    SemanticOptions,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.core.dedup.space import Space
from beam_gpte.core.format_version import FORMAT
from beam_gpte.core.metadata import METADATA_KEY, VectorMetadata, vector_metadata
from beam_gpte.core.vectors.postprocess import Postprocess
from beam_gpte.sinks.duckdb_ledger import COMMENT, LEDGER
from beam_gpte.sinks.folders.roll_back import roll_back
from beam_gpte.sinks.runs.folder_state import current_sets, note_of
from beam_gpte.sources.read_vectors import read_vectors
from tests.embedding.resumable import expected
from tests.embedding.resumable import written as rows_in
from tests.examples import WordEncoder

VERSIONS = sorted((Path(__file__).parent / "formats").iterdir())
ROWS = [{"id": f"r{i}", "text": f"text {i} of {i % 3} kinds"} for i in range(6)]
LATER = f"format {FORMAT + 1} is of a later version of beam_gpte"

NewPipeline = Callable[..., beam.Pipeline]


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copy what a version wrote: `ROWS` with vectors of `WordEncoder`, by a run named monday."""
    shutil.copytree(request.param, tmp_path / "written")
    path = tmp_path / "written" / "vectors.duckdb"
    path.write_bytes(gzip.decompress(path.with_name("vectors.duckdb.gz").read_bytes()))
    return tmp_path / "written"


def write(pipeline: beam.Pipeline, written: Path, rows: list[dict], run: str) -> None:
    vectors = pipeline | beam.Create([pa.Table.from_pylist(rows)]) | EmbedText(WordEncoder())
    vectors | WriteVectorsToParquet(str(written / "folder"), mode="append", run=run)
    vectors | WriteVectorsToDuckDB(str(written / "vectors.duckdb"), run=run)


def test_folders_and_tables_are_added_to_and_their_runs_are_known(
    written: Path, new_pipeline: NewPipeline
) -> None:
    more = [{"id": "new", "text": "a text of its own"}]
    for rows, run in ((ROWS, "monday"), (more, "tuesday")):
        with new_pipeline() as pipeline:
            write(pipeline, written, rows, run)
    assert rows_in(written) == dict.fromkeys(("parquet", "duckdb"), expected(ROWS + more))


def test_vectors_are_read_with_their_model(written: Path, new_pipeline: NewPipeline) -> None:
    field = pq.read_schema(next((written / "folder").glob("*.parquet"))).field("embedding")
    metadata = vector_metadata(field)
    assert metadata is not None
    assert metadata.fingerprint == WordEncoder.fingerprint
    with new_pipeline() as pipeline:
        rows = pipeline | ReadVectors(str(written / "folder"))
        rows | WriteVectorsToParquet(str(written / "again"))
    assert pq.read_table(written / "again").num_rows == len(ROWS)


def test_a_saved_index_and_a_postprocess_are_used(
    written: Path, new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    index = (written / "saved_index.npz").read_bytes()
    postprocess = Postprocess.from_bytes((written / "postprocess.npz").read_bytes())
    with new_pipeline() as pipeline:
        vectors = pipeline | beam.Create([pa.Table.from_pylist(ROWS)]) | EmbedText(WordEncoder())
        step = DeduplicateSemantic(0.9, options=SemanticOptions(saved_index=index))
        kept, centered = (vectors | step).kept, vectors | ApplyPostprocess(postprocess)
        for name, rows in (("kept", kept), ("centered", centered)):
            rows | name >> WriteVectorsToParquet(str(tmp_path / name))
    assert 0 < pq.read_table(tmp_path / "kept").num_rows <= len(ROWS)
    found = np.stack(pq.read_table(tmp_path / "centered")["embedding"].to_numpy())
    assert abs(found.mean(0)).max() < 0.05  # of vectors of length 1, whose mean was taken away


def test_later_folders_and_tables_are_refused(written: Path, new_pipeline: NewPipeline) -> None:
    path = next((written / "folder").glob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.cast(later(table.schema)), path)
    with duckdb.connect(str(written / "vectors.duckdb")) as database:
        database.execute(f"COMMENT ON TABLE {LEDGER} IS '{COMMENT}{FORMAT + 1}'")
    pipelines = new_pipeline(), new_pipeline(), new_pipeline()
    vectors = [p | beam.Create([pa.Table.from_pylist(ROWS)]) for p in pipelines[:2]]
    embedded = [rows | EmbedText(WordEncoder()) for rows in vectors]
    embedded[0] | WriteVectorsToParquet(str(written / "folder"))
    embedded[1] | WriteVectorsToDuckDB(str(written / "vectors.duckdb"))
    pipelines[2] | ReadVectors(str(written / "folder"))
    for pipeline, what in zip(
        pipelines, ("the vectors", f"table {LEDGER}", "the vectors"), strict=True
    ):
        with pytest.raises(InputError, match=f"{what}: {LATER}"):
            pipeline.run()


def later(schema: pa.Schema) -> pa.Schema:
    field = schema.field("embedding")
    metadata = vector_metadata(field)
    assert metadata is not None
    about = dataclasses.replace(metadata, format=FORMAT + 1).to_json().encode()
    at = schema.get_field_index("embedding")
    return schema.set(at, field.with_metadata({METADATA_KEY: about})).remove_metadata()


def test_later_columns_of_a_table_are_refused(written: Path, new_pipeline: NewPipeline) -> None:
    metadata = VectorMetadata("words", "words-1", "", "", 8, normalized=False, format=FORMAT + 1)
    with duckdb.connect(str(written / "vectors.duckdb")) as database:
        database.execute(f"COMMENT ON COLUMN vectors.embedding IS '{metadata.to_json()}'")
    pipeline = new_pipeline()
    write(pipeline, written, ROWS, "tuesday")
    with pytest.raises(InputError, match=LATER):
        pipeline.run()


def test_later_indexes_and_postprocess_are_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space.from_bytes((written / "saved_index.npz").read_bytes())
    postprocess = Postprocess.from_bytes((written / "postprocess.npz").read_bytes())
    for module in ("beam_gpte.core.dedup.space", "beam_gpte.core.vectors.postprocess"):
        monkeypatch.setattr(f"{module}.FORMAT", FORMAT + 1)
    with pytest.raises(InputError, match=f"the saved index: {LATER}"):
        Space.from_bytes(space.to_bytes())
    with pytest.raises(InputError, match=LATER):
        Postprocess.from_bytes(postprocess.to_bytes())


def test_what_an_earlier_version_wrote_is_synced_compacted_and_rolled_back(
    written: Path, new_pipeline: NewPipeline
) -> None:
    folder = written / "folder"
    rows = [*ROWS[1:], {"id": "new", "text": "a text of its own"}]
    with new_pipeline("in memory") as pipeline:
        vectors = pipeline | beam.Create([pa.Table.from_pylist(rows)]) | EmbedText(WordEncoder())
        replacing = ReplaceOptions(keep_previous=True)
        vectors | WriteVectorsToParquet(str(folder), "sync", replacing=replacing)
        vectors | WriteVectorsToDuckDB(str(written / "vectors.duckdb"), mode="sync")
    assert rows_in(written) == dict.fromkeys(("parquet", "duckdb"), expected(rows))
    roll_back(str(folder))
    assert rows_in(written) == {"parquet": expected(ROWS), "duckdb": expected(rows)}


def test_a_later_note_of_what_was_replaced_is_refused(written: Path) -> None:
    folder = written / "folder"
    name = next(iter(current_sets(str(folder), "part", ".parquet")))
    (folder / note_of(name)).write_text(json.dumps({"format": FORMAT + 1, "gone": {}}))
    with pytest.raises(InputError, match=f"a note of what a run has replaced: {LATER}"):
        list(read_vectors(str(folder)))
