"""Sample the vectors of a corpus by their keys, with the combine function `SampleVectors`.

described blocks --> those with a small key wait --> codes of more of them   --+
                                                 --> vectors of the smallest --+--> VectorSample

A sample of many vectors is small as int8 codes, each with a scale of its own, which keep
directions; what is measured with vectors takes few.
"""

import dataclasses
from collections.abc import Callable, Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import AT, FILE, SCOPE, VECTOR, VECTOR_KEY
from beam_gpte.core.errors import naming
from beam_gpte.core.metadata import check_one_model
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.core.vectors.similarity import unit_rows, vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.embedding.ensure_vectors import MODEL, in_memory
from beam_gpte.shuffle.group_by_id import concat_by_schema

CODES = "codes"  # int8 lists, of `VECTOR`
ALL_KEYS = (1 << 64) - 1
ROWS_CODED = 512  # at once: their vectors of 384 dimensions fit the cache


@dataclasses.dataclass(frozen=True)
class VectorSample:
    """Hold the number of rows of a corpus, and a sample of its distinct vectors.

    Attributes:
      rows: of the corpus.
      points: `VECTOR_KEY`, `CODES`.
      audited: the first of them: `VECTOR_KEY`, `SCOPE` if there are scopes, `VECTOR`.
    """

    rows: int
    points: Block
    audited: Block

    def vectors(self, count: int | None = None) -> np.ndarray:
        """Give the first vectors of the sample, float32 (m, dim), as their codes have them."""
        codes = vector_matrix(self.points.column(CODES))[:count]
        return unit_rows(codes.astype(np.float32))


@dataclasses.dataclass
class _SmallestKeys:
    """Hold the rows of the smallest keys, each once: `count` of them, and all below a limit.

    Attributes:
      count: minimum number of rows.
      blocks: of rows, some of which may be too many.
      below: no other row from this key on is wanted; None while there are too few.
    """

    count: int
    blocks: list[Block] = dataclasses.field(default_factory=list)
    below: int | None = None

    def wanted(self, part: Block) -> Block:
        """Choose the rows that may belong to them."""
        if self.below is None:
            return part
        below = pa.scalar(self.below, pa.uint64())
        return part.filter(pc.less(part.column(VECTOR_KEY), below))

    def drop(self, limit: int) -> None:
        """Drop the rows that are too many."""
        if not self.blocks:
            return
        keys = np.concatenate([block.column(VECTOR_KEY).to_numpy() for block in self.blocks])
        smallest, first = np.unique(keys, return_index=True)
        chosen = np.zeros(len(keys), bool)
        chosen[first[: max(self.count, np.searchsorted(smallest, np.uint64(limit)))]] = True
        masks = np.split(chosen, np.cumsum([len(block) for block in self.blocks])[:-1])
        parts = zip(self.blocks, masks, strict=True)
        kept = (block if mask.all() else block.filter(pa.array(mask)) for block, mask in parts)
        self.blocks = [block for block in kept if block]
        if len(smallest) >= self.count:
            self.below = max(limit, int(smallest[self.count - 1]))

    def sorted(self, column: str) -> Block | None:
        """Merge the blocks into one, by key; None if there are none."""
        fields = [block.schema.field(column) for block in self.blocks]
        if not fields:
            return None
        models = [(field.metadata or {}).get(MODEL, b"").decode() for field in fields]
        check_one_model([field.type.list_size for field in fields], models)
        known = next((field for field in fields if field.metadata), fields[0])
        merged = Block.concat(with_hidden(b, known, b.column(column)) for b in self.blocks)
        return merged.take(np.argsort(merged.column(VECTOR_KEY).to_numpy()))


# The number of rows, the sample's rows with codes, those with vectors, and others that may belong
# to either, whose vectors are where they came from.
Sampled = tuple[int, _SmallestKeys, _SmallestKeys, list[Block]]


class SampleVectors(beam.CombineFn):
    """Count rows, and keep the vectors with the smallest keys, as codes; the first of them exactly.

    Keys are hashes, so the sample is the same in whatever order.

    Args:
      step: the transform that errors name.
      count: minimum number of codes.
      exact: number of exact vectors, at most `count`.
      share: of so many rows, to keep beyond `count`; it never grows with the rows, so that no part
        of the rows drops one that all rows want.
    """

    def __init__(self, step: str, count: int, exact: int, share: Callable[[int], float]) -> None:
        self._step, self._count, self._exact, self._share = step, count, exact, share

    def create_accumulator(self) -> Sampled:
        """Start without rows."""
        return 0, _SmallestKeys(self._count), _SmallestKeys(self._exact), []

    def add_input(self, accumulator: Sampled, block: Block) -> Sampled:
        """Add the vectors of a block."""
        rows, points, audited, waiting = accumulator
        read = (VECTOR_KEY, SCOPE, VECTOR, FILE, AT)
        part = points.wanted(block.select([name for name in read if name in block.schema.names]))
        if part:
            waiting.append(part)
        accumulator = rows + len(block), points, audited, waiting
        return self._drop(accumulator) if sum(map(len, waiting)) > self._count else accumulator

    def merge_accumulators(self, accumulators: Iterable[Sampled]) -> Sampled:
        """Merge the samples of several workers."""
        rows, points, audited, waiting = self.create_accumulator()
        for some, coded, exact, others in accumulators:
            rows += some
            points.blocks += coded.blocks
            audited.blocks += exact.blocks
            waiting += others
        return self.compact((rows, points, audited, waiting))

    def compact(self, accumulator: Sampled) -> Sampled:
        """Trim the sample to its size, and load its vectors."""
        rows, points, audited, _ = self._drop(accumulator)
        with naming(self._step):
            audited.blocks = [in_memory(block) for block in audited.blocks]
            for part, column in ((points, CODES), (audited, VECTOR)):
                merged = part.sorted(column)
                part.blocks = [] if merged is None else [merged]
        return rows, points, audited, []

    def extract_output(self, accumulator: Sampled) -> VectorSample:
        """Give the sample, which may be empty."""
        rows, points, audited, _ = accumulator
        if points.blocks:
            return VectorSample(rows, points.blocks[0], audited.blocks[0])
        keys, empty = pa.array([], pa.uint64()), pa.array([], pa.list_(pa.float32(), 1))
        codes = empty.cast(pa.list_(pa.int8(), 1))
        return VectorSample(
            rows,
            hidden_block({VECTOR_KEY: keys, CODES: codes}),
            hidden_block({VECTOR_KEY: keys, VECTOR: empty}),
        )

    def _drop(self, accumulator: Sampled) -> Sampled:
        """Code the rows that wait, and drop those that are too many."""
        rows, points, audited, waiting = accumulator
        for part in concat_by_schema(waiting):
            audited.blocks.append(audited.wanted(part))
            points.blocks.append(_coded(part))
        audited.drop(0)
        # the key below which all are kept falls with the number of rows
        points.drop(min(ALL_KEYS, int(self._share(rows) * ALL_KEYS)))
        return rows, points, audited, []


def _coded(part: Block) -> Block:
    """Quantize vectors: these codes keep directions, and take a quarter of the memory."""
    parts = []
    for start in range(0, len(part), ROWS_CODED):
        rows = in_memory(part.slice(start, ROWS_CODED))
        codes = vectors_to_arrow(quantize(vector_matrix(rows.column(VECTOR)), "int8"))
        field = pa.field(CODES, codes.type, metadata=rows.schema.field(VECTOR).metadata)
        parts.append(with_hidden(rows.select([VECTOR_KEY]), field, codes))
    return Block.concat(parts)
