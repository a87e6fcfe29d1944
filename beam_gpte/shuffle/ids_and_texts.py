"""Keep one row for each text where rows that share an id fail the job: one shuffle for both.

marked blocks --> KeyIdsAndTexts --> ids by id, rows by text --> DistinctIdsAndTexts --> rows,
                                                                                         duplicates

What meets by id: the ids of an input, alone. What meets by text, on the same shuffle: the rows with
one text of an input, whole. Rows have vectors of 1.5 KB, so they are shuffled once and not twice.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import MARKS, TEXT_KEY
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import (
    PARTITIONS,
    CutByKey,
    Keyed,
    concat_by_schema,
    partitioned,
)
from beam_gpte.shuffle.marked_rows import (
    REMOVED,
    DistinctRows,
    OnePerId,
    one_per_text,
    with_key,
)


class KeyIdsAndTexts(CutByKey):
    """Yield (partition of the id, ids) and (partition of the text, rows) for `DistinctIdsAndTexts`.

    Args:
      check: yields the marked good rows of a block, and tagged outputs, which pass through.
      id_column: of the ids.
      compared: the columns of `with_key`.
    """

    def __init__(
        self, check: Callable[[Block], Iterable[Any]], id_column: str, compared: tuple[str, ...]
    ) -> None:
        self._check = check
        self._id_column = id_column
        self._compared = compared

    def process(self, block: Block) -> Iterator[Any]:
        """Collect the block's good rows."""
        for part in self._check(block):
            if isinstance(part, beam.pvalue.TaggedOutput):
                yield part
            elif part:
                yield from self.wait(part, part.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        """Cut ids by their partition, and rows by that of their text, which has a later number."""
        whole = list(concat_by_schema(waiting))
        for rows in whole:
            dropped = set(rows.schema.names) - {self._id_column, *MARKS}
            yield from partitioned(rows.without_columns(dropped), self._id_column, PARTITIONS)
        for rows in whole:
            keyed = with_key(rows, self._compared)
            for partition, piece in partitioned(keyed, TEXT_KEY, PARTITIONS):
                yield PARTITIONS + partition, piece


@dataclasses.dataclass(eq=False)
class DistinctIdsAndTexts(beam.PTransform):
    """Keep one row for each text, as `DistinctTexts` does; fail if rows of an input share an id.

    Memory is that of `DistinctTexts`. Rows leave before all ids are compared; who combines all of
    them has compared all ids.

    Attributes:
      one_per_id: which fails at such rows.
      id_column: of the ids.
    """

    one_per_id: OnePerId
    id_column: str

    @named_collections
    def expand(self, keyed: beam.PCollection[Keyed]) -> DistinctRows:
        """Group what `KeyIdsAndTexts` keyed, and compare the ids or texts of each group."""
        keep = beam.FlatMap(_unique_or_distinct, self.one_per_id, self.id_column)
        keep = keep.with_output_types(Block, duplicates=Block).with_outputs(REMOVED, main="rows")
        parts = keyed | "ByIdAndText" >> beam.GroupByKey() | "OnePerIdAndText" >> keep
        return DistinctRows(parts.rows, parts[REMOVED])


def _unique_or_distinct(
    element: tuple[int, Iterable[Block]], one_per_id: OnePerId, id_column: str
) -> Iterator[Any]:
    if element[0] >= PARTITIONS:
        yield from one_per_text(element, id_column, one_per_id.steps)
    else:
        check_unique(element, one_per_id)


def check_unique(element: tuple[int, Iterable[Block]], one_per_id: OnePerId) -> None:
    """Fail if rows of an input share an id, given the ids of one partition."""
    for _ in one_per_id(element):
        pass
