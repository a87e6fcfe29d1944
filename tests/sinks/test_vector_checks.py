"""Test that no sink writes vectors that are no numbers, or what nobody could read again."""

from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from tests.sinks.test_write_duckdb import query
from tests.sinks.test_write_parquet import ids, parts, stage, write

F2 = pa.list_(pa.float32(), 2)


def rows(vectors: list, kind: pa.DataType = F2, **columns: list) -> Block:
    values = pa.array(vectors, kind)
    return Block.from_pydict({"id": [f"n{i}" for i in range(len(vectors))], **columns, "v": values})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float16(), pa.float64()])
def test_vectors_that_are_not_finite_are_refused(
    tmp_path: Path, bad: float | None, kind: pa.DataType
) -> None:
    values = [None if x is None else np.float16(x) for x in (1.0, 2.0, 3.0, bad)]
    block = rows([values[:2], values[2:]], pa.list_(kind, 2))
    with pytest.raises(InputError, match="'v': the vector of the row with id 'n1' has a value"):
        stage(tmp_path, "test", [[block]])


@pytest.mark.parametrize("sink", [WriteVectorsToParquet, WriteVectorsToDuckDB])
def test_both_sinks_refuse_them_and_write_nothing(
    tmp_path: Path, sink: type[beam.PTransform]
) -> None:
    with pytest.raises(Exception, match="a value that is not finite"):
        write([rows([[1, 0], [np.nan, 1]])], sink(str(tmp_path / "out")))
    assert not (tmp_path / "out").is_file()
    assert not list(tmp_path.glob("out/*.parquet"))


def test_zero_vectors_and_numbers_that_are_no_vectors_are_written(tmp_path: Path) -> None:
    block = rows([[0, 0], [1, 0]], price=[np.nan, np.inf])
    write([block], WriteVectorsToParquet(str(tmp_path / "out")))
    write([block], WriteVectorsToDuckDB(str(tmp_path / "out.duckdb")))
    assert ids(tmp_path / "out") == ["n0", "n1"]
    assert query(tmp_path / "out.duckdb", "SELECT id FROM vectors WHERE isnan(price)") == [("n0",)]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([{"v": [1, 2]}, {"v": None}], pa.struct([("v", F2)]), "with nulls, which pyarrow could"),
        ([{"v": [1, 2]}, None], pa.struct([("v", F2)]), "with nulls, which pyarrow could"),
        ([[[1, 2], None], []], pa.list_(F2), "with nulls, which pyarrow could"),
        ([[], []], pa.list_(pa.float32(), 0), "vectors of no dimension"),
        ([2**62], pa.timestamp("s"), "Parquet cannot hold these rows"),
        ([None], pa.decimal128(5, -1), "Parquet cannot hold column '"),
        ([(1, 2, 3)], pa.month_day_nano_interval(), "Parquet cannot hold column '"),
    ],
)
def test_what_a_reader_could_not_read_is_refused(
    tmp_path: Path, values: list, kind: pa.DataType, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stage(tmp_path, "test", [[rows(values, kind)]])


def test_vectors_within_lists_are_written_where_none_is_null(tmp_path: Path) -> None:
    write([rows([[[1, 2], [3, 4]], [[5, 6]]], pa.list_(F2))], WriteVectorsToParquet(str(tmp_path)))
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT v FROM '{tmp_path}/*.parquet' ORDER BY id").fetchall()
    assert found == [([[1, 2], [3, 4]],), ([[5, 6]],)]


@pytest.mark.parametrize("empty", [[], [rows([])]])
def test_no_rows_leave_what_is_there_and_mirror_empties_it(
    tmp_path: Path, empty: list[Block], caplog: pytest.LogCaptureFixture
) -> None:
    folder, database = tmp_path / "out", tmp_path / "out.duckdb"
    for blocks in ([rows([[1, 0]])], empty):
        write(blocks, WriteVectorsToParquet(str(folder)))
        write(blocks, WriteVectorsToDuckDB(str(database), mode="replace"))
        assert ids(folder) == ["n0"]
        assert query(database, "SELECT id FROM vectors") == [("n0",)]
    assert caplog.text.count("no rows arrived, so what is there stays") == 2
    write(empty, WriteVectorsToParquet(str(folder), "mirror"))
    write(empty, WriteVectorsToDuckDB(str(database), mode="mirror"))
    assert parts(folder) == []
    assert query(database, "SELECT id FROM vectors") == []
