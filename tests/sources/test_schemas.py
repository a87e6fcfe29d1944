"""Files of differing columns become one corpus, in whatever order workers read them."""

import random

import pyarrow as pa
import pytest

from beam_gpte import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import common_type
from beam_gpte.sources.schemas import FileSchemas, conform, schema_to_ipc, unify_schemas

KINDS = [
    *(pa.null(), pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32()),
    *(pa.decimal128(5, 2), pa.decimal128(9, 0), pa.string(), pa.large_string(), pa.timestamp("s")),
    *(pa.timestamp("ns"), pa.list_(pa.int32()), pa.list_(pa.null()), pa.list_(pa.float32(), 2)),
    *(pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int64()), ("a", pa.int64())])),
]
NUMBERS = [
    kind
    for kind in KINDS
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
]

File = tuple[str, pa.Schema]


def of_all(files: list[File]) -> pa.Schema | None:
    """Unify the schemas of all files by path, one after the other; None if types do not."""
    kinds: dict[str, pa.DataType] = {}
    for _, schema in sorted(files, key=lambda file: file[0]):
        for field in schema:
            try:
                kinds[field.name] = common_type(kinds.get(field.name, field.type), field.type)
            except pa.ArrowException:
                return None
    return pa.schema(list(kinds.items()))


def in_bundles(files: list[File], chance: random.Random) -> list[tuple[str, bytes]]:
    """Collect the schemas of files as workers do: in any order and in bundles of any size."""
    files = chance.sample(files, len(files))
    bundles = [FileSchemas() for _ in range(chance.randint(1, 4))]
    for path, schema in files:
        chance.choice(bundles).add(path, schema_to_ipc(schema))
    collected = [file for bundle in bundles for file in bundle.files()]
    return chance.sample(collected, len(collected))


@pytest.mark.parametrize("kinds", [KINDS, NUMBERS])
def test_the_schema_is_that_of_all_files_by_path_however_they_are_collected(
    kinds: list[pa.DataType],
) -> None:
    chance = random.Random(0)
    fails = 0
    for _ in range(500):
        some = chance.sample(kinds, chance.randint(1, 4))
        names = [chance.sample(["x", "y", "z"], chance.randint(1, 3)) for _ in range(3)]
        files = [
            (f"{i:02}", pa.schema([(name, chance.choice(some)) for name in chance.choice(names)]))
            for i in range(chance.randint(1, 12))
        ]
        expected = of_all(files)
        if expected is None:
            fails += 1
            with pytest.raises(InputError, match=r"in the first files and .* in \d\d; convert one"):
                unify_schemas(in_bundles(files, chance))
        else:
            found = unify_schemas(in_bundles(files, chance))
            assert found.equals(expected, check_metadata=True), (files, found)
    assert (fails > 0) == (kinds is KINDS)


def test_a_hundred_thousand_files_of_two_kinds_have_four_schemas() -> None:
    one, two = (schema_to_ipc(pa.schema([(name, pa.string())])) for name in "ab")
    schemas = FileSchemas()
    for i in range(100_000):
        schemas.add(f"{i * 7919 % 100_000:05}", one if i % 2 else two)
    assert schemas.files() == [
        ("00000", two),
        ("00001", one),
        ("99998", two),
        ("99999", one),
    ]


def test_the_file_that_does_not_fit_is_the_first_such_by_path() -> None:
    kinds = {"a": pa.int64(), "b": pa.null(), "c": pa.string(), "d": pa.int8(), "e": pa.string()}
    files = [(path, schema_to_ipc(pa.schema([("x", kind)]))) for path, kind in kinds.items()]
    for order in (files, files[::-1]):
        with pytest.raises(InputError, match="'x' is int64 in the first files and string in c;"):
            unify_schemas(order)


def test_no_file_has_no_columns() -> None:
    assert unify_schemas([]) == pa.schema([])


def test_rows_are_cast_and_columns_that_they_lack_are_null() -> None:
    target = pa.schema([("n", pa.float64()), ("text", pa.string())])
    rows = Block.from_pydict({"n": pa.array([1, None], pa.int8())})
    expected = Block.from_pydict({"n": [1.0, None], "text": [None, None]}, target)
    assert conform(rows, target) == expected
    assert conform(expected, target) is expected
