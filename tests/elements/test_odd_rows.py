"""One bad value costs one row: the others of its block go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

import beam_gpte as bg
from beam_gpte import Block
from tests.examples import WordEncoder, keep, kept


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"reply": [value]}
    return value


ODD: dict[str, Callable[[], Any]] = {
    "nested 70 deep": lambda: nested(35),
    "nested 700 deep": lambda: nested(350),
    "a large integer": lambda: 2**70,
    "an object": lambda: complex(1, 2),
}


def odd_rows(_: Any, odd: str, column: str) -> list[dict[str, Any]]:
    rows = [{"id": "1", "text": "one", "key": "x", "other": 1, column: ODD[odd]()}]
    return [*rows, {"id": "2", "text": "two", "key": "y", "other": 2}]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("column", ["id", "text", "key", "other"])
def test_an_odd_value_of_a_row_costs_at_most_its_row(odd: str, column: str, tmp_path: Path) -> None:
    step: Any = bg.IdentifyLanguage()
    if column == "key":
        step = bg.DeduplicateExact(key_columns=("key",))
    with beam.Pipeline() as p:
        rows = p | beam.Create([0]) | beam.FlatMap(odd_rows, odd, column)
        found = rows | step.with_exception_handling()
        good, bad = (found.kept, found.rejects) if column == "key" else found
        (good, bad) | beam.Flatten() | bg.WriteRejects(str(tmp_path))
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.open()]
    assert len(lines) == 2
    assert "2" in [line["id"] for line in lines]


EMPTY: dict[str, Callable[[], Block]] = {
    "typed": lambda: Block.from_pydict(
        {"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}
    ),
    "untyped": lambda: Block.from_pydict({"id": [], "text": [], "embedding": [], "n": []}),
}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("make", [bg.DeduplicateExact, bg.DeduplicateLexical])
def test_an_empty_block_of_the_reference_removes_nothing(
    make: Any, kind: str, tmp_path: Path
) -> None:
    with beam.Pipeline() as p:
        reference = p | "Reference" >> beam.Create([EMPTY[kind]()])
        corpus = p | beam.Create([Block.from_pydict({"id": ["1"], "text": ["a text"]})])
        found = corpus | make(reference=reference)
        found.kept | beam.Map(keep, str(tmp_path), "kept")
    assert [block.column("id").to_pylist() for block in kept(str(tmp_path), "kept")] == [["1"]]


@pytest.mark.parametrize("empty", ["source", "target"])
@pytest.mark.parametrize("kind", ["none", "untyped"])
def test_an_empty_side_of_documents_aligns_with_nothing(
    empty: str, kind: str, tmp_path: Path
) -> None:
    full = Block.from_pydict({"id": ["1"], "text": ["a"], "d": ["x"], "n": [1]})
    blank = Block.from_pydict({"id": [], "text": [], "d": [], "n": [], "embedding": []})
    given = {"source": [full], "target": [full], empty: [blank] if kind == "untyped" else []}
    with beam.Pipeline() as p:
        sides = {
            name: p | name >> beam.Create(blocks).with_output_types(Block)
            for name, blocks in given.items()
        }
        align = bg.AlignDocuments("d", ("n",), model=WordEncoder()).with_exception_handling()
        good, bad = sides | align
        (good, bad) | beam.Flatten() | beam.Map(keep, str(tmp_path), "all")
    assert sum(map(len, kept(str(tmp_path), "all"))) in (0, 1)


def test_texts_and_ids_that_are_not_utf8_are_bad_rows(tmp_path: Path) -> None:
    broken = pa.array([b"good text", b"a\xff"]).view(pa.string())
    blocks = [
        Block.from_pydict({"id": ["1", "2"], "text": broken}),
        Block.from_pydict({"id": broken, "text": ["three", "four"]}),
    ]
    with beam.Pipeline() as p:
        found = p | beam.Create(blocks) | bg.DeduplicateExact().with_exception_handling()
        found.rejects | bg.WriteRejects(str(tmp_path))
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.open()]
    assert sorted(line["reject_reason"] for line in lines) == [
        "id is not valid UTF-8",
        "text is not valid UTF-8",
    ]


def test_different_nanoseconds_are_different_keys(tmp_path: Path) -> None:
    times = pa.array([1, 2, 1], pa.timestamp("ns"))
    block = Block.from_pydict({"id": ["a", "b", "c"], "text": ["x"] * 3, "t": times})
    with beam.Pipeline() as p:
        found = p | beam.Create([block]) | bg.DeduplicateExact(key_columns=("t",))
        found.removed | beam.Map(keep, str(tmp_path), "removed")
    assert [b.column("id").to_pylist() for b in kept(str(tmp_path), "removed")] == [["c"]]


@pytest.mark.parametrize(
    "make", [bg.DeduplicateExact, bg.DeduplicateLexical, bg.DeduplicateSemantic]
)
def test_scope_null_and_scope_empty_are_two_scopes(make: Any, tmp_path: Path) -> None:
    vectors = pa.array([[1.0, 0.0]] * 4, pa.list_(pa.float32(), 2))
    columns = {"id": list("abcd"), "text": ["the same words"] * 4, "s": [None, "", None, ""]}
    with beam.Pipeline() as p:
        rows = p | beam.Create([Block.from_pydict({**columns, "embedding": vectors})])
        (rows | make(scope="s")).removed | beam.Map(keep, str(tmp_path), "removed")
    removed = [row for b in kept(str(tmp_path), "removed") for row in b.batch.to_pylist()]
    assert {(row["id"], row["duplicate_of"]) for row in removed} == {("c", "a"), ("d", "b")}
