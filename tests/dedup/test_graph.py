"""A deduplication has few steps, and few groups, each of which is a stage of its own on a cluster.

Without its source: every primitive step counts, and so do the impulses of single elements.
"""

import apache_beam as beam
import pytest
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
)

CHAIN = (DeduplicateExact(), DeduplicateLexical(), DeduplicateSemantic())


class _Steps(PipelineVisitor):
    def __init__(self) -> None:
        self.primitive: set[str] = set()
        self.groups: set[str] = set()

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self._count(node)

    def visit_transform(self, node: AppliedPTransform) -> None:
        self._count(node)
        self.primitive.add(node.full_label)

    def _count(self, node: AppliedPTransform) -> None:
        if isinstance(node.transform, beam.GroupByKey):
            self.groups.add(node.full_label)


@pytest.mark.parametrize(
    ("transform", "steps", "groups"),
    [
        (DeduplicateExact(), 28, 4),
        (DeduplicateLexical(), 52, 11),
        (DeduplicateSemantic(), 52, 11),
        (DeduplicateSemantic(grouping="components"), 49, 8),
        (DeduplicateSemantic(grouping="semdedup"), 49, 9),
        (Deduplicate(CHAIN), 105, 22),
    ],
)
def test_steps_and_groups_are_as_few_as_these(
    transform: beam.PTransform, steps: int, groups: int
) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    source = pipeline | "Source" >> beam.Create([]).with_output_types(Block)
    source | transform
    found = _Steps()
    pipeline.visit(found)
    own = [label for label in found.primitive if not label.startswith("Source")]
    assert (len(own), len(found.groups)) == (steps, groups)
