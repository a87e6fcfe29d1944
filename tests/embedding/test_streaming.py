"""EmbedText and DeduplicateStream in a stream, and the program that runs them until stopped."""

import json
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_gpte import Block, DeduplicateStream, EmbedText, InputError
from beam_gpte.core.columns import TIMESTAMP
from beam_gpte.sources.committed_rows import StreamOutput, all_of, common, only_in
from beam_gpte.sources.row_ranges import RowRanges
from benchmarks.streaming import stream
from tests import programs
from tests.examples import LengthEncoder, WordEncoder, keep, kept
from tests.pages import CHROMIUM, open_page, read_page


def streamed(*events: Any) -> tuple[beam.Pipeline, beam.PCollection]:
    """Make a stream of lists of (row, second), and watermarks: its pipeline and elements."""
    source = test_stream.TestStream()
    for event in events:
        if isinstance(event, list):
            source.add_elements([TimestampedValue(row, second) for row, second in event])
        else:
            source.advance_watermark_to(event)
    source.advance_watermark_to_infinity()
    p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
    return p, p | source


def test_rows_of_a_stream_keep_their_windows_and_times_late_ones_too() -> None:
    rows = [({"id": str(second), "text": "x" * second}, second) for second in (1, 9, 12, 3)]
    p, source = streamed([rows[0], rows[1], rows[2]], 11, [rows[3]])
    embedded = (
        source
        | beam.WindowInto(FixedWindows(10), allowed_lateness=100)
        | EmbedText(LengthEncoder())
    )
    found = embedded | beam.Map(
        lambda row, time=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam: (
            row["id"],
            row["embedding"].tolist(),
            float(time),
            float(window.start),
        )
    )
    expected = [
        ("1", [1, 1], 1, 0),
        ("9", [1, 9], 9, 0),
        ("12", [1, 12], 12, 10),
        ("3", [1, 3], 3, 0),
    ]
    assert_that(found, equal_to(expected))
    p.run().wait_until_finish()


def test_a_row_is_embedded_and_decided_before_the_next_arrives(tmp_path: Path) -> None:
    """No watermark moves between two rows, and the first is out when the second goes in."""
    p, source = streamed(
        [({"id": "a", "text": "one two"}, 1)], [({"id": "b", "text": "two one"}, 2)]
    )
    (
        source
        | "In" >> beam.Map(lambda row: ("in", row["id"]))
        | "KeepIn" >> beam.Map(keep, str(tmp_path), "order")
    )
    decided = source | EmbedText(WordEncoder()) | DeduplicateStream(0.99, 60)
    (
        decided
        | beam.Map(lambda row: ("out", row["id"], row["duplicate_of"]))
        | beam.Map(keep, str(tmp_path), "order")
    )
    p.run().wait_until_finish()
    assert kept(str(tmp_path), "order") == [
        ("in", "a"),
        ("out", "a", None),
        ("in", "b"),
        ("out", "b", "a"),
    ]


def previous_rows() -> list[Block]:
    """Return rows of seconds 1 and 100."""
    vectors = [vector.tolist() for vector in WordEncoder().encode(["one two", "three four"])]
    block = vectors_of([("old", vectors[0]), ("young", vectors[1])])
    return [
        block.with_column(Block.from_pydict({TIMESTAMP: [0]}).schema.field(0), _times([1, 100]))
    ]


def vectors_of(rows: list[tuple[str, list[float]]]) -> Block:
    ids, vectors = zip(*rows, strict=True)
    return Block.from_pydict(
        {"id": list(ids), "embedding": pa.array(list(vectors), pa.list_(pa.float32(), 8))}
    )


def _times(seconds: list[int]) -> pa.Array:
    return pa.array([Timestamp(second).micros for second in seconds], pa.int64())


def test_rows_of_a_previous_run_count_until_the_horizon() -> None:
    rows = [
        ({"id": i, "text": text}, second)
        for i, text, second in [
            ("a", "two one", 59),
            ("b", "one two", 61),
            ("c", "four three", 120),
        ]
    ]
    p, source = streamed([rows[0]], [rows[1]], [rows[2]])
    decided = source | EmbedText(WordEncoder()) | DeduplicateStream(0.99, 60, history=previous_rows)
    # a is 58 seconds after old and repeats it; b is 60 seconds after, and a is removed
    found = decided | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
    assert_that(found, equal_to([("a", "old"), ("b", None), ("c", "young")]))
    p.run().wait_until_finish()


def test_committed_rows_of_several_outputs_are_compared_by_file() -> None:
    first, second = (
        {"a": RowRanges.of([1, 2, 3]), "b": RowRanges.of([1])},
        {"a": RowRanges.of([2, 3, 4])},
    )

    def listed(rows: dict[str, RowRanges]) -> dict[str, list[int]]:
        return {
            name: [n for n in range(6) if n in {*ranges_of(found)}] for name, found in rows.items()
        }

    def ranges_of(found: RowRanges) -> list[int]:
        return np.arange(6)[found.contain(np.arange(6))].tolist()

    assert listed(all_of(first, second)) == {"a": [1, 2, 3, 4], "b": [1]}
    assert listed(common(first, second)) == {"a": [2, 3]}
    assert listed(only_in(first, second)) == {"a": [1], "b": [1]}


def test_one_stream_at_a_time_has_an_output(tmp_path: Path) -> None:
    output = StreamOutput(str(tmp_path), None, "id")
    with output.alone():
        with pytest.raises(
            InputError, match="another stream writes here; stop it, or name another output"
        ):
            with output.alone():
                pass
    with output.alone():
        pass


def test_a_killed_program_started_again_and_stopped_has_every_text_once(
    tmp_path: Path, minilm: str
) -> None:
    page = tmp_path / "page.html"
    more = [
        "--interval",
        "1",
        "--every",
        "2",
        "--horizon",
        "60",
        "--threshold",
        "0.9999",
        "--report",
        str(page),
    ]
    done = stream(tmp_path, minilm, 16, 7, *more)
    assert (done.exit_code, done.lost, done.duplicated, done.in_database) == (0, 0, 0, done.texts)
    assert done.files > 3
    assert "files read" in done.summary
    assert "rows read" in done.summary
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rejected"] == summary["removed"] == 0
    shown = read_page(page).text
    assert f"of {done.texts:,} kept rows of the output, a sample" in shown
    assert "horizon" in shown
    assert "Map" in shown
    assert CHROMIUM is None or open_page(page, tmp_path / "profile")[1] == []


def test_an_immediate_stop_and_mistakes_are_short(tmp_path: Path, minilm: str) -> None:
    arguments = ["embed_stream.py", "--input", f"{tmp_path}/*.jsonl", "--model", minilm]
    done = programs.run(*arguments, expect=2)
    assert done.stderr == "embed_stream.py: neither --output nor --duckdb; give one, or both\n"
    out, err = tmp_path / "printed", tmp_path / "errors"
    began = programs.start(*arguments, "--output", tmp_path / "out", out=out, err=err)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text().startswith("watching")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    began.terminate()
    began.join(60)
    assert (began.exitcode, err.read_text()) == (0, "")
    assert "files read  0" in out.read_text()
