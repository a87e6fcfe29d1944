"""Parts of a source are listed once and read on any worker, and their rows have a source's time."""

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from tests.conftest import MODES


def characters(word: str, *suffix: str) -> Iterator[Any]:
    for character in word:
        yield character + "".join(suffix)
    yield TaggedOutput("words", word)


def timed(element: str, time: Any = beam.DoFn.TimestampParam) -> tuple[str, bool]:
    return element, time == MIN_TIMESTAMP


@pytest.mark.parametrize("mode", MODES)
def test_each_part_is_read_once_at_the_time_of_a_source(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    read = read_parts(characters, "!").with_output_types(str, words=str)
    with new_pipeline(mode) as p:
        parts = p | SpreadParts(lambda: ["ab", "c", "ab"], str)
        rows, words = parts | read.with_outputs("words", main="rows")
        expected = ["a!", "b!", "c!", "a!", "b!"]
        assert_that(rows | beam.Map(timed), equal_to([(row, True) for row in expected]), "Rows")
        times = words | "Words" >> beam.Map(timed)
        assert_that(times, equal_to([(word, True) for word in ("ab", "c", "ab")]), "Tagged")


def test_a_source_may_have_no_parts(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        parts = p | SpreadParts(list, str)
        assert_that(parts | read_parts(characters), equal_to([]))
