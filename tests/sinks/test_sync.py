"""A sync makes a folder or a table hold exactly a collection, and touches nothing else."""

import dataclasses
import datetime
import decimal
import os
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import (
    Block,
    InputError,
    ReplaceOptions,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from tests.conftest import MODES
from tests.sinks.changes import (
    SINKS,
    Pipelines,
    append,
    changes,
    create,
    files,
    place,
    rows_of,
    stored,
    sync,
)
from tests.sinks.test_write_parquet import MINILM, embedded


@pytest.fixture(params=SINKS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, then a database."""
    return place(tmp_path, request.param)


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_added_changed_removed_and_left(
    path: str, new_pipeline: Pipelines, mode: str
) -> None:
    append(path, rows_of("ab"), rows_of("cd"), rows_of("ef"))
    wanted = [rows_of("ac"), rows_of("bg", 1), rows_of("ef")]
    found = sync(new_pipeline(mode), path, wanted)
    assert found == {"added": 1, "changed": 1, "removed": 1, "unchanged": 4}
    numbers = {name: row["n"] for name, row in stored(path).items()}
    assert numbers == {"a": 0, "b": 1, "c": 0, "e": 0, "f": 0, "g": 1}
    assert sync(new_pipeline(mode), path, wanted) == {"unchanged": 6}


def test_the_first_sync_adds_all_rows(path: str, new_pipeline: Pipelines) -> None:
    assert sync(new_pipeline(), path, [rows_of("ab"), rows_of("c")]) == {"added": 3}
    assert list(stored(path)) == ["a", "b", "c"]


def test_only_files_with_changes_are_written_again(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    append(path, rows_of("ab"), rows_of("cd"), rows_of("ef"))
    before = files(path)
    sync(new_pipeline(), path, [rows_of("abcde")])
    after = files(path)
    assert len(before.items() & after.items()) == 2
    assert sync(new_pipeline(), path, [rows_of("edcba")]) == {"unchanged": 5}
    assert files(path) == after


def test_foreign_files_and_folders_stay(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = Path(place(tmp_path, "parquet"))
    append(str(path), rows_of("ab"))
    (path / "notes.txt").write_text("mine")
    (path / "part-mine.txt").write_text("mine")
    append(str(path / "other"), rows_of("xy"))
    kept = {name: what for name, what in files(path).items() if "part-" not in name}
    below = files(path / "other")
    sync(new_pipeline(), str(path), [rows_of("c")])
    assert kept.items() <= files(path).items()
    assert files(path / "other") == below
    assert list(stored(str(path))) == ["c"]


def test_a_folder_behind_a_link_is_synced(tmp_path: Path, new_pipeline: Pipelines) -> None:
    append(place(tmp_path, "parquet"), rows_of("ab"))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert sync(new_pipeline(), str(tmp_path / "link"), [rows_of("b")])["removed"] == 1
    assert list(stored(place(tmp_path, "parquet"))) == ["b"]


def test_rows_move_between_partitions(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    by = {"partition_by": "lang"}

    def rows(ids: str, lang: str) -> Block:
        return rows_of(ids, lang=pa.array([lang] * len(ids)))

    append(path, rows("ab", "de"), rows("cd", "en"), **by)
    before = files(path)
    wanted = [rows("bcd", "en"), rows("a", "de")]
    found = sync(new_pipeline(), path, wanted, settings=by)
    assert found == {"changed": 1, "unchanged": 3}
    assert {name: row["lang"] for name, row in stored(path).items()} == {
        "a": "de",
        **dict.fromkeys("bcd", "en"),
    }
    assert len(before.items() & files(path).items()) == 1
    with pytest.raises(InputError, match="is partitioned by"):
        sync(new_pipeline(), path, [rows("a", "fr")], [{"id": "d"}])


def chunk(text: str, number: int, n: int = 0) -> dict:
    return {"id": f"{text}#{number}", "parent_id": text, "n": n}


def chunks(*rows: dict) -> Block:
    return Block(pa.RecordBatch.from_pylist(list(rows)))


def test_chunks_of_a_text_come_and_go(path: str, new_pipeline: Pipelines) -> None:
    append(path, chunks(chunk("a", 0), chunk("a", 1), chunk("a", 2), chunk("b", 0)))
    found = sync(new_pipeline(), path, [chunks(chunk("a", 0), chunk("a", 1, 7), chunk("c", 0))])
    assert found == {"added": 1, "changed": 1, "removed": 2, "unchanged": 1}
    assert sorted(stored(path)) == ["a#0", "a#1", "c#0"]


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_rejected_rows_keep_their_old_versions(
    path: str, new_pipeline: Pipelines, mode: str
) -> None:
    append(path, rows_of("abcd"))
    found = sync(new_pipeline(mode), path, [rows_of("a", 1)], [{"id": "b", "why": "empty"}])
    assert found == {"changed": 1, "removed": 2, "kept": 1}
    assert sorted(stored(path)) == ["a", "b"]


def test_a_reject_without_an_id_keeps_all(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("abc"))
    rejects: list[dict] = [{"file": "x.jsonl", "row": 7, "content": "{"}]
    found = sync(new_pipeline(), path, [rows_of("a", 1)], rejects)
    assert found == {"changed": 1, "kept": 2}
    null: list[dict] = [{"id": None, "why": "null id"}]
    assert sync(new_pipeline(), path, [rows_of("a", 1)], null) == {"unchanged": 1, "kept": 2}
    assert sync(new_pipeline(), path, [rows_of("a", 1)], []) == {"unchanged": 1, "removed": 2}


def test_a_rejected_text_keeps_its_chunks(path: str, new_pipeline: Pipelines) -> None:
    append(path, chunks(chunk("a", 0), chunk("a", 1), chunk("b", 0), chunk("b", 1)))
    found = sync(new_pipeline(), path, [chunks(chunk("b", 0))], [{"id": "a"}])
    assert found == {"unchanged": 1, "removed": 1, "kept": 2}
    assert sorted(stored(path)) == ["a#0", "a#1", "b#0"]


def test_a_text_that_is_there_and_was_rejected_once_is_as_it_is_there(
    path: str, new_pipeline: Pipelines
) -> None:
    append(path, chunks(chunk("a", 0), chunk("a", 1)))
    found = sync(new_pipeline(), path, [chunks(chunk("a", 0))], [{"id": "a"}])
    assert found == {"unchanged": 1, "removed": 1}


def test_an_id_that_comes_twice_is_refused(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"))
    with pytest.raises(InputError, match=r"'a' occurs (twice|2 times).*RejectDuplicateIds"):
        sync(new_pipeline(), path, [rows_of("a"), rows_of("a", 1)])
    assert {row["n"] for row in stored(path).values()} == {0}


def test_a_null_id_is_refused(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"))
    block = Block.from_pydict({"id": ["a", None], "n": [0, 0]})
    with pytest.raises(InputError, match="1 rows have no 'id'"):
        sync(new_pipeline(), path, [block])


def test_no_rows_change_nothing_unless_that_is_allowed(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"))
    assert sync(new_pipeline(), path, []) == {}
    assert sorted(stored(path)) == ["a", "b"]
    assert sync(new_pipeline(), path, [], [{"id": "b"}], allow_empty=True) == {
        "removed": 1,
        "kept": 1,
    }
    assert sync(new_pipeline(), path, [], allow_empty=True) == {"removed": 1}
    assert stored(path) == {}
    assert sync(new_pipeline(), path, [rows_of("a")]) == {"added": 1}


def test_another_model_is_refused_where_old_rows_stay(path: str, new_pipeline: Pipelines) -> None:
    append(path, embedded(0, 4))
    other = dataclasses.replace(MINILM, fingerprint="bbbb")
    with pytest.raises(InputError, match="fingerprint"):
        sync(new_pipeline(), path, [embedded(0, 2, other)], [{"id": "n3"}])
    assert len(stored(path)) == 4


def test_another_model_replaces_all_rows_of_a_folder(
    tmp_path: Path, new_pipeline: Pipelines
) -> None:
    path = place(tmp_path, "parquet")
    append(path, embedded(0, 4))
    other = dataclasses.replace(MINILM, fingerprint="bbbb")
    assert sync(new_pipeline(), path, [embedded(0, 4, other)]) == {"changed": 4}
    assert sync(new_pipeline(), path, [embedded(0, 4, other)]) == {"unchanged": 4}


def test_other_columns_are_refused_where_old_rows_stay(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("a"), rows_of("b"))
    more = rows_of("a", 1, extra=pa.array(["x"]))
    with pytest.raises(InputError, match="extra"):
        sync(new_pipeline(), path, [more], [{"id": "b"}])
    assert sorted(stored(path)) == ["a", "b"]


ODD_IDS = [
    "",
    " a",
    "a ",
    "A",
    "a",
    "a\n",
    "a\u0301",
    "á",
    "x" * 100_000,
    "\U0001f600",
    "\u202e",
    "null",
    "1",
    "01",
    "1.0",
    "'; DROP TABLE vectors; --",
    "a%",
]


def test_ids_are_compared_as_they_are(path: str, new_pipeline: Pipelines) -> None:
    block = Block.from_pydict({"id": ODD_IDS, "n": list(range(len(ODD_IDS)))})
    append(path, block)
    assert sync(new_pipeline(), path, [block]) == {"unchanged": len(ODD_IDS)}
    found = sync(new_pipeline(), path, [block.slice(1)], [{"id": "A "}])
    assert found == {"unchanged": len(ODD_IDS) - 1, "removed": 1}
    assert "" not in stored(path)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.int8()])
def test_ids_may_be_integers(path: str, new_pipeline: Pipelines, kind: pa.DataType) -> None:
    large = [1, 2, 127] if kind == pa.int8() else [1, 2, (1 << 63) - 1]
    block = Block.from_pydict({"id": pa.array(large, kind), "n": [0, 0, 0]})
    append(path, block)
    found = sync(new_pipeline(), path, [block.slice(1)], [{"id": "1"}, {"id": "3"}])
    assert found == {"unchanged": 2, "kept": 1}
    assert sync(new_pipeline(), path, [block.slice(1)]) == {"unchanged": 2, "removed": 1}


UTC = datetime.UTC
ONE_DAY = datetime.date(2024, 2, 29)
VALUES: dict[str, tuple[pa.DataType, Any, Any]] = {
    "bool": (pa.bool_(), True, False),
    "int8": (pa.int8(), -1, 1),
    "uint64": (pa.uint64(), (1 << 64) - 1, 0),
    "float16": (pa.float16(), np.float16(0.5), np.float16(0.25)),
    "float32": (pa.float32(), 0.1, 0.2),
    "float64": (pa.float64(), 0.1, 0.1 + 1e-15),
    "nan": (pa.float64(), float("nan"), 0.0),
    "infinity": (pa.float64(), float("inf"), float("-inf")),
    "decimal": (pa.decimal128(20, 5), decimal.Decimal("1.00000"), decimal.Decimal("1.00001")),
    "string": (pa.string(), "a", "b"),
    "empty string": (pa.string(), "", " "),
    "nul": (pa.string(), "a\0b", "a\0c"),
    "large string": (pa.large_string(), "a", "a "),
    "binary": (pa.binary(), b"\0\xff", b"\0\xfe"),
    "date": (pa.date32(), ONE_DAY, ONE_DAY + datetime.timedelta(1)),
    "time": (pa.time64("us"), datetime.time(1, 2, 3, 4), datetime.time(1, 2, 3, 5)),
    "timestamp": (
        pa.timestamp("us", "UTC"),
        datetime.datetime(2024, 1, 1, tzinfo=UTC),
        datetime.datetime(2024, 1, 1, 0, 0, 0, 1, UTC),
    ),
    "duration": (pa.duration("us"), datetime.timedelta(1), datetime.timedelta(1, 0, 1)),
    "list": (pa.list_(pa.int64()), [1, 2], [2, 1]),
    "empty list": (pa.list_(pa.int64()), [], [None]),
    "list of nulls": (pa.list_(pa.string()), [None], [None, None]),
    "list of a null list": (pa.list_(pa.list_(pa.int64())), [[], [1]], [None, [1]]),
    "struct of an empty list": (
        pa.struct([("a", pa.list_(pa.int64()))]),
        {"a": []},
        {"a": None},
    ),
    "list of a word for null": (pa.list_(pa.string()), ["NULL"], [None]),
    "list of a comma": (pa.list_(pa.string()), ["a, b"], ["a", "b"]),
    "list of strings": (pa.list_(pa.string()), ["ab", "c"], ["a", "bc"]),
    "list of lists": (pa.list_(pa.list_(pa.float32())), [[1.0], []], [[], [1.0]]),
    "struct": (
        pa.struct([("a", pa.string()), ("b", pa.int64())]),
        {"a": "x", "b": None},
        {"a": None, "b": None},
    ),
    "list of structs": (
        pa.list_(pa.struct([("a", pa.list_(pa.string()))])),
        [{"a": ["x", None]}],
        [{"a": ["x"]}],
    ),
    "map": (pa.map_(pa.string(), pa.int64()), [("a", 1)], [("a", 2)]),
    "vector": (pa.list_(pa.float32(), 2), [0.0, 1.0], [1.0, 0.0]),
    "half vector": (pa.list_(pa.float16(), 3), [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]),
    "codes": (pa.list_(pa.int8(), 5), [1, 2, 3, 4, -5], [1, 2, 3, 4, 5]),
}


@pytest.mark.sampled(24)
@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_any_type_is_the_same_or_another(
    path: str, new_pipeline: Pipelines, name: str
) -> None:
    """Rows: one that stays, one whose value changes, one that becomes null, one that was null."""
    kind, value, other = VALUES[name]
    null = value if pa.types.is_fixed_size_list(kind) else None  # each row has its vector

    def rows(*values: Any) -> Block:
        if kind == pa.float16():
            values = tuple(None if one is None else np.float16(one) for one in values)
        vectors = pa.types.is_fixed_size_list(kind)
        if vectors and kind.value_type == pa.float16():
            values = tuple(None if v is None else list(map(np.float16, v)) for v in values)
        return Block.from_pydict({"id": list("abcd"), "x": pa.array(values, kind)})

    first, second = rows(value, value, value, null), rows(value, other, null, value)
    append(path, first)
    assert sync(new_pipeline(), path, [first]) == {"unchanged": 4}
    found = sync(new_pipeline(), path, [second])
    assert found == (
        {"unchanged": 1, "changed": 3} if null is None else {"unchanged": 3, "changed": 1}
    )
    assert sync(new_pipeline(), path, [second]) == {"unchanged": 4}


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "binary"])
def test_vectors_are_compared_by_their_bits(path: str, new_pipeline: Pipelines, kind: str) -> None:
    metadata = dataclasses.replace(MINILM, dim=8, quantization=kind)
    stored_type = metadata.field("embedding").type

    def rows(second: list[int]) -> Block:
        vectors = [[0, 0, 0, 0, 0, 0, 0, 1], second]
        vectors = [vector[: stored_type.list_size] for vector in vectors]
        flat = np.array(vectors).ravel().astype(stored_type.value_type.to_pandas_dtype())
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), stored_type.list_size)
        schema = pa.schema([pa.field("id", pa.string()), metadata.field("embedding")])
        return Block(pa.record_batch([pa.array(["a", "b"]), column], schema=schema))

    append(path, rows([1, 2, 3, 4, 5, 6, 7, 8]))
    assert sync(new_pipeline(), path, [rows([1, 2, 3, 4, 5, 6, 7, 8])]) == {"unchanged": 2}
    found = sync(new_pipeline(), path, [rows([2, 1, 3, 4, 5, 6, 7, 8])])
    assert found == {"unchanged": 1, "changed": 1}


def test_a_string_in_a_dictionary_is_that_string(path: str, new_pipeline: Pipelines) -> None:
    plain = rows_of("ab", x=pa.array(["u", None]))
    encoded = rows_of("ab", x=pa.array(["u", None]).dictionary_encode())
    large = rows_of("ab", x=pa.array(["u", None], pa.large_string()))
    append(path, plain)
    assert sync(new_pipeline(), path, [encoded]) == {"unchanged": 2}
    assert sync(new_pipeline(), path, [large]) == {"unchanged": 2}


def test_a_column_of_nulls_is_of_any_type(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab", x=pa.array([None, None], pa.int64())))
    assert sync(new_pipeline(), path, [rows_of("ab", x=pa.nulls(2))]) == {"unchanged": 2}


def test_numbers_of_another_type_are_changed_rows_or_refused(
    tmp_path: Path, new_pipeline: Pipelines
) -> None:
    folder, database = place(tmp_path, "parquet"), place(tmp_path, "duckdb")
    whole = rows_of("ab", x=pa.array([1, 2]))  # a row in each file
    doubles = rows_of("ab", x=pa.array([1.0, 2.5]))
    for path in (folder, database):
        append(path, whole.slice(0, 1), whole.slice(1))
        with pytest.raises(InputError, match="'x' is "):
            sync(new_pipeline(), path, [doubles.slice(1)], [{"id": "a"}])
        assert sorted(row["x"] for row in stored(path).values()) == [1, 2]


def test_one_row_of_a_large_row_group_changes(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path, ids = place(tmp_path, "parquet"), [f"r{i}" for i in range(40_000)]
    block = Block.from_pydict({"id": ids, "n": list(range(40_000))})
    append(path, block)
    numbers = [*range(30_000), -1, *range(30_001, 40_000)]
    changed = Block.from_pydict({"id": ids, "n": numbers})
    assert sync(new_pipeline(), path, [changed]) == {"changed": 1, "unchanged": 39_999}
    assert stored(path)["r30000"]["n"] == -1


def test_a_sync_in_many_files_touches_few(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    append(path, rows_of("abcdefgh"))
    assert sync(new_pipeline(), path, [rows_of("abcdefghij")]) == {"added": 2, "unchanged": 8}
    assert sorted(pq.read_metadata(os.path.join(path, name)).num_rows for name in files(path)) == [
        2,
        8,
    ]


def test_what_a_sync_replaces_may_be_kept(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    append(path, rows_of("ab"), rows_of("cd"))
    sync(new_pipeline(), path, [rows_of("ab"), rows_of("c", 1)], keep_previous=True)
    kept = list(Path(path).glob(".beam-gpte-previous-*/part-*.kept"))
    assert [pq.read_table(file)["id"].to_pylist() for file in kept] == [["c", "d"]]
    sync(new_pipeline(), path, [rows_of("ab"), rows_of("c", 2)])
    assert not list(Path(path).glob(".beam-gpte-previous-*"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="omit run"):
        WriteVectorsToParquet("x", mode="sync", run="monday")
    with pytest.raises(InputError, match="id_column is None"):
        WriteVectorsToDuckDB("x.duckdb", mode="sync", id_column=None)
    with pytest.raises(InputError, match="keep_previous"):
        WriteVectorsToDuckDB("x.duckdb", replacing=ReplaceOptions(keep_previous=True))
    with pytest.raises(InputError, match="id_column is empty"):
        ReplaceOptions(id_column="")
    for sink in (WriteVectorsToParquet, WriteVectorsToDuckDB):
        with pytest.raises(InputError, match="allow_empty with mode replace: it is for mode sync"):
            sink("x", mode="replace", replacing=ReplaceOptions(allow_empty=True))
    with pytest.raises(InputError, match="keep_previous with mode append"):
        WriteVectorsToParquet("x", "append", replacing=ReplaceOptions(keep_previous=True))


def test_a_stream_is_not_synced(tmp_path: Path, new_pipeline: Pipelines) -> None:
    rows = create(new_pipeline(), [rows_of("a")]) | beam.WindowInto(beam.window.FixedWindows(1))
    for sink in SINKS:
        path = place(tmp_path, sink)
        with pytest.raises(InputError, match="cannot replace a whole"):
            _ = rows | sink >> SINKS[sink](path, mode="sync")


def test_two_syncs_of_one_pipeline_are_counted_apart(
    tmp_path: Path, new_pipeline: Pipelines
) -> None:
    p = new_pipeline()
    rows = create(p, [rows_of("ab")])
    for sink in SINKS:
        _ = rows | sink >> SINKS[sink](place(tmp_path, sink), mode="sync")
    assert changes(p) == {"added": 4}
