"""Leave the rows that no pair names: `RowsAndPairs(...) | LeaveUnpaired(settings)`.

rows, pairs --> by id: rows in no pair --> by text: one row per text --> rows

What meets by id: a row and the pairs it is in, which name it by nothing else. By text: see
`shuffle.marked_rows`.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import MARKS, SIDE_IDS, TEXT_KEY
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import of_one_type
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.sides import SideSettings
from beam_gpte.shuffle.group_by_id import CoGroup, Named, key_by_id
from beam_gpte.shuffle.marked_rows import DistinctTexts, marked, with_key, with_mark
from beam_gpte.shuffle.unique_ids import find_ids, id_array

_DECOYS = MARKS[2]


class RowsAndPairs(NamedTuple):
    """Hold marked rows of both sides, and blocks of pairs that name some of them."""

    rows: beam.PCollection[Block]
    pairs: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class LeaveUnpaired(beam.PTransform):
    """Leave the rows of both sides that are in no pair, and the decoys.

    Texts are compared again, whatever their scope, since rows of two scopes may have the same text;
    those of decoys, which count by scope, are not.

    Attributes:
      settings: of both sides.
    """

    settings: SideSettings

    @named_collections
    def expand(self, inputs: RowsAndPairs) -> beam.PCollection[Block]:
        """Return the rows left."""
        id_column = self.settings.columns.id
        by_id = (
            (
                inputs.rows | "KeyRows" >> key_by_id(id_column, name="rows"),
                inputs.pairs | "KeyPairs" >> key_by_id(id_column, _Paired(id_column), "pairs"),
            )
            | "RowsAndPairs" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
        )
        left = _Unpaired(self.settings)
        if not self.settings.deduplicate:
            return by_id | "Unpaired" >> beam.FlatMap(left).with_output_types(Block)
        keyed = by_id | "Unpaired" >> key_by_id(TEXT_KEY, left)
        return (keyed | "Texts" >> DistinctTexts(id_column)).rows


class _Paired:
    """Yield the ids of both rows of pairs, with the marks of their sides."""

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def __call__(self, pairs: Block) -> Iterator[Block]:
        for name, mark in zip(SIDE_IDS, MARKS, strict=False):
            yield marked(Block.from_pydict({self._id_column: id_array(pairs, name)}), mark)


class _Unpaired:
    """Yield the rows that no pair names, with the key of their text if texts are compared."""

    def __init__(self, settings: SideSettings) -> None:
        self._settings = settings

    def __call__(self, element: tuple[int, Iterable[Named]]) -> Iterator[Block]:
        group, id_column = CoGroup(element), self._settings.columns.id
        for mark in MARKS:
            paired = [id_array(block, id_column) for block in with_mark(group["pairs"], mark)]
            for block in with_mark(group["rows"], mark):
                left = block
                if paired:
                    ids = id_array(block, id_column)
                    found = find_ids(ids, pa.concat_arrays(of_one_type(id_column, paired)))
                    left = block.filter(found.is_null())
                if left:
                    yield self._counted(left, mark)

    def _counted(self, left: Block, mark: str) -> Block:
        settings = self._settings
        if mark != _DECOYS:
            Metrics.counter(NAMESPACE, "rows_left").inc(len(left))
            settings = dataclasses.replace(settings, scope=None)
        return with_key(left, settings.compared()) if settings.deduplicate else left
