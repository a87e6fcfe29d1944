"""Pipelines of tests, pages and their programs are looked at before they run: may Beam 2.77 lose one of their side inputs?

Its in-process runner now and then hands out an empty one, if a collection is a side input of one step and the main input of
another that has side inputs; see `beam_gpte.elements.from_side_inputs`.
"""

import functools
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor


@functools.cache
def look_at_all() -> None:
    """Once a process, however often it is called."""
    beam.Pipeline.run = _looked_at(beam.Pipeline.run)  # type: ignore[method-assign]


def _looked_at(run: Any) -> Any:
    def look_and_run(self: beam.Pipeline, *arguments: Any, **settings: Any) -> Any:
        check(self)
        return run(self, *arguments, **settings)

    return look_and_run


def check(pipeline: beam.Pipeline) -> None:
    uses = _Uses()
    pipeline.visit(uses)
    for collection in uses.side.keys() & uses.main.keys():
        side, main = uses.side[collection], uses.main[collection]
        raise AssertionError(
            f"what {main} has for its main input, beside others, {side} has for a side input: use FromSideInputs"
        )


class _Uses(PipelineVisitor):
    """The collections that are side inputs, and the main inputs of steps that have side inputs; each with such a step."""

    def __init__(self) -> None:
        self.side: dict[beam.PCollection, str] = {}
        self.main: dict[beam.PCollection, str] = {}

    def visit_transform(self, node: AppliedPTransform) -> None:
        if node.side_inputs:
            self.side |= {view.pvalue: node.full_label for view in node.side_inputs}
            self.main |= dict.fromkeys(node.main_inputs.values(), node.full_label)
