"""A stream that is resumed reads its output with the models of the vectors, from either sink."""

from pathlib import Path

import pytest

from beam_gpte import WriteVectorsToDuckDB, WriteVectorsToParquet
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.sources.output_columns import parquet_batches, table_batches
from tests.sinks.test_write_parquet import MINILM, embedded, write


@pytest.mark.parametrize("sink", ["parquet", "duckdb"])
def test_vectors_come_back_with_their_model(tmp_path: Path, sink: str) -> None:
    if sink == "parquet":
        write([embedded(0, 2)], WriteVectorsToParquet(str(tmp_path)))
        [path] = tmp_path.glob("*.parquet")
        [batch] = parquet_batches(str(path), ["embedding", "id"])
    else:
        path = tmp_path / "a.duckdb"
        write([embedded(0, 2)], WriteVectorsToDuckDB(str(path)))
        [batch] = table_batches(str(path), ["embedding", "id"])
    assert vector_metadata(batch.schema.field("embedding")) == MINILM
    assert batch.to_pydict() == {
        "embedding": [[0, 0.5, 0.5], [1, 1.5, 1.5]],
        "id": ["n0", "n1"],
    }
