"""Give a pipeline blocks that are already in memory, without a copy in its graph.

A function that holds blocks is pickled with them, and its bytes compressed, several times: that
takes more than a pipeline does with them. This works in the process of the pipeline alone.
"""

import apache_beam as beam

from beam_gpte import Block

_GIVEN: dict[str, list[Block]] = {}


def given(pipeline: beam.Pipeline, label: str, blocks: list[Block]) -> beam.PCollection[Block]:
    """Give blocks, under a label that no other collection of the pipeline has."""
    _GIVEN[label] = blocks
    once = pipeline | f"{label}: once" >> beam.Create([label])
    return once | label >> beam.FlatMap(_blocks_of).with_output_types(Block)


def _blocks_of(label: str) -> list[Block]:
    return _GIVEN[label]
