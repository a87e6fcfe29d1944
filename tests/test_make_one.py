"""Beam 2.77's in-process runner now and then hands out an empty side input, see `make_one`: no graph of ours lets it."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import AsList, AsSingleton

import beam_gpte as gpte
from beam_gpte import Block
from beam_gpte.make_one import MakeOne
from tests.elements import keep, kept


class Uses(PipelineVisitor):
    """The collections that are side inputs, and those that steps with side inputs have for their main input."""

    def __init__(self) -> None:
        self.side: set[Any] = set()
        self.main: set[Any] = set()

    def visit_transform(self, node: AppliedPTransform) -> None:
        if node.side_inputs:
            self.side |= {view.pvalue for view in node.side_inputs}
            self.main |= set(node.main_inputs.values())


def corpora(p: beam.Pipeline, *names: str) -> dict[str, beam.PCollection]:
    block = Block.from_pydict({"id": ["a"], "text": ["b"], "doc": ["c"], "query_id": ["a"], "document_id": ["a"]})
    return {name: p | name >> beam.Create([block]).with_output_types(Block) for name in names}


def mine(p: beam.Pipeline) -> None:
    decoys = corpora(p, "decoys")["decoys"]
    transform = gpte.MineBitext(scope="doc", then_all=True, target_precision=0.9, decoys=decoys)
    corpora(p, "source", "target") | transform


def deduplicate(p: beam.Pipeline) -> None:
    both = corpora(p, "rows", "reference")
    semantic = gpte.DeduplicateSemantic(threshold=0.9, also_at=(0.95,), scope="doc")
    steps = (gpte.DeduplicateExact(), gpte.DeduplicateLexical(threshold=0.7), semantic)
    both["rows"] | gpte.Deduplicate(steps, reference=both["reference"])


GRAPHS: dict[str, Callable[[beam.Pipeline], Any]] = {
    "MineBitext": mine,
    "ScoreBitext": lambda p: corpora(p, "pairs", "source", "target") | gpte.ScoreBitext(),
    "AlignDocuments": lambda p: corpora(p, "source", "target") | gpte.AlignDocuments("doc", ("id",)),
    "Deduplicate": deduplicate,
    "DeduplicateSemantic": lambda p: corpora(p, "rows")["rows"] | gpte.DeduplicateSemantic(threshold=0.9),
    "recall": lambda p: corpora(p, "rows")["rows"] | gpte.DeduplicateSemantic(threshold=0.9, mode="recall=0.99"),
    "MineHardNegatives": lambda p: corpora(p, "queries", "documents", "positives") | gpte.MineHardNegatives(),
    "FilterPairs": lambda p: corpora(p, "queries", "documents", "pairs") | gpte.FilterPairs(k=3),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_no_side_input_is_a_main_input_of_a_step_that_has_side_inputs(name):
    p, uses = beam.Pipeline(), Uses()
    GRAPHS[name](p)
    p.visit(uses)
    assert uses.side
    assert not uses.side & uses.main


def test_one_element_is_made_of_side_inputs_and_settings(new_pipeline, tmp_path):
    with new_pipeline("two processes") as p:
        numbers = p | "Numbers" >> beam.Create([1, 2, 3])
        largest = numbers | beam.CombineGlobally(max).without_defaults()
        none = numbers | beam.Filter(lambda number: number > 3)
        total = MakeOne(list, together, AsSingleton(largest), 10, AsList(none), AsSingleton(none, default_value=100))
        p | total | beam.Map(keep, str(tmp_path), "total")
    assert kept(str(tmp_path), "total") == [[3, 10, [], 100]]


def together(*arguments: Any) -> list:
    return list(arguments)
