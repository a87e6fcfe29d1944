"""Pair texts with the larger texts that may contain them; no pair at the threshold is missed.

texts --> CountShingles --> counts: a side input
  |                           |
  +-----> Route <-------------+
            |
            +--> (shard of probes, share of texts; both) --> GroupByKey: Cells --> Pair
                                                                                    |
                                                                candidates: pairs <-+

What meets, and why no other shuffle can carry it (`frequencies` has that of the counts):
  Cells: the probes of some texts, and all texts that may contain these. All that two texts share is
    counted there, so that no pair has to travel that shares too little.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsIter, TaggedOutput

from beam_gpte.core.columns import (
    FIRST_ID,
    NEEDED,
    NORMAL,
    PROBES,
    REFERENCE,
    SCOPE,
    SECOND_ID,
    SIZE,
)
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.text.containment import ProbeIndex, Probes, choose_probes
from beam_gpte.core.text.minhash import MinHash
from beam_gpte.dedup.containment.frequencies import CountShingles, keyed_sets, table_of_counts
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    CutByKey,
    Named,
    concat_by_schema,
    concat_frames,
    frame_of,
)
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import id_array, id_hashes

PROBES_AT_ONCE = 1 << 22  # of an index: 117 MB
SHARES = 4  # of the texts, for each shard of the probes
_SPARE_SHARE = 0.05  # of the shingles: further probes, about


class ContainmentCandidates(NamedTuple):
    """Hold pairs that are to be verified.

    Attributes:
      candidates: blocks of `first_id` and `second_id`; no pair comes twice.
      figures: how many pairs of a probe and a text that has it were compared.
    """

    candidates: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class FindContainment(beam.PTransform):
    """Find the candidates for `core.text.minhash.containment` at `threshold`: all of them.

    Takes blocks of ids, `NORMAL`, what orders them, and perhaps `SCOPE` and `REFERENCE`. The probes
    of a text, 8 bytes for each of its shingles that a larger text may lack and of 11 more, go to 4
    cells, and each text to one cell for every 4 million probes of all texts. A worker holds 2^22
    probes at 28 bytes, the ids of their texts, a block of other texts, and 2^20 pairs of a probe
    and a text that has it, but never fewer than those of one text.

    Attributes:
      threshold: minimum share of the shingles of the smaller text.
      minhash: says what a shingle is.
      id_column: of the texts.
      order: of keeping: the row that is kept before the other is first.
    """

    threshold: float
    minhash: MinHash
    id_column: str
    order: KeepOrder

    @named_collections
    def expand(self, texts: beam.PCollection[Block]) -> ContainmentCandidates:
        """Count the shingles, then look up those of each text among the probes."""
        counts = AsIter(texts | "CountShingles" >> CountShingles(self.minhash))
        route = beam.ParDo(_Route(self.minhash, self.threshold, self.id_column), counts)
        pair = beam.FlatMap(_pairs_of_cell, self.minhash, self.id_column, self.order)
        parts = (
            texts
            | "Route" >> route.with_output_types(tuple[int, Named])
            | "Cells" >> beam.GroupByKey()
            | "Pair"
            >> pair.with_output_types(Block, figures=StepFigures).with_outputs(
                "figures", main="candidates"
            )
        )
        return ContainmentCandidates(parts.candidates, parts.figures)


class _Route(CutByKey):
    """Give (cell, "probes" and rows with `PROBES`, `SIZE`, `NEEDED`) and (cell, "texts" and rows).

    A cell is a shard of the texts that have probes, and a share of those that may contain them.
    """

    def __init__(self, minhash: MinHash, threshold: float, id_column: str) -> None:
        self._minhash = minhash
        self._threshold = threshold
        self._id_column = id_column
        self._table: np.ndarray | None = None

    def process(self, block: Block, counts: Iterable[Block]) -> Iterator[Any]:
        if self._table is None:  # the counts are the same for all bundles
            self._table = table_of_counts(counts)
            probes = self._table.sum(dtype=np.int64) * min(1, 1 - self._threshold + _SPARE_SHARE)
            self._shards = max(1, -(-int(probes) // PROBES_AT_ONCE))
        yield from self.wait(("texts", block), block.batch.nbytes)
        for part, sets, keys in keyed_sets(block, self._minhash):
            probes = choose_probes(sets, keys, self._table, self._threshold)
            rows = _with_probes(block.slice(part.start, part.stop - part.start), probes)
            yield from self.wait(("probes", rows), rows.batch.nbytes)

    def cut(self, waiting: list[tuple[str, Block]]) -> Iterator[Any]:
        for kind in ("texts", "probes"):
            for rows in concat_by_schema(block for name, block in waiting if name == kind):
                hashes = (id_hashes(id_array(rows, self._id_column)) >> np.uint64(1)).astype(
                    np.int64
                )
                if kind == "texts":
                    places = hashes // self._shards % SHARES
                    cells = [range(share, self._shards * SHARES, SHARES) for share in range(SHARES)]
                else:
                    places = hashes % self._shards
                    cells = [range(s * SHARES, (s + 1) * SHARES) for s in range(self._shards)]
                for place, piece in split_rows(rows, places):
                    yield from ((cell, (kind, piece)) for cell in cells[place])


def _with_probes(rows: Block, probes: Probes) -> Block:
    """Reduce rows to those that have probes, with these in place of the text."""
    ends = np.cumsum(np.bincount(probes.texts, minlength=len(rows)))
    lists = pa.LargeListArray.from_arrays(np.append(0, ends), pa.array(probes.keys))
    columns = {name: rows.column(name) for name in rows.schema.names if name not in (NORMAL, SCOPE)}
    columns |= {PROBES: lists, SIZE: probes.sizes, NEEDED: probes.needed}
    return hidden_block(columns).filter(pa.array(probes.needed > 0))


def _pairs_of_cell(
    element: tuple[int, Iterable[Named]], minhash: MinHash, id_column: str, order: KeepOrder
) -> Iterator[Any]:
    """Pair texts with those that share enough of their probes."""
    group = CoGroup(element)
    for members in _within_memory(group["probes"]):
        frame = frame_of([block.without_columns([PROBES]) for block in members])
        index = ProbeIndex(_probes_of(members, frame))
        for block in group["texts"]:
            texts = frame_of([block]).drop(NORMAL, SCOPE, strict=False)
            for part, sets, keys in keyed_sets(block, minhash):
                small, large = index.contained_in(sets, keys)
                sized = texts[part].with_columns(pl.Series(SIZE, np.diff(sets.starts)))
                yield from _in_order(frame.drop(NEEDED)[small], sized[large], id_column, order)
        yield TaggedOutput("figures", StepFigures(costs={"comparisons": index.compared}))


def _within_memory(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Collect blocks of rows with probes, as many as one index may hold."""
    members, count = [], 0
    for block in blocks:
        members.append(block)
        count += len(block.column(PROBES).flatten())
        if count >= PROBES_AT_ONCE:
            yield members
            members, count = [], 0
    if members:
        yield members


def _probes_of(members: list[Block], frame: pl.DataFrame) -> Probes:
    lengths = [block.column(PROBES).value_lengths().to_numpy() for block in members]
    keys = [block.column(PROBES).flatten().to_numpy() for block in members]
    sizes, needed = (frame[name].to_numpy() for name in (SIZE, NEEDED))
    texts = np.repeat(np.arange(len(frame)), np.concatenate(lengths))
    return Probes(texts, np.concatenate(keys), sizes, needed)


def _in_order(
    small: pl.DataFrame, large: pl.DataFrame, id_column: str, order: KeepOrder
) -> Iterator[Block]:
    """Yield pairs of two texts, the one that is kept first in front; of one size each once."""
    if not len(small):
        return
    rows = concat_frames([small, large.select(small.columns)]).with_row_index("row")
    ids, count = rows[id_column], len(small)
    keep = (small[SIZE] < large[SIZE]) | (ids[:count] < ids[count:])
    if REFERENCE in rows.columns:
        keep &= ~(rows[REFERENCE][:count] & rows[REFERENCE][count:])
    rank = np.empty(2 * count, np.int64)
    rank[order.sort(rows, id_column)["row"].to_numpy()] = np.arange(2 * count)
    is_first = pl.Series(rank[:count] < rank[count:])
    pairs = pl.DataFrame(
        {
            FIRST_ID: ids[:count].zip_with(is_first, ids[count:]),
            SECOND_ID: ids[count:].zip_with(is_first, ids[:count]),
        }
    )
    yield from blocks_of(pairs.filter(keep))
