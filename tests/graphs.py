"""Check before pipelines run whether Beam 2.77 may lose one of their side inputs.

Its in-process runner now and then provides an empty side input, if a collection is a side input of
one step and the main input of another that has side inputs; see
`beam_gpte.elements.from_side_inputs`. The pipelines of tests, documentation pages and their
programs are checked.
"""

import functools
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor


@functools.cache
def check_all() -> None:
    """Check every pipeline of this process before it runs; more calls have no effect."""
    beam.Pipeline.run = _checked(beam.Pipeline.run)  # type: ignore[method-assign]


def _checked(run: Any) -> Any:
    def check_and_run(self: beam.Pipeline, *arguments: Any, **settings: Any) -> Any:
        check(self)
        return run(self, *arguments, **settings)

    return check_and_run


def check(pipeline: beam.Pipeline) -> None:
    """Check one pipeline.

    Raises:
      AssertionError: a collection is used in both ways.
    """
    uses = _Uses()
    pipeline.visit(uses)
    for collection in uses.side.keys() & uses.main.keys():
        side, main = uses.side[collection], uses.main[collection]
        raise AssertionError(
            f"the main input of {main}, which has side inputs too, is a side input of {side}: "
            "use FromSideInputs"
        )


class _Uses(PipelineVisitor):
    """Collect side inputs, and main inputs of steps with side inputs, each with such a step."""

    def __init__(self) -> None:
        self.side: dict[beam.PCollection, str] = {}
        self.main: dict[beam.PCollection, str] = {}

    def visit_transform(self, node: AppliedPTransform) -> None:
        if node.side_inputs:
            self.side |= {view.pvalue: node.full_label for view in node.side_inputs}
            self.main |= dict.fromkeys(node.main_inputs.values(), node.full_label)
