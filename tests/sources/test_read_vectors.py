"""Read back what was written: rows, vectors and the metadata of vectors."""

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import ReadVectors
from beam_gpte.cli.programs.vector_report import describe_vectors
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_fields
from beam_gpte.elements.block import Block
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sources.read_vectors import read_vectors
from tests.sinks.test_readers import METADATA, codes
from tests.sinks.test_write_parquet import MINILM, commit, embedded, stage, write


@pytest.fixture
def everything() -> Block:
    """Make a vector of each kind, and a user's columns with nulls."""
    fields = [
        pa.field("id", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("language", pa.string()),
    ]
    rows = len(codes("int8"))
    arrays = [
        pa.array(range(rows)),
        pa.array([None if i % 3 == 0 else f"text {i}" for i in range(rows)]),
        pa.array([("de", "en", None)[i % 3] for i in range(rows)]),
    ]
    for kind, metadata in METADATA.items():
        fields.append(metadata.field(kind))
        arrays.append(
            pa.FixedSizeListArray.from_arrays(pa.array(codes(kind).ravel()), codes(kind).shape[1])
        )
    return Block(pa.record_batch(arrays, schema=pa.schema(fields)))


def together(blocks: Iterator[Block] | list[Block]) -> pa.Table:
    return pa.Table.from_batches([block.batch for block in blocks]).sort_by("id")


@pytest.mark.parametrize("sink", ["parquet", "partitions", "duckdb"])
def test_blocks_come_back_with_their_types_and_metadata(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline], everything: Block, sink: str
) -> None:
    path = str(tmp_path / "vectors") + (".duckdb" if sink == "duckdb" else "")
    columns = "language" if sink == "partitions" else ()
    write_ = (
        WriteVectorsToDuckDB(path)
        if sink == "duckdb"
        else WriteVectorsToParquet(path, partition_by=columns)
    )
    write([everything.slice(0, 20), everything.slice(20)], write_)

    def check(blocks: list[Block]) -> None:
        assert max(map(len, blocks)) <= 8
        found = together(blocks).select(everything.schema.names)
        assert found.schema.equals(everything.schema, check_metadata=True)
        assert found.equals(pa.Table.from_batches([everything.batch]))

    with new_pipeline() as p:
        assert_that(p | ReadVectors(path, rows_per_block=8), check)


def test_vectors_that_were_read_can_be_written_again(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline], everything: Block
) -> None:
    write([everything], WriteVectorsToDuckDB(str(tmp_path / "a.duckdb")))
    with new_pipeline("two processes") as p:
        blocks = p | ReadVectors(str(tmp_path / "a.duckdb"))
        blocks | WriteVectorsToParquet(str(tmp_path / "b"))
    assert together(read_vectors(str(tmp_path / "b"))).equals(
        pa.Table.from_batches([everything.batch])
    )
    # appending works: they are of one kind
    write([everything], WriteVectorsToParquet(str(tmp_path / "b"), mode="append"))


def test_a_set_that_is_incomplete_is_not_read(tmp_path: Path) -> None:
    commit(*stage(tmp_path, "parquet", [[embedded(0, 2)]]), mode="append")
    staged, destination = stage(tmp_path, "parquet", [[embedded(2, 3)], [embedded(3, 4)]])
    name = destination.set_name("part", Pane("w", 0), [file.path for file in staged])
    Path(staged[0].path).rename(tmp_path / f"{name}-00000-of-00002.parquet")  # killed here
    assert together(read_vectors(str(tmp_path)))["id"].to_pylist() == ["n0", "n1"]
    for pattern in ("*.parquet", "**/*.parquet", "**"):
        assert together(read_vectors(f"{tmp_path}/{pattern}"))["id"].to_pylist() == ["n0", "n1"]
    with pytest.raises(InputError, match="00000-of-00002.parquet: 1 files are of incomplete sets"):
        list(read_vectors(f"{tmp_path}/{name}-00000-of-00002.parquet"))


FOLDERS = pa.table(
    {
        "id": [0, 1, 2, 3],
        "zip": ["01", "02", None, "02"],
        "year": ["2024", "2025", "2024", "-1"],
        "word": pa.array(["__HIVE_DEFAULT_PARTITION__", "", None, "a/b=c%41"], pa.large_string()),
        "count": pa.array([2024, None, -5, 0], pa.int32()),
        "hash": pa.array([2**64 - 1, 5, None, 2**63], pa.uint64()),
        ".hidden": ["..", ".", " ", "_"],
        "none": pa.array([None] * 4, pa.string()),
    }
)


@pytest.mark.parametrize(
    "columns", [[name] for name in FOLDERS.column_names[1:]] + [["zip", "hash", "word"]]
)
def test_values_of_folders_come_back_in_the_type_they_had(
    tmp_path: Path, columns: list[str]
) -> None:
    blocks = [Block.from_table(FOLDERS.slice(i, 1)) for i in range(4)]
    write(blocks, WriteVectorsToParquet(str(tmp_path), partition_by=columns))
    assert together(read_vectors(str(tmp_path))).select(FOLDERS.column_names).equals(FOLDERS)
    # whatever path is named
    stars = "/".join("*" * len(columns))
    if columns != [".hidden"]:  # DuckDB's and Polars' globs, too, leave it out
        glob = f"{tmp_path}/{stars}/*.parquet"
        assert together(read_vectors(glob)).select(FOLDERS.column_names).equals(FOLDERS)
    files = [str(path) for path in tmp_path.rglob("part-*.parquet")]
    one_by_one = [block for path in files for block in read_vectors(path)]
    assert together(one_by_one).select(FOLDERS.column_names).equals(FOLDERS)


def test_types_of_folders_are_those_that_all_blocks_fit(tmp_path: Path) -> None:
    blocks = [
        Block.from_pydict({"id": [i], "n": pa.array([i], kind)})
        for i, kind in enumerate((pa.int8(), pa.int64(), pa.int32()))
    ]
    write(blocks, WriteVectorsToParquet(str(tmp_path), partition_by="n"))
    assert together(read_vectors(str(tmp_path)))["n"].combine_chunks() == pa.array([0, 1, 2])
    words = Block.from_pydict({"id": [3], "n": ["3"]})
    with pytest.raises(
        InputError,
        match="column 'n' is int64 in some rows and string in others|"
        "column 'n' is string in some rows and int64 in others",
    ):
        write([*blocks, words], WriteVectorsToParquet(str(tmp_path / "b"), partition_by="n"))
    with pytest.raises(InputError, match=r"column 'n' is int64 in .*n=0/part-.* and string in the"):
        write([words], WriteVectorsToParquet(str(tmp_path), mode="append", partition_by="n"))
    more = Block.from_pydict({"id": [9], "n": [9]})
    write([more], WriteVectorsToParquet(str(tmp_path), mode="append", partition_by="n"))
    assert together(read_vectors(str(tmp_path)))["n"].to_pylist() == [0, 1, 2, 9]


def test_folders_of_others_are_strings_and_their_files_come_first(tmp_path: Path) -> None:
    for year in ("2024", "2025"):
        folder = tmp_path / f"year={year}" / "lang=de"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [int(year)], "lang": ["de-CH"]}), folder / "a.parquet")
    assert together(read_vectors(str(tmp_path))).to_pylist() == [
        {"id": 2024, "lang": "de-CH", "year": "2024"},
        {"id": 2025, "lang": "de-CH", "year": "2025"},
    ]


def test_a_file_that_was_moved_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    write(
        [Block.from_table(FOLDERS)], WriteVectorsToParquet(str(tmp_path / "a"), partition_by="zip")
    )
    one = next((tmp_path / "a" / "zip=01").iterdir())
    one.rename(tmp_path / "moved.parquet")
    with pytest.raises(
        InputError, match="moved.parquet: the values of 'zip' were the names of its"
    ):
        list(read_vectors(str(tmp_path / "moved.parquet")))


def test_a_value_too_long_for_a_folder_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    block = Block.from_pydict({"id": [1], "word": ["\u00e9" * 42]})
    with pytest.raises(
        InputError, match=r"word '\u00e9+'... makes the name of a folder longer than 255"
    ):
        write([block], WriteVectorsToParquet(str(tmp_path), partition_by="word"))
    assert list(tmp_path.rglob("part-*")) == []


def test_rows_that_a_person_inserted_without_a_vector_stay_null(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    write([embedded(0, 1)], WriteVectorsToDuckDB(str(path)))
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO vectors VALUES ('by hand', NULL)")
    found = together(read_vectors(str(path)))
    assert found.to_pydict() == {"id": ["by hand", "n0"], "embedding": [None, [0, 0.5, 0.5]]}
    assert vector_fields(found.schema) == {"embedding": MINILM}
    assert describe_vectors(read_vectors(str(path)))["nulls"] == {"embedding": 1}


def test_anything_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError,
        match=r"no file matches '.*empty/\*.parquet'; "
        r"check the path \(a DuckDB file ends in .duckdb",
    ):
        list(read_vectors(str(tmp_path / "empty")))
    with pytest.raises(InputError, match=r"none.duckdb: there is no such file"):
        list(read_vectors(str(tmp_path / "none.duckdb")))
    write([embedded(0, 1)], WriteVectorsToDuckDB(str(tmp_path / "a.duckdb"), table="mine"))
    with pytest.raises(InputError, match="no table 'vectors'; it has beam_gpte_commits, mine"):
        list(read_vectors(str(tmp_path / "a.duckdb")))
    other = dataclasses.replace(MINILM, fingerprint="bbbb")
    for name, block in (("a", embedded(0, 1)), ("b", embedded(1, 2, other))):
        pq.write_table(pa.Table.from_batches([block.batch]), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="fingerprints aaaa and bbbb"):
        list(read_vectors(str(tmp_path)))
    with pytest.raises(InputError, match="path is empty"):
        ReadVectors("")


def test_a_survey_counts_what_a_person_can_count() -> None:
    vectors = np.array(
        [[1, 0], [0, 1], [1, 0], [0, 0], [np.nan, 1], [0.6, 0.8], [3, 4]], np.float32
    )
    metadata = dataclasses.replace(MINILM, dim=2)
    arrays = [
        pa.array(["a", "b", "c", "d", "e", "a", None]),
        pa.FixedSizeListArray.from_arrays(vectors.ravel(), 2),
        pa.array([1, None, None, 4, 5, 6, 7]),
    ]
    fields = [pa.field("id", pa.string()), metadata.field("embedding"), pa.field("n", pa.int64())]
    block = Block(pa.record_batch(arrays, schema=pa.schema(fields)))
    found = describe_vectors([block.slice(0, 3), block.slice(3)])
    assert (found["rows"], found["repeated_ids"], found["nulls"]) == (7, 1, {"id": 1, "n": 2})
    seen = found["vectors"]["embedding"]
    assert (seen["model"], seen["dim"], seen["fingerprint"]) == ("minilm", 2, "aaaa")
    # lengths 1, 1, 1, 0, nan, 1, 5: two are not 1, and c equals a
    assert seen["norms"] == pytest.approx({"min": 0, "mean": 9 / 6, "max": 5})
    assert (
        seen["zeros"],
        seen["not_finite"],
        seen["not_of_length_1"],
        seen["duplicates"],
        seen["nulls"],
    ) == (1, 1, 2, 1, 0)
    assert json.loads(json.dumps(found)) == found


def test_files_of_a_person_have_strings_of_any_type(tmp_path: Path) -> None:
    words = pa.array(["de", "fr"]).dictionary_encode()
    columns = [
        pa.array(["a", None], pa.string_view()),
        pa.DictionaryArray.from_arrays(words.indices.cast(pa.uint32()), words.dictionary),
        pa.array(["x", "y"], pa.large_string()),
    ]
    hashes = pa.array([2**64 - 1, 5], pa.uint64())
    for i, column in enumerate(columns):
        table = pa.table({"id": hashes, "lang": column})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    blocks = list(read_vectors(str(tmp_path)))
    assert len({block.schema for block in blocks}) == 1
    found = [value for block in blocks for value in block.column("lang").to_pylist()]
    assert found == ["a", None, "de", "fr", "x", "y"]
    assert blocks[0].column("id").to_pylist() == [2**64 - 1, 5]


def test_a_value_that_the_common_type_cannot_hold_names_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "n": [2**53 + 1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["b"], "n": [1.5]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: column 'n' cannot be double in all files"):
        list(read_vectors(str(tmp_path)))


def test_columns_and_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    fields = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    for table, message in (
        (twice, r"a\.parquet: column 'n' is there 2 times; rename one"),
        (
            pa.table({"s": fields}),
            r"a\.parquet: column 's': field 'a' is there 2 times; rename one",
        ),
    ):
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(InputError, match=message):
            list(read_vectors(str(tmp_path)))
    with pytest.raises(InputError, match="column 's': field 'a' is there 2 times"):
        write([Block.from_pydict({"s": fields})], WriteVectorsToParquet(str(tmp_path / "b")))


def test_intervals_are_durations_unless_one_has_months(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    spans = pa.array([-7, None, 10**15], pa.duration("us"))
    block = Block.from_pydict({"id": [1, 2, 3], "a": spans, "b": spans})
    write([block], WriteVectorsToDuckDB(str(path)))
    assert together(read_vectors(str(path))).equals(pa.Table.from_batches([block.batch]))
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO vectors VALUES (4, INTERVAL 1 MONTH, INTERVAL 1 DAY)")
    found = together(read_vectors(str(path)))
    assert found["a"].to_pylist()[3].months == 1
    assert found["b"].to_pylist()[3] == datetime.timedelta(days=1)
