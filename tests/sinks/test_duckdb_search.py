"""Test that `nearest_<table>` finds the nearest rows, whatever the columns are called."""

import dataclasses
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte.elements.block import Block
from tests.sinks.test_write_duckdb import commit, query
from tests.sinks.test_write_parquet import MINILM, embedded

PLANE = dataclasses.replace(MINILM, dim=2)


def vectors(values: list[list[float]], *names: str, **columns: pa.Array) -> Block:
    """Make rows with the ids 0, 1, ... and the same vectors in each of `names`."""
    flat = pa.array(np.array(values, np.float32).ravel())
    block = Block.from_pydict({"id": list(range(len(values))), **columns})
    for name in names:
        array = pa.FixedSizeListArray.from_arrays(flat, 2)
        block = block.with_column(PLANE.field(name), array)
    return block


@pytest.mark.parametrize(
    "name", ["embedding", "vector", "k", "query", "nearest_to", "nearest_row", "found", 'the "v"']
)
def test_the_column_of_vectors_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1], [1, 1]], name))
    found = query(path, "SELECT id, cosine FROM nearest_vectors([0, 2], k := 2)")
    assert found == [(1, 1.0), (2, pytest.approx(0.5**0.5))]


def test_other_columns_may_have_any_name(tmp_path: Path) -> None:
    names = ["vector", "k", "query", "nearest_to", "nearest_row", "distance", "rowid", "filename"]
    others = {name: pa.array([f"{name}{i}" for i in range(2)]) for name in names}
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1]], "embedding", **others))
    columns = ", ".join(f'"{name}"' for name in names)
    found = query(path, f"SELECT id, cosine, {columns} FROM nearest_vectors([0, 1])")
    assert found == [(i, float(i), *(f"{name}{i}" for name in names)) for i in (1, 0)]


def test_a_column_called_cosine_stays_and_ours_gets_another_name(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1]], "embedding", Cosine=pa.array([7.0, 8.0])))
    assert query(path, "SELECT id, cosine, cosine_ FROM nearest_vectors([0, 1])") == [
        (1, 8.0, 1.0),
        (0, 7.0, 0.0),
    ]


def test_a_vector_may_come_from_another_table_with_a_column_of_the_same_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1]], "embedding"))
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE asked AS SELECT id + 10 AS question, embedding FROM vectors"
        )
    lateral = "SELECT question, id FROM asked, nearest_vectors(embedding, k := 1) ORDER BY question"
    assert query(path, lateral) == [(10, 0), (11, 1)]


def test_rows_without_a_cosine_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[0, 0], [0, 1], [1, 1], [0, 0]], "embedding"))
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO vectors VALUES (8, NULL), (9, ['nan'::FLOAT, 1])")
    assert query(path, "SELECT id FROM nearest_vectors([1, 0], k := 1)") == [(2,)]
    assert query(path, "SELECT id FROM nearest_vectors([1, 0])") == [(2,), (1,)]
    assert query(path, "SELECT id FROM nearest_vectors([0, 0])") == []
    assert query(path, "SELECT id FROM nearest_vectors(NULL)") == []


def test_two_columns_of_vectors_have_a_macro_each(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1]], "vector", "k"))
    for name in ("vector", "k"):
        assert query(path, f"SELECT id FROM nearest_vectors_{name}([0, 1], k := 1)") == [(1,)]


def test_a_macro_of_another_table_is_not_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0], [0, 1]], "b", "c"), table="a")
    commit(path, vectors([[1, 0]], "embedding"), table="a_b")  # nearest_a_b is that of a's b
    assert "macro 'nearest_a_b' searches another table" in caplog.text
    assert len(query(path, "SELECT id FROM nearest_a_b([1, 0])")) == 2


def test_the_macro_of_a_dropped_table_goes_and_that_of_a_new_one_is_made_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, vectors([[1, 0]], "embedding"))
    commit(path, vectors([[1, 0]], "embedding"), table="other")
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE vectors; DROP TABLE other")
    commit(path, embedded(0, 2))  # of three dimensions
    assert query(path, "SELECT id FROM nearest_vectors([0, 1, 1], k := 1)") == [("n0",)]
    macros = "SELECT function_name FROM duckdb_functions() WHERE function_name LIKE 'nearest%'"
    assert query(path, macros) == [("nearest_vectors",)]
