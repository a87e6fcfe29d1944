"""Check that one element is made from side inputs, and that unsafe graphs are found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte import Block, MineBitext, Thresholding
from beam_gpte.elements.from_side_inputs import FromSideInputs
from tests.examples import keep, kept
from tests.graphs import check


def test_one_element_is_made_from_side_inputs_and_settings(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    with new_pipeline("two processes") as p:
        numbers = p | "Numbers" >> beam.Create([1, 2, 3])
        largest = numbers | beam.CombineGlobally(max).without_defaults()
        none = numbers | beam.Filter(lambda number: number > 3)
        total = FromSideInputs(
            list,
            together,
            AsSingleton(largest),
            10,
            AsList(none),
            AsSingleton(none, default_value=100),
        )
        p | total | beam.Map(keep, str(tmp_path), "total")
    assert kept(str(tmp_path), "total") == [[3, 10, [], 100]]


def test_a_graph_in_which_beam_may_lose_a_side_input_is_not_run(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    p = new_pipeline()
    one, two, three = (p | str(i) >> beam.Create([i]) for i in range(3))
    one | "First" >> beam.Map(together, AsSingleton(two))
    three | "Second" >> beam.Map(together, AsSingleton(one))
    message = "the main input of First, which has side inputs too, is a side input of Second"
    with pytest.raises(AssertionError, match=message):
        p.run()


def test_mining_in_scopes_then_unmatched_rows_with_decoys_has_a_graph_that_is_run() -> None:
    p = beam.Pipeline()
    block = Block.from_pydict({"id": ["a"], "text": ["b"], "doc": ["c"]})
    sides = {name: p | name >> beam.Create([block]) for name in ("source", "target", "decoys")}
    thresholding = Thresholding(target_precision=0.9)
    sides | MineBitext(scope="doc", mine_unmatched=True, thresholding=thresholding)
    check(p)


def together(*arguments: Any) -> list:
    return list(arguments)
