"""A row that many others name is repeated a bounded number of bytes at a time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    BEST_FORWARD,
    COSINE,
    FORWARD_MEAN,
    FORWARD_RANK,
    MARGIN,
    MARKS,
    SIDE_IDS,
    Columns,
)
from beam_gpte.core.mining.hard_negatives import NegativeRule
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.mining import mine_hard_negatives, pair_search, search
from beam_gpte.mining.search import PairRule
from beam_gpte.neighbors import attach_rows
from beam_gpte.shuffle import bounded_blocks
from beam_gpte.shuffle.bounded_blocks import blocks_of, frame_bytes
from beam_gpte.shuffle.marked_rows import marked
from beam_gpte.sinks.write_rejects import JsonLinesWriter

LIMIT = 1 << 16
LONG = "x" * 10_000
MANY = 100  # pairs: 1 MB of one value of 10 KB


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_blocks, "BLOCK_BYTES", LIMIT)
    monkeypatch.setattr(pair_search, "BLOCK_BYTES", LIMIT)


def values(kind: str) -> Any:
    """A value of about 10 KB."""
    return {
        "text": LONG,
        "list": list(range(1250)),
        "texts": ["x" * 100] * 100,
        "struct": {"a": LONG, "b": [1]},
        "bytes": LONG.encode(),
        "lists": [[1, 2], [3]] * 400,
    }[kind]


KINDS = ["text", "list", "texts", "struct", "bytes", "lists"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_pairs_are_repeated_in_bounded_blocks(kind: str) -> None:
    value = values(kind)
    sources = Block(pa.RecordBatch.from_pylist([{"id": "s", "text": "a", "page": value}]))
    pairs = Block.from_pydict(
        {"source_id": ["s"] * MANY, "target_id": [f"t{i:02}" for i in range(MANY)]}
    )
    element = (0, [("pairs", pairs), ("rows", sources)])
    found = list(attach_rows._attach(element, 0, Columns()))
    assert_bounded(found)
    table = pa.Table.from_batches([block.batch for block in found])
    assert table["target_id"].to_pylist() == pairs.column("target_id").to_pylist()
    assert all(page == value for page in table["source_page"].to_pylist())


@pytest.mark.parametrize("side", [0, 1])
def test_a_search_repeats_the_rows_of_a_side_in_bounded_blocks(side: int) -> None:
    rule = PairRule(MANY, "ratio", "forward", True, Columns(), False)
    ids = [["s"] * MANY, [f"t{i:02}" for i in range(MANY)]]
    if side == 1:
        ids = ids[::-1]
    floats = pa.array([0.5] * MANY, pa.float32())
    ranks = pa.array(range(1, MANY + 1), pa.int32())
    candidates = dict(zip(SIDE_IDS, map(pa.array, ids), strict=True))
    candidates |= {COSINE: floats, FORWARD_RANK: ranks, FORWARD_MEAN: floats}
    candidates |= {BACKWARD_RANK: ranks, BACKWARD_MEAN: floats}
    if side == 1:
        candidates |= {MARGIN: floats, BEST_FORWARD: pa.array([True] * MANY)}
    attach = (search._best_targets, search._best_sources)[side]
    rows = marked(Block.from_pydict({"id": ["s"], "text": [LONG]}), MARKS[side])
    group = [("candidates", hidden_block(candidates)), ("rows", rows)]
    found = list(attach((0, group), rule))
    assert sum(map(len, found)) == MANY
    assert_bounded(found)
    name = ("source_text", "target_text")[side]
    assert all(text == LONG for block in found for text in block.column(name).to_pylist())


def test_the_texts_of_triplets_are_repeated_in_bounded_blocks() -> None:
    pairs = hidden_block(
        {
            "query_id": pa.array(["q"] * MANY),
            "document_id": pa.array([f"d{i:02}" for i in range(MANY)]),
            pair_search.QUERY: pa.array(["q"] * MANY),
            pair_search.DOCUMENT: pa.array([f"d{i:02}" for i in range(MANY)]),
        }
    )
    names = hidden_block(
        {
            "id": pa.array(["q"]),
            pair_search.REPRESENTATIVE: pa.array(["q"]),
            "text": pa.array([LONG], pa.large_string()),
        }
    )
    found = list(
        pair_search._name_rows((0, [("pairs", pairs), ("rows", names)]), 0, True, "query_id")
    )
    assert sum(map(len, found)) == MANY
    assert_bounded(found)
    texts = pair_search.PAIR_TEXTS
    scored = pl.DataFrame(
        {
            "query_id": ["q"] * MANY,
            "document_id": [f"d{i:02}" for i in range(MANY)],
            pair_search.QUERY: ["q"] * MANY,
            pair_search.DOCUMENT: [f"d{i:02}" for i in range(MANY)],
            pair_search.PAIR_SCORE: pl.Series([0.9] * MANY, dtype=pl.Float32),
            texts[0]: [LONG] * MANY,
            texts[1]: ["p"] * MANY,
        }
    )
    near = pl.DataFrame(
        {"source_id": ["q"], "target_id": ["n"], "cosine": pl.Series([0.5], dtype=pl.Float32)}
    )
    group = [("near", hidden_block(near.to_arrow())), ("pairs", hidden_block(scored.to_arrow()))]
    chosen = list(
        mine_hard_negatives._choose(
            (0, group), NegativeRule(num_negatives=1), ("query_id", "document_id")
        )
    )
    assert sum(map(len, chosen)) == MANY
    assert_bounded(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_rows_are_measured_for_every_type(kind: str) -> None:
    column = pl.Series([values(kind), None, values(kind)])
    first, none, last = frame_bytes(column.to_frame())
    assert first == last
    assert 9_000 < first < 40_000
    assert none < 100


def test_blocks_have_the_rows_of_their_places_and_null_for_none() -> None:
    rows = pl.DataFrame({"a": ["x", "y"], "b": [[1], None]})
    pairs = pl.DataFrame({"k": [1, 2, 3], "p": pl.Series([1, None, 0], dtype=pl.UInt32)})
    (block,) = blocks_of(pairs, named={"p": rows})
    assert block.batch.to_pydict() == {
        "k": [1, 2, 3],
        "a": ["y", None, "x"],
        "b": [None, None, [1]],
    }
    assert not list(blocks_of(pairs[:0], named={"p": rows}))


def test_one_value_that_all_rejects_name_is_written_a_few_rows_at_a_time(tmp_path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int8()), pa.array(["x" * 10**6]))
    writes = []

    class Stream:
        def write(self, data: bytes) -> None:
            writes.append(len(data))

    writer = JsonLinesWriter(Stream(), pa.schema([("a", values.type)]))  # type: ignore[arg-type]
    writer.write_table(pa.table({"a": values}))
    assert sum(writes) > 50 * 10**6
    assert max(writes) < 5 << 20


LARGE = """
import resource, pyarrow as pa
from beam_gpte.core.columns import Columns
from beam_gpte.elements.block import Block
from beam_gpte.neighbors.attach_rows import _attach
rows = Block(pa.RecordBatch.from_pylist([{"id": "s", "text": "x" * 3_000_000, "n": [7] * 100_000}]))
ids = [f"t{i:03}" for i in range(400)]
pairs = Block.from_pydict({"source_id": ["s"] * 400, "target_id": ids})
size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
list(_attach((0, [("pairs", pairs.slice(0, 1)), ("rows", rows)]), 0, Columns()))
before, total = size(), 0
for block in _attach((0, [("pairs", pairs), ("rows", rows)]), 0, Columns()):
    total += block.batch.nbytes
print(total >> 20, size() - before >> 10)
"""


def test_a_large_value_that_many_pairs_name_is_not_held_once_for_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=120, check=True
    )
    total, more = map(int, done.stdout.split())
    assert total > 1400  # MiB of output
    assert more < 150


def assert_bounded(blocks: list[Block]) -> None:
    assert len(blocks) > 5
    assert max(block.batch.nbytes for block in blocks) <= LIMIT
