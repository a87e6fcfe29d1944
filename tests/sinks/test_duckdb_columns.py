"""Test that DuckDB keeps every value of every Arrow type, or that the column is refused."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from tests.sinks.test_write_duckdb import commit, query

MOMENT = datetime.datetime(2026, 11, 28, 7, 8, 9, 123456)
SUMMER = MOMENT.replace(tzinfo=datetime.UTC)
BIG = decimal.Decimal(10**37 + 1)
KEPT: dict[str, tuple[pa.Array, str, list]] = {
    "bool": (pa.array([True, None]), "BOOLEAN", [True, None]),
    "uint8": (pa.array([255], pa.uint8()), "UTINYINT", [255]),
    "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), "UBIGINT", [2**64 - 1, 0]),
    "int64": (pa.array([-(2**63)]), "BIGINT", [-(2**63)]),
    "string_view": (pa.array(["a", ""], pa.string_view()), "VARCHAR", ["a", ""]),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), "VARCHAR", ["a", None]),
    "digits": (pa.array(["007"]), "VARCHAR", ["007"]),
    "binary": (pa.array([b"\xff\x00"], pa.large_binary()), "BLOB", [b"\xff\x00"]),
    "date": (pa.array([MOMENT.date()]), "DATE", [MOMENT.date()]),
    "timestamp": (pa.array([MOMENT]), "TIMESTAMP", [MOMENT]),
    "decimal": (pa.array([BIG], pa.decimal128(38, 0)), "DECIMAL(38,0)", [BIG]),
    "small decimal": (
        pa.array([decimal.Decimal("1.5")], pa.decimal256(10, 1)),
        "DECIMAL(10,1)",
        [decimal.Decimal("1.5")],
    ),
    "list": (pa.array([[1, None], None]), "BIGINT[]", [[1, None], None]),
    "struct": (pa.array([{"a": 1}]), "STRUCT(a BIGINT)", [{"a": 1}]),
    "map": (
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "MAP(VARCHAR, BIGINT)",
        [{"a": 1}],
    ),
    **{
        f"duration[{unit}]": (
            pa.array([-7, None], pa.duration(unit)),
            "INTERVAL",
            [datetime.timedelta(microseconds=-7 * micros), None],
        )
        for unit, micros in (("s", 10**6), ("ms", 1000), ("us", 1))
    },
}
REFUSED: dict[str, pa.Array] = {
    "decimal256": pa.array([decimal.Decimal(10**50)], pa.decimal256(60, 0)),
    "duration[ns]": pa.array([1], pa.duration("ns")),
    "durations in a list": pa.array([[datetime.timedelta(1)]]),
    "decimals in a struct": pa.array(
        [{"a": decimal.Decimal(1)}], pa.struct([("a", pa.decimal256(60, 0))])
    ),
    "fields that differ in case": pa.array([{"a": 1, "A": 2}]),
}


def of(values: pa.Array) -> Block:
    return Block.from_pydict({"id": list(range(len(values))), "c": values})


@pytest.mark.parametrize("name", KEPT)
def test_values_are_kept_with_their_type(tmp_path: Path, name: str) -> None:
    values, kind, expected = KEPT[name]
    path = tmp_path / "corpus.duckdb"
    for _ in range(2):  # the second time into the table that the first has made
        commit(path, of(values))
    assert query(path, "SELECT typeof(c), c FROM vectors ORDER BY id") == [
        (kind, value) for value in expected
    ]


def test_a_moment_with_a_zone_stays_the_same_moment(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, of(pa.array([SUMMER], pa.timestamp("us", "Asia/Tokyo"))))
    [[kind, micros]] = query(path, "SELECT typeof(c), epoch_us(c) FROM vectors")
    assert (kind, micros) == ("TIMESTAMP WITH TIME ZONE", int(SUMMER.timestamp()) * 10**6 + 123456)


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_would_change_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "corpus.duckdb"
    with pytest.raises(InputError, match="column 'c' is .*, which DuckDB would store as") as caught:
        commit(path, of(REFUSED[name]))
    assert "\n" not in str(caught.value)
    assert query(path, "SELECT count(*) FROM duckdb_tables()") == [(0,)]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"x\0y": [1]}, r"'x\\x00y' has a NUL character, at which DuckDB ends names; rename it"),
        ({"c": [{"x\0y": 1}]}, "column 'c' has a field with a NUL character in its name"),
    ],
)
def test_a_name_that_duckdb_would_cut_is_refused(tmp_path: Path, block: dict, message: str) -> None:
    path = tmp_path / "corpus.duckdb"
    with pytest.raises(InputError, match=message):
        commit(path, Block.from_pydict({"id": [1], **block}))
    assert query(path, "SELECT count(*) FROM duckdb_tables()") == [(0,)]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1, 2]),
        pa.array([2**63, 2**64 - 1], pa.uint64()),
        pa.array(["02", "1"]),
        pa.array([b"a", b"\xff"]),
        pa.array([1, 2], pa.duration("s")),
    ],
)
def test_ids_keep_their_type_and_are_found_again(tmp_path: Path, ids: pa.Array) -> None:
    path = tmp_path / "corpus.duckdb"
    for note in ("old", "new"):
        commit(path, Block.from_pydict({"id": ids, "note": [note] * 2}))
    assert query(path, "SELECT id, note FROM vectors ORDER BY id") == [
        (i, "new") for i in ids.to_pylist()
    ]


@pytest.mark.parametrize("folder", ["lang=de", "year=2024", "a=b/id=c", "part[1]", "x*", "~"])
def test_a_folder_gives_no_column_and_is_no_pattern(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    path = Path(folder, "corpus.duckdb")
    rows = Block.from_pydict({"id": ["a", "b"], "lang": ["de", "en"], "filename": ["f", "g"]})
    commit(path, rows)
    everything = "SELECT * FROM vectors ORDER BY id"
    assert query(path.absolute(), everything) == [("a", "de", "f"), ("b", "en", "g")]


@pytest.mark.parametrize("name", ["what?/corpus.duckdb", "back\\slash.duckdb"])
def test_a_path_that_duckdb_takes_for_another_is_refused_at_once(name: str) -> None:
    with pytest.raises(InputError, match="DuckDB opens another file for a path with"):
        WriteVectorsToDuckDB(name)
