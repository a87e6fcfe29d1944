"""Make tables of rows that break what guesses, splits, escapes, rounds or compares by name."""

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

NUMBER = "n"  # an int64 column that names the row, whatever becomes of its id

PIECES = [
    *("", " ", "\t", "\n", "\r\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"),
    *("\x00", "\u200b", "\ufeff", "\u00ad", "\u202e", "\u0301", "e\u0301", "\u00e9", "\u212b"),
    *('"', '""', '"a"', "'", "`", ",", ";", "|", "\\", "\\n", "\\N", "%", "#", "{", "[", "*", "$1"),
    *(
        "007",
        "1",
        "-1",
        "1.0",
        "1e5",
        "1_000",
        "0x10",
        "+1",
        "9223372036854775808",
        "\u0663",
        "10\u00b2",
    ),
    *("NA", "N/A", "null", "NULL", "None", "nan", "inf", "true", "False", "yes", "-", "?"),
    *("2024-01-01", "12:00", "01/02/03", "2024-01-01T00:00:00Z", "P1D"),
    *(
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0627\u0644\u0633\u0644\u0627\u0645",
        "\u6771\u4eac",
        "\U0001f642",
        "\U0001f468\u200d\U0001f469",
        "A cat",
        "a CAT",
    ),
    *("__HIVE_DEFAULT_PARTITION__", "a=b", "../x", "<b>", "a" * 300),
]
TEXTS = st.one_of(
    st.sampled_from(PIECES),
    st.lists(st.sampled_from(PIECES), min_size=2, max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)

# Columns of the user's that tools know by name, or that have to be quoted.
NAMES = [
    *(
        "vector",
        "k",
        "score",
        "source",
        "language",
        "tokens",
        "query",
        "embedding.x",
        "duplicate_of",
    ),
    *("found_by", "parent_id", "source_id", "margin", "cosine", "row", "file", "content", "step"),
    *("a b", "a.b", 'a"b', "a'b", "a[0]", "[x]", "*", "a,b", "a\nb", "a\tb", "a/b", "a=b", "%41"),
    *("filename", "file_row_number", "rowid", "select", "order", "null", "true", "1", "_", "__x"),
    *(
        "item",
        "element",
        "key",
        "value",
        "key_value",
        "list",
        "\u00e9",
        "e\u0301",
        "\u00df",
        "\ufeffx",
    ),
]
# DuckDB may refuse these.
ODD = ["", "x\x00y", "Text", "ID", "Score", "LANGUAGE", "Vector", "K"]

_INTEGERS = {
    kind: st.integers(low, high)
    for bits in (8, 16, 32, 64)
    for kind, low, high in (
        (f"int{bits}", -(1 << bits - 1), (1 << bits - 1) - 1),
        (f"uint{bits}", 0, (1 << bits) - 1),
    )
}
_FLOATS = {"float": 32, "double": 64}
_DAYS = st.dates()
_TIMES = st.datetimes()
WORDS = st.one_of(TEXTS, st.sampled_from(["a", "b"]))

PLAIN: list[tuple[pa.DataType, st.SearchStrategy]] = [
    (pa.string(), TEXTS),
    (pa.bool_(), st.booleans()),
    *((pa.type_for_alias(kind), values) for kind, values in _INTEGERS.items()),
    *((pa.type_for_alias(kind), st.floats(width=w)) for kind, w in _FLOATS.items()),
]
IN_PARQUET: list[tuple[pa.DataType, st.SearchStrategy]] = [
    *PLAIN,
    (pa.large_string(), TEXTS),
    (pa.string_view(), TEXTS),
    (pa.dictionary(pa.int8(), pa.string()), WORDS),
    (pa.binary(), st.binary(max_size=4)),
    (pa.date32(), _DAYS),
    (pa.timestamp("us"), _TIMES),
    (
        pa.timestamp("ms", "UTC"),
        _TIMES.map(lambda t: t.replace(microsecond=0, tzinfo=datetime.UTC)),
    ),
    (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999))),
    (pa.decimal128(12, 2), st.decimals(-(10**9), 10**9, places=2)),
    (pa.decimal256(50, 3), st.decimals(-(10**30), 10**30, places=3)),
    (pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3)),
    (pa.list_(pa.float64()), st.lists(st.floats(), max_size=3)),
    (pa.list_(pa.list_(pa.int64())), st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2)),
    (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    (
        pa.struct([("a b", pa.string()), ("n", pa.uint64())]),
        st.fixed_dictionaries({"a b": st.none() | TEXTS, "n": st.none() | _INTEGERS["uint64"]}),
    ),
    (
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(st.sampled_from(PIECES), _INTEGERS["int64"], max_size=2).map(
            lambda d: list(d.items())
        ),
    ),
    (pa.null(), st.none()),
]
IN_JSON = [
    (pa.string(), TEXTS),
    (pa.bool_(), st.booleans()),
    (pa.int64(), _INTEGERS["int64"]),
    (pa.uint64(), _INTEGERS["uint64"]),
    (pa.float64(), st.floats()),
    (pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3)),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 9), max_size=3)),
    (
        pa.struct([("a b", pa.string()), ("n", pa.int64())]),
        st.fixed_dictionaries({"a b": TEXTS, "n": st.integers(0, 9)}),
    ),
    (pa.null(), st.none()),
]
AS_TEXT = [(pa.string(), TEXTS)]

IDS = [
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.int8(), _INTEGERS["int8"]),
    (pa.int64(), _INTEGERS["int64"]),
    (pa.uint64(), _INTEGERS["uint64"]),
    (pa.uint64(), st.integers((1 << 64) - 3, (1 << 64) - 1)),
]


@st.composite
def tables(
    draw: Callable,
    kinds: list[tuple[pa.DataType, st.SearchStrategy]],
    ids: list[tuple[pa.DataType, st.SearchStrategy]] = IDS,
    texts: st.SearchStrategy = TEXTS,
    names: list[str] = NAMES,
    max_rows: int = 12,
) -> pa.Table:
    """Draw a table of `NUMBER`, `id`, `text` and up to four columns of `kinds`, in any order."""
    rows = draw(st.sampled_from([max_rows, max_rows, max_rows, max_rows // 2, 2, 1, 0]))

    def column(values: st.SearchStrategy) -> list:
        mostly = st.one_of(*[values] * 5, st.none())
        return draw(st.lists(mostly, min_size=rows, max_size=rows))

    id_type, id_values = draw(st.sampled_from(ids))
    # a few distinct values, so that some repeat
    columns = {
        "id": pa.array(column(id_values), id_type),
        "text": pa.array(column(texts), pa.string()),
        NUMBER: pa.array(range(rows), pa.int64()),
    }
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=4)):
        kind, values = draw(st.sampled_from(kinds))
        columns[name] = _array(column(values), kind)
    order = draw(st.permutations(list(columns)))
    return pa.table({name: columns[name] for name in order})


def _array(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def rows_of(tables: list[pa.Table]) -> dict[int, dict[str, Any]]:
    """Return the rows by `NUMBER`, with values that are equal only if they are the same.

    Raises:
      AssertionError: a row is there twice.
    """
    found: dict[int, dict[str, Any]] = {}
    for table in tables:
        for row in table.to_pylist():
            number = int(row[NUMBER])
            assert number not in found, f"row {number} is there twice"
            found[number] = {name: exact(value) for name, value in row.items()}
    return found


def exact(value: Any) -> Any:
    """Return a value that tells 1, 1.0, True and "1" apart, and equals itself if it is NaN."""
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else repr(value)
    if isinstance(value, dict):
        return tuple((name, exact(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(exact(part) for part in value)
    if isinstance(value, decimal.Decimal):
        return "decimal", str(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return "instant", value.astimezone(datetime.UTC).isoformat()
    return type(value).__name__, value
