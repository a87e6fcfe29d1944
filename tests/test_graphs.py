"""Pipelines stay as small as they are: no step and no shuffle more."""

import ast
from pathlib import Path

import apache_beam as beam
import pytest

from benchmarks.graphs import PIPELINES, Size, applied, count, parts

# steps and GroupByKeys at most, as `python benchmarks/graphs.py` counts them
DEFAULT = {
    "embed_to_parquet": (12, 2),
    "deduplicate_semantic": (57, 12),
    "deduplicate_three_steps": (114, 24),
    "mine_bitext": (52, 9),
    "mine_unmatched": (88, 15),
    "mine_hard_negatives": (57, 9),
    "nearest_neighbors": (29, 4),
    "cluster_vectors": (37, 5),
    "decontaminate": (46, 4),
}
ALL = {
    "embed_to_parquet": (15, 2),
    "deduplicate_semantic": (59, 12),
    "deduplicate_three_steps": (116, 24),
    "mine_bitext": (58, 10),
    "mine_unmatched": (94, 16),
    "mine_hard_negatives": (59, 10),
    "nearest_neighbors": (33, 5),
    "cluster_vectors": (42, 6),
    "decontaminate": (69, 5),
}
BOUNDS = {"default": DEFAULT, "same": DEFAULT, "all": ALL}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("diagnosis", BOUNDS)
def test_a_pipeline_has_no_more_steps_and_shuffles(name: str, diagnosis: str) -> None:
    size = count(applied(name, diagnosis))
    steps, group_by_keys = BOUNDS[diagnosis][name]
    assert size.steps <= steps
    assert size.group_by_keys <= group_by_keys


def test_each_node_without_parts_counts_once_and_sources_apart() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    numbers = pipeline | "Numbers" >> beam.Create([1])  # an impulse and two more
    outputs = numbers | "Split/in two" >> beam.Map(int).with_outputs("odd", main="even")  # one
    both = (outputs.odd, outputs.even) | "Both" >> beam.Flatten()  # one
    both | "Sum" >> beam.CombineGlobally(sum).without_defaults()  # a key, a shuffle, and 3 ParDos
    pipeline | "Once" >> beam.Impulse()
    assert count(pipeline) == Size(steps=10, group_by_keys=1, own=6)
    assert list(parts(pipeline, 1).items()) == [
        ((), Size(10, 1, 6)),
        (("Numbers",), Size(3, 0, 0)),
        (("Split/in two",), Size(1, 0, 1)),
        (("Both",), Size(1, 0, 1)),
        (("Sum",), Size(4, 1, 4)),
        (("Once",), Size(1, 0, 0)),
    ]


SHUFFLES = (
    "beam.GroupByKey()",
    "CoGroupById({",
    "CombineGlobally(",
    "CombinePerKey(",
    "Reshuffle(",
)


def test_a_module_that_shuffles_says_what_meets() -> None:
    silent = []
    for path in sorted(Path("beam_gpte").rglob("*.py")):
        source = path.read_text("utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        if any(shuffle in source for shuffle in SHUFFLES) and "What meets" not in docstring:
            silent.append(str(path))
    assert silent == []
