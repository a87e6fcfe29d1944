"""Check that a deduplication loses no row, whatever its steps."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, Deduplicate, DeduplicateExact, Deduplication
from beam_gpte.dedup.checks import CheckNothingLost, RowsAndResults

NewPipeline = Callable[..., beam.Pipeline]


def deduplicated(pipeline: beam.Pipeline) -> tuple[beam.PCollection, Deduplication]:
    """Five rows, of which one is a duplicate and one has no text."""
    columns = {"id": [1, 2, 3, 4, 5], "text": ["a", "A", None, "b", "c"]}
    rows = pipeline | beam.Create([Block.from_pydict(columns)]).with_output_types(Block)
    return rows, rows | Deduplicate((DeduplicateExact(),)).with_exception_handling()


def count(pipeline: beam.Pipeline, rejected: int) -> Any:
    return beam.pvalue.AsSingleton(pipeline | "Rejected" >> beam.Create([rejected]))


def test_kept_removed_and_rejected_rows_add_up_without_a_semantic_step(
    new_pipeline: NewPipeline,
) -> None:
    with new_pipeline() as pipeline:
        rows, result = deduplicated(pipeline)
        results = RowsAndResults(rows, result.kept, result.removed, result.rejects)
        totals = results | CheckNothingLost(count(pipeline, 7))
        assert_that(totals, equal_to([{"rows": 5, "kept": 3, "removed": 1, "rejected": 7}]))


def test_a_lost_row_fails_the_job(new_pipeline: NewPipeline) -> None:
    pipeline = new_pipeline()
    rows, result = deduplicated(pipeline)
    results = RowsAndResults(rows, result.kept, result.kept, result.rejects)
    results | CheckNothingLost(count(pipeline, 1))
    message = "5 rows became 3 kept, 3 removed and 1 rejected: please report this"
    with pytest.raises(Exception, match=message):
        pipeline.run().wait_until_finish()
