"""Rows of several inputs share a shuffle without touching one another."""

from typing import Any

import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, InputError
from beam_gpte.core.columns import DUPLICATES, MARKS, REPRESENTATIVE, TEXT_KEY
from beam_gpte.elements.block import hidden_block
from beam_gpte.shuffle.marked_rows import OnePerId, has_mark, marked, one_per_text, with_key

Rows = list[tuple[str, str]]  # ids and texts


def block(rows: Rows, mark: str, **lists: Any) -> Block:
    columns = {"id": [id_ for id_, _ in rows], "text": [text for _, text in rows], **lists}
    return marked(hidden_block(columns), mark)


def one_per_id(blocks: list[Block], isolate: bool = True) -> list[Any]:
    steps = ("Mine source", "Mine target")
    return list(OnePerId("id", steps, isolate, ("text",))((0, blocks)))


def test_an_id_may_be_taken_once_on_each_side() -> None:
    sides = [block([("1", "a"), ("2", "b")], MARKS[0]), block([("1", "c")], MARKS[1])]
    again = block([("2", "b"), ("3", "d")], MARKS[0])
    good = [part for part in one_per_id([*sides, again]) if isinstance(part, Block)]
    ids = {
        mark: sorted(id_ for part in good if has_mark(part, mark) for id_ in ids_of(part))
        for mark in MARKS[:2]
    }
    assert ids == {MARKS[0]: ["1", "2", "3"], MARKS[1]: ["1"]}
    assert all(TEXT_KEY in part.schema.names for part in good)
    (reject,) = (
        part.value for part in one_per_id([*sides, again]) if isinstance(part, TaggedOutput)
    )
    assert reject.batch.to_pylist() == [
        {"id": "2", "text": "b", "reject_step": "Mine source", "reject_reason": "duplicate id"}
    ]
    with pytest.raises(InputError, match="Mine source: row with id '2': duplicate id"):
        one_per_id([*sides, again], isolate=False)


def ids_of(rows: Block) -> list[str]:
    return rows.column("id").to_pylist()


texts = st.lists(st.sampled_from(["a", "A", "b", " b", "c"]), max_size=12)


@settings(deadline=None)
@given(texts, texts, st.integers(1, 4))
def test_one_row_of_each_text_is_kept_and_lists_the_others(
    source: list[str], target: list[str], size: int
) -> None:
    sides = [[(f"{i:02}", text) for i, text in enumerate(side)] for side in (source, target)]
    blocks = [
        with_key(block(rows[start : start + size], mark), ("text",))
        for rows, mark in zip(sides, MARKS, strict=False)
        for start in range(0, len(rows), size)
    ]
    found = list(one_per_text((0, blocks), "id"))
    for rows, mark in zip(sides, MARKS, strict=False):
        groups: dict[str, list[str]] = {}
        for id_, text in rows:
            groups.setdefault(text.strip().lower(), []).append(id_)
        kept = [
            row
            for part in found
            if isinstance(part, Block) and has_mark(part, mark)
            for row in part.batch.to_pylist()
        ]
        listed = {row["id"]: row.get(DUPLICATES) or [] for row in kept}
        assert listed == {first: others for first, *others in groups.values()}
        removed = [
            (row["id"], row[REPRESENTATIVE])
            for part in found
            if isinstance(part, TaggedOutput) and has_mark(part.value, mark)
            for row in part.value.batch.to_pylist()
        ]
        wanted = [(other, first) for first, *others in groups.values() for other in others]
        assert sorted(removed) == sorted(wanted)


def test_a_row_inherits_what_a_duplicate_represents() -> None:
    lists = {DUPLICATES: pa.array([["9"], None, ["5", "7"]], pa.large_list(pa.large_string()))}
    rows = with_key(block([("2", "b"), ("3", "c"), ("1", "B")], MARKS[0], **lists), ("text",))
    parts = list(one_per_text((0, [rows]), "id"))
    kept = [row for part in parts if isinstance(part, Block) for row in part.batch.to_pylist()]
    assert {row["id"]: row[DUPLICATES] for row in kept} == {"1": ["2", "5", "7", "9"], "3": None}
