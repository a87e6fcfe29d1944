"""Say of every row which cluster it is in, how large that is, and whether the row represents it.

kept, by id --------------+
                          +--> CoGroupById --> Annotate --> kept and removed rows
removed, by duplicate_of -+

What meets, and why no other shuffle can carry it: the last step decides which rows stay.
  ById: a kept row and those that name it, whose number is the size of its cluster.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import (
    CLUSTER_ID,
    CLUSTER_SIZE,
    CORPUS_ID,
    DUPLICATE_OF,
    FOUND_BY,
    IS_REPRESENTATIVE,
    SCORE,
)
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import of_one_type
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.corpus_ids import are_of_reference
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named
from beam_gpte.shuffle.unique_ids import find_ids, id_array, like_ids

CLUSTER_COLUMNS = (CLUSTER_ID, CLUSTER_SIZE, IS_REPRESENTATIVE)


class KeptAndRemoved(NamedTuple):
    """Hold the rows of a corpus after the last step; each removed one names one that stays."""

    kept: beam.PCollection[Block]
    removed: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class AnnotateClusters(beam.PTransform):
    """Give all rows with `duplicate_of`, `cluster_size` and `is_representative`.

    A cluster is a row that stays with all rows that name it. Here its name is in the column of
    `duplicate_of`, also of a row that stays, so that `restore_rows` gives it the type of the ids;
    `with_cluster_id` renames it. `cluster_size` (int64) counts the rows of the corpus: a row of a
    reference that represents a cluster is none of them.

    A worker holds the distinct ids that one of 16 partitions of the removed rows names; of the rows
    one block at a time.

    Attributes:
      id_column: of the rows; `CORPUS_ID` where there is a reference.
      added: names of the added columns.
    """

    id_column: str
    added: AddedColumns

    @named_collections
    def expand(self, inputs: KeptAndRemoved) -> beam.PCollection[Block]:
        """Co-group by the row that stays, and count."""
        columns = {"kept": self.id_column, "removed": self.added[DUPLICATE_OF]}
        annotate = beam.FlatMap(_annotate, self.id_column, self.added)
        return (
            inputs._asdict()
            | "ById" >> CoGroupById(columns)
            | "Annotate" >> annotate.with_output_types(Block)
        )


def _annotate(
    element: tuple[int, Iterable[Named]], id_column: str, added: AddedColumns
) -> Iterator[Block]:
    group, name = CoGroup(element), added[DUPLICATE_OF]
    named = [id_array(block, name) for block in group["removed"]]
    counts = pc.value_counts(pa.chunked_array(of_one_type(id_column, named))) if named else None
    for block in group["kept"]:
        ids = id_array(block, id_column)
        represented = like_ids(ids, block.schema.field(id_column).type)
        block = block.with_column(pa.field(name, represented.type), represented)
        yield _with_size(block, _found(counts, ids, id_column) + 1, True, added)
    for block in group["removed"]:
        ids = id_array(block, name)
        removed = block.without_columns([added[SCORE], added[FOUND_BY]])
        own = ~are_of_reference(ids) if id_column == CORPUS_ID else np.int64(1)
        yield _with_size(removed, _found(counts, ids, id_column) + own, False, added)


def _found(counts: pa.StructArray | None, ids: pa.Array, id_column: str) -> np.ndarray:
    """Count the removed rows that name each id, int64 (n,)."""
    if counts is None:
        return np.zeros(len(ids), np.int64)
    position = find_ids(ids, counts.field("values"), id_column)
    return counts.field("counts").take(position).fill_null(0).to_numpy(zero_copy_only=False)


def _with_size(block: Block, sizes: np.ndarray, represents: bool, added: AddedColumns) -> Block:
    block = added.add(block, CLUSTER_SIZE, pa.array(sizes, pa.int64()))
    return added.add(block, IS_REPRESENTATIVE, pa.array([represents] * len(block), pa.bool_()))


def with_cluster_id(block: Block, added: AddedColumns) -> Block:
    """Put `cluster_id`, which was in the column of `duplicate_of`, before the size."""
    name, others = added[DUPLICATE_OF], [added[ours] for ours in CLUSTER_COLUMNS[1:]]
    last = [(one, block.column(one)) for one in others]
    named = added.add(block.without_columns([name, *others]), CLUSTER_ID, block.column(name))
    for other, values in last:
        named = named.with_column(pa.field(other, values.type), values)
    return named
