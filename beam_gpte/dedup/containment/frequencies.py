"""Count in how many texts the shingles of each slot of a table are: `texts | CountShingles(...)`.

texts --> Slots --> GroupByKey: Sum --> counts above 1, a side input

What meets, and why no other shuffle can carry it:
  Sum: counts of the same slots, in 16 partitions, before a posting is made.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import polars as pl

from beam_gpte.core.columns import NORMAL, SCOPE
from beam_gpte.core.text.containment import count_table, slots_of
from beam_gpte.core.text.minhash import MinHash, Shingles, shingle_sets, shingles, slices
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import PARTITIONS, CutByKey, Keyed, frame_of

CHARACTERS_AT_ONCE = 1 << 17  # that are shingled together
_SLOT, _COUNT = "slot", "count"


def keyed_sets(block: Block, minhash: MinHash) -> Iterator[tuple[slice, Shingles, np.ndarray]]:
    """Yield rows of a block, their shingle sets, and keys of these: uint64, of one scope each."""
    frame = frame_of([block])
    texts = frame[NORMAL].to_list()
    lengths = frame[NORMAL].str.len_chars().to_numpy() + minhash.shingle
    scopes = frame[SCOPE].to_numpy() if SCOPE in frame.columns else None
    for part in slices(lengths, CHARACTERS_AT_ONCE):
        sets = shingle_sets(shingles(texts[part], minhash.shingle, minhash.unit))
        keys = sets.values
        if scopes is not None:
            keys = keys ^ np.repeat(scopes[part], np.diff(sets.starts))
        yield part, sets, keys


@dataclasses.dataclass(eq=False)
class CountShingles(beam.PTransform):
    """Count, for each slot of the table of `core.text.containment`, the texts with a key there.

    Takes blocks of `NORMAL` and, where there are scopes, `SCOPE`; gives blocks of a slot and its
    count, where that is above 1, for `table_of_counts`: at most 2^23 rows, of 12 bytes.

    Attributes:
      minhash: says what a shingle is.
    """

    minhash: MinHash

    def expand(self, texts: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Sum the counts of each bundle by slot."""
        return (
            texts
            | "Slots" >> beam.ParDo(_Slots(self.minhash)).with_output_types(Keyed)
            | "Sum" >> beam.GroupByKey()
            | "Shared" >> beam.FlatMap(_shared).with_output_types(Block)
        )


class _Slots(CutByKey):
    """Give (partition of the slot, rows of slot and count), summed over many blocks."""

    def __init__(self, minhash: MinHash) -> None:
        self._minhash = minhash

    def process(self, block: Block) -> Iterator[Keyed]:
        for _, _, keys in keyed_sets(block, self._minhash):
            slots = slots_of(keys)
            yield from self.wait(slots, slots.nbytes)

    def cut(self, waiting: list[np.ndarray]) -> Iterator[Keyed]:
        slots, counts = np.unique(np.concatenate(waiting), return_counts=True)
        for partition in range(PARTITIONS):
            here = slots % PARTITIONS == partition
            part = pl.DataFrame({_SLOT: slots[here], _COUNT: counts[here]})
            yield from ((partition, block) for block in blocks_of(part))


def _shared(element: tuple[int, Iterable[Block]]) -> Iterator[Block]:
    sums = frame_of(element[1]).group_by(_SLOT).agg(pl.col(_COUNT).sum()).sort(_SLOT)
    yield from blocks_of(sums.filter(pl.col(_COUNT) > 1))


def table_of_counts(blocks: Iterable[Block]) -> np.ndarray:
    """Make the table, 16 MB, of all that `CountShingles` gives."""
    parts = list(blocks)
    rows = frame_of(parts) if parts else pl.DataFrame({_SLOT: [], _COUNT: []}, _SCHEMA)
    return count_table(rows[_SLOT].to_numpy(), rows[_COUNT].to_numpy())


_SCHEMA = {_SLOT: pl.UInt32, _COUNT: pl.Int64}
