"""Count the rows of blocks, as a side input: `blocks | CountRows()`.

What meets: a number for each block, some bytes; it is known once all blocks are.
"""

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections


class CountRows(beam.PTransform):
    """Count the rows of all blocks."""

    @named_collections
    def expand(self, blocks: beam.PCollection[Block]) -> AsSingleton:
        """Return the number of rows, 0 without blocks."""
        lengths = blocks | "Rows" >> beam.Map(len).with_output_types(int)
        return lengths | "Sum" >> beam.CombineGlobally(sum).as_singleton_view()
