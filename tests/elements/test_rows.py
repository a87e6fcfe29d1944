"""Return rows of any kind as the same kind, with all their fields."""

from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.ml.rag.types import EmbeddableItem
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from beam_gpte import Block, EmbedText, InputError
from beam_gpte.elements.rows import back_to_rows, to_blocks
from tests.conftest import MODES
from tests.examples import EmbeddedLine, LengthEncoder, Line


def plain(row: Any) -> Any:
    """Convert a row to values without numpy, so that two of them compare."""
    if isinstance(row, dict):
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in row.items()
        }
    if isinstance(row, beam.Row):
        return ("Row", tuple(sorted((name, str(value)) for name, value in row.as_dict().items())))
    if isinstance(row, pa.Table | pa.RecordBatch):
        return type(row).__name__, row.to_pylist(), row.schema.metadata
    return row


def embed(
    new_pipeline: Callable[..., beam.Pipeline],
    elements: list[Any],
    expected: list[Any],
    mode: str = "in memory",
    typed: type | None = None,
    **settings: Any,
) -> None:
    with new_pipeline(mode) as p:
        rows = p | beam.Create(elements)
        if typed is not None:
            rows = rows | beam.Map(lambda row: row).with_output_types(typed) | beam.Reshuffle()
        assert_that(
            rows | EmbedText(LengthEncoder(), **settings) | beam.Map(plain), equal_to(expected)
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_mapping_keeps_every_value_and_gains_a_vector(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    row = {"id": 7, "text": "abc", "tags": {"x", "y"}, "nested": {"a": (1, None)}}
    embed(new_pipeline, [row], [{**row, "embedding": [1.0, 3.0]}], mode)


def test_a_string_becomes_a_mapping(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    embed(new_pipeline, ["abc"], [{"text": "abc", "embedding": [1.0, 3.0]}])


@pytest.mark.parametrize("mode", MODES)
def test_a_beam_row_gains_a_field(new_pipeline: Callable[..., beam.Pipeline], mode: str) -> None:
    expected = ("Row", (("embedding", "[1.0, 3.0]"), ("id", "7"), ("text", "abc")))
    embed(new_pipeline, [beam.Row(id=7, text="abc")], [expected], mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_registered_named_tuple_becomes_a_row_on_any_worker(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    expected = ("Row", (("embedding", "[1.0, 3.0]"), ("id", "7"), ("text", "abc")))
    embed(new_pipeline, [Line(7, "abc")], [expected], mode, typed=Line)


def test_a_named_tuple_with_the_field_is_filled_in(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    embed(new_pipeline, [EmbeddedLine(7, "abc", None)], [EmbeddedLine(7, "abc", [1.0, 3.0])])


@pytest.mark.parametrize("mode", MODES)
def test_an_embeddable_item_gets_its_embedding(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    item = EmbeddableItem.from_text("abc", id="q", metadata={"source": "s"})
    with new_pipeline(mode) as p:
        items = p | beam.Create([item]) | EmbedText(LengthEncoder())
        described = items | beam.Map(
            lambda i: (type(i).__name__, i.id, i.metadata, i.dense_embedding)
        )
        assert_that(described, equal_to([("EmbeddableItem", "q", {"source": "s"}, [1.0, 3.0])]))


@pytest.mark.parametrize("mode", MODES)
def test_tables_and_batches_stay_tables_and_batches(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    table = pa.table({"text": ["abc", "d"], "n": [1, 2]}).replace_schema_metadata({"corpus": "x"})
    rows = [
        {"text": "abc", "n": 1, "embedding": [1.0, 3.0]},
        {"text": "d", "n": 2, "embedding": [1.0, 1.0]},
    ]
    embed(new_pipeline, [table], [("Table", rows, {b"corpus": b"x"})], mode)
    embed(new_pipeline, [table.to_batches()[0]], [("RecordBatch", rows, {b"corpus": b"x"})], mode)


def test_kinds_may_be_mixed(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    embed(
        new_pipeline,
        ["abc", {"text": "d"}, pa.table({"text": ["ef"]})],
        [
            {"text": "abc", "embedding": [1.0, 3.0]},
            {"text": "d", "embedding": [1.0, 1.0]},
            ("Table", [{"text": "ef", "embedding": [1.0, 2.0]}], None),
        ],
    )


@pytest.mark.parametrize("mode", MODES)
def test_windows_and_timestamps_are_kept(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    with new_pipeline(mode) as p:
        seen = (
            p
            | beam.Create([(1, "a"), (2, "bb"), (11, "ccc")])
            | beam.Map(lambda pair: TimestampedValue({"text": pair[1]}, pair[0]))
            | beam.WindowInto(FixedWindows(10))
            | EmbedText(LengthEncoder())
            | beam.Map(
                lambda row, t=beam.DoFn.TimestampParam, w=beam.DoFn.WindowParam: (
                    row["text"],
                    row["embedding"].tolist(),
                    float(t),
                    float(w.start),
                )
            )
        )
        assert_that(
            seen,
            equal_to(
                [
                    ("a", [1.0, 1.0], 1.0, 0.0),
                    ("bb", [1.0, 2.0], 2.0, 0.0),
                    ("ccc", [1.0, 3.0], 11.0, 10.0),
                ]
            ),
        )


def test_other_column_names_are_arguments(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    row = {"key": 1, "body": "abc"}
    settings = {"text_column": "body", "id_column": "key", "embedding_column": "v"}
    embed(new_pipeline, [row], [{**row, "v": [1.0, 3.0]}], **settings)


def test_a_lone_surrogate_is_a_reject_that_can_be_written(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    # in a mapping it fails in Beam's own coder; an item is pickled and reaches the transform
    item = EmbeddableItem.from_text("lone \ud800", id="q")
    with new_pipeline() as p:
        _, bad = p | beam.Create([item]) | EmbedText(LengthEncoder()).with_exception_handling()
        reasons = bad | beam.Map(lambda i: (i.id, i.metadata["text"], i.metadata["reject_reason"]))
        expected = ("q", "lone \\ud800", "text is not valid Unicode: it has a lone surrogate")
        assert_that(reasons, equal_to([expected]))


def test_a_value_that_is_not_a_row_is_refused_with_a_list_of_row_kinds(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    message = "a value of type int is not a row; give blocks, pyarrow tables"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([5]) | EmbedText(LengthEncoder())


def test_many_rows_come_back_once_each(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    rows = [{"id": i, "text": "x" * (1 + i % 7)} for i in range(3000)]
    embed(
        new_pipeline, rows, [{**row, "embedding": [1.0, float(len(row["text"]))]} for row in rows]
    )


def test_blocks_are_not_touched_by_the_adapter(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    block = Block.from_pydict({"id": [1], "text": ["abc"], "more": [[1, 2]]})
    with new_pipeline() as p:
        result = p | beam.Create([block]) | EmbedText(LengthEncoder())
        assert result.element_type is Block
        assert_that(
            result | beam.Map(lambda b: b.batch.to_pylist()),
            equal_to([[{"id": 1, "text": "abc", "more": [1, 2], "embedding": [1.0, 3.0]}]]),
        )


def test_an_embedding_column_that_exists_is_not_overwritten(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with (
        pytest.raises(InputError, match="a column 'embedding' is there already"),
        new_pipeline() as p,
    ):
        (
            p
            | beam.Create([Block.from_pydict({"text": ["a"], "embedding": [1]})])
            | EmbedText(LengthEncoder())
        )


class Halves(NamedTuple):
    short: beam.PCollection
    long: beam.PCollection


def test_several_results_come_back_by_name_beside_ones_that_are_not_rows(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        rows = to_blocks(p | beam.Create([{"text": "a"}, {"text": "bbb"}]), "text", None)
        lengths = rows.blocks | "Lengths" >> beam.FlatMap(_lengths)
        short = rows.blocks | "Short" >> beam.Map(_up_to, 1).with_output_types(Block)
        long = rows.blocks | "Long" >> beam.Map(_up_to, 9).with_output_types(Block)
        found = back_to_rows(rows, Halves(short, long))
        assert type(found) is Halves
        assert_that(lengths, equal_to([1, 3]), "CheckLengths")
        assert_that(found.short, equal_to([{"text": "a"}]), "CheckShort")
        assert_that(found.long, equal_to([{"text": "a"}, {"text": "bbb"}]), "CheckLong")


def test_results_of_blocks_are_returned_unchanged(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    blocks = new_pipeline() | beam.Create([Block.from_pydict({"text": ["a"]})])
    rows = to_blocks(blocks, "text", None)
    result = Halves(blocks, blocks)
    assert rows.blocks is blocks
    assert back_to_rows(rows, result) is result


def _lengths(block: Block) -> list[int]:
    return [len(text) for text in block.column("text").to_pylist()]


def _up_to(block: Block, length: int) -> Block:
    return block.filter(pa.array([n <= length for n in _lengths(block)]))
