"""Choose the level of `core.dedup.levels` at which as many rows stay as are wanted.

counts of removed rows at each level, in parts, a side input --+
                                                               +--> ChooseLevel --> a level
rows --> OwnRows --> Sum: their number, a side input ----------+

What meets, and why no other shuffle can carry it:
  Sum: a number for each block; a rate of the rows is known once all rows are.
"""

import dataclasses
from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList

from beam_gpte.core.columns import REFERENCE
from beam_gpte.core.dedup.target import Target
from beam_gpte.dedup.figures import StepFigures, add_figures
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections


class RowsAndCounts(NamedTuple):
    """Hold the rows of a corpus, perhaps with a reference, and parts of the counts.

    Attributes:
      rows: blocks, described for the search.
      counts: figures with `removed_at`.
    """

    rows: beam.PCollection[Block]
    counts: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class ChooseLevel(beam.PTransform):
    """Give the number of one of the levels.

    Attributes:
      target: how many rows should stay.
      levels: how many there are.
    """

    target: Target
    levels: int

    @named_collections
    def expand(self, inputs: RowsAndCounts) -> beam.PCollection[int]:
        """Count the rows of the corpus, and choose."""
        rows = (
            inputs.rows
            | "OwnRows" >> beam.Map(_own_rows).with_output_types(int)
            | "Sum" >> beam.CombineGlobally(sum).as_singleton_view()
        )
        counts = AsList(inputs.counts)
        choose = FromSideInputs(int, _choose, self.target, self.levels, rows, counts)
        return inputs.rows.pipeline | "Choose" >> choose


def _own_rows(block: Block) -> int:
    of_reference = block.column(REFERENCE) if REFERENCE in block.schema.names else ()
    return len(block) - sum(mark.as_py() for mark in of_reference)


def _choose(target: Target, levels: int, rows: int, counts: list[StepFigures]) -> int:
    return target.level(rows, add_figures(counts).removed_at or (0,) * levels)
