"""Ids and texts are compared on one shuffle, and rows come out as after two."""

import collections
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, InputError
from beam_gpte.core.columns import MARKS
from beam_gpte.elements.block import hidden_block
from beam_gpte.shuffle.group_by_id import PARTITIONS, Keyed
from beam_gpte.shuffle.ids_and_texts import DistinctIdsAndTexts, KeyIdsAndTexts
from beam_gpte.shuffle.marked_rows import OnePerId, marked, one_per_text, with_key

STEPS = ("Mine source", "Mine target")
COMPARED = ("text",)


def blocks_of(sides: tuple[list[tuple[str, str]], ...], size: int) -> list[Block]:
    return [
        marked(hidden_block({"id": [i for i, _ in part], "text": [t for _, t in part]}), mark)
        for side, mark in zip(sides, MARKS, strict=False)
        for part in (side[start : start + size] for start in range(0, len(side), size))
    ]


def pieces_of(blocks: list[Block]) -> list[Keyed]:
    key = KeyIdsAndTexts(lambda block: iter([block]), "id", COMPARED)
    key.start_bundle()
    pieces = [piece for block in blocks for piece in key.process(block)]
    return pieces + [windowed.value for windowed in key.finish_bundle()]


def described(parts: list[Any]) -> list[tuple[str, str]]:
    """Write each row with whether it was removed, whatever block it is in."""
    return sorted(
        (str(isinstance(part, TaggedOutput)), str(sorted((k, v) for k, v in row.items() if v)))
        for part in parts
        for row in (part.value if isinstance(part, TaggedOutput) else part).batch.to_pylist()
    )


texts = st.lists(st.sampled_from(["a", "A", "b", " b", "c"]), max_size=12)


@settings(deadline=None)
@given(texts, texts, st.integers(1, 5))
def test_rows_are_those_of_a_shuffle_by_id_and_one_by_text(
    source: list[str], target: list[str], size: int
) -> None:
    sides = tuple([(f"{i}", text) for i, text in enumerate(side)] for side in (source, target))
    blocks = blocks_of(sides, size)
    groups: dict[int, list[Block]] = collections.defaultdict(list)
    for partition, piece in pieces_of(blocks):
        assert (partition < PARTITIONS) == ("text" not in piece.schema.names)
        groups[partition].append(piece)
    one_per_id = OnePerId("id", STEPS, False, ())
    found: list[Any] = []
    for partition, group in groups.items():
        if partition < PARTITIONS:
            assert sum(map(len, one_per_id((partition, group)))) == sum(map(len, group))
        else:
            found += one_per_text((partition, group), "id")
    keyed = [with_key(block, COMPARED) for block in OnePerId("id", STEPS, True, ())((0, blocks))]
    assert described(found) == described(list(one_per_text((0, keyed), "id")))


def distinct(pipeline: beam.Pipeline, blocks: list[Block]) -> Any:
    key = beam.ParDo(KeyIdsAndTexts(_each, "id", COMPARED)).with_output_types(Keyed)
    made = pipeline | beam.Create([None]) | beam.FlatMap(lambda _: blocks).with_output_types(Block)
    return made | key | DistinctIdsAndTexts(OnePerId("id", STEPS, False, ()), "id")


def _each(block: Block) -> Iterator[Block]:
    yield block


def test_two_rows_of_a_side_with_one_id_fail_whatever_their_texts() -> None:
    right = blocks_of(([("1", "a"), ("2", "A"), ("3", "b")], [("1", "a")]), 2)
    with beam.Pipeline("FnApiRunner") as p:
        rows, duplicates = distinct(p, right)
        ids = (lambda block: block.column("id").to_pylist(),)
        assert_that(rows | beam.FlatMap(*ids), lambda ids: sorted(ids) == ["1", "1", "3"] or 1 / 0)
        removed = duplicates | "Removed" >> beam.FlatMap(*ids)
        assert_that(removed, lambda ids: ids == ["2"] or 1 / 0, "removed")
    wrong = blocks_of(([("1", "a"), ("2", "b"), ("1", "c")], []), 2)
    with (
        pytest.raises(InputError, match="Mine source: row with id '1': duplicate id"),
        beam.Pipeline("FnApiRunner") as p,
    ):
        distinct(p, wrong)


def test_ids_of_two_types_on_a_side_fail() -> None:
    first = marked(hidden_block({"id": ["1"], "text": ["a"]}), MARKS[0])
    second = marked(hidden_block({"id": [1], "text": ["a"]}), MARKS[0])
    with (
        pytest.raises(InputError, match="Mine source: column 'id' "),
        beam.Pipeline("FnApiRunner") as p,
    ):
        distinct(p, [first, second])
