"""A deduplication has few steps, and few groups, each of which is a stage of its own on a cluster.

Steps are counted as `own` ones are by `benchmarks/graphs.py`; `tests/test_graphs.py` has more.
"""

import apache_beam as beam
import pytest

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
)
from benchmarks.graphs import count

CHAIN = (DeduplicateExact(), DeduplicateLexical(), DeduplicateSemantic())


@pytest.mark.parametrize(
    ("transform", "steps", "groups"),
    [
        (DeduplicateExact(), 25, 4),
        (DeduplicateLexical(), 53, 12),
        (DeduplicateSemantic(), 51, 12),
        (DeduplicateSemantic(grouping="components"), 48, 9),
        (DeduplicateSemantic(grouping="semdedup"), 48, 10),
        (Deduplicate(CHAIN), 108, 24),
    ],
)
def test_steps_and_groups_are_as_few_as_these(
    transform: beam.PTransform, steps: int, groups: int
) -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    source = pipeline | "Source" >> beam.Create([]).with_output_types(Block)
    source | transform
    size = count(pipeline)
    assert (size.own, size.group_by_keys) == (steps, groups)
