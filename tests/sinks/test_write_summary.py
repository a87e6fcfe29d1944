"""Test that a summary counts the rows of every collection and has all reports."""

import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.window import FixedWindows, Sessions

from beam_gpte import Block, InputError, WriteRejects, WriteSummary
from beam_gpte.sinks.final_names import WrittenFile
from tests.sinks.test_write_parquet import run


def block(**columns: list) -> Block:
    return Block(pa.RecordBatch.from_pydict(columns))


def test_rows_are_counted_rejects_by_reason_and_reports_kept(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = tmp_path / "summary.json"
    reasons = ["text is null", "text is too long: 9", "text is too long: 7"]
    with new_pipeline() as p:
        found = {
            "rows": p | "Rows" >> beam.Create([block(id=[1, 2]), block(id=[3, 4, 5])]),
            "files": p | "Files" >> beam.Create([WrittenFile("a", 5)]),
            "rejected": p | "Rejected" >> beam.Create([block(id=[6, 7, 8], reject_reason=reasons)]),
            "plain": p
            | "Plain" >> beam.Create([{"id": 9, "reject_reason": "text is null"}, {"id": 10}]),
            "none": p | "None" >> beam.Create([]),
            "steps": p | "Steps" >> beam.Create([{"step": "b", "at": float("nan")}, {"step": "a"}]),
            "no steps": p | "NoSteps" >> beam.Create([]),
        }
        found | WriteSummary(str(path), reports=("steps", "no steps"))
    assert json.loads(path.read_text()) == {
        "rows": 5,
        "files": 1,
        "rejected": 3,
        "plain": 2,
        "none": 0,
        "steps": [{"step": "a"}, {"step": "b", "at": None}],
        "no steps": [],
        "reasons": {"text is null": 2, "text is too long": 2},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_run_that_fails_writes_none(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    p = new_pipeline()
    failing = p | "Fail" >> beam.Create([0]) | beam.Map(lambda n: 1 / n)
    p | beam.Create([{"id": 1}]) | WriteSummary(f"{tmp_path}/s.json", commit_after=failing)
    with pytest.raises(Exception, match="by zero"):
        run(p)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_found_before_anything_runs(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with pytest.raises(InputError, match="path is empty"):
        WriteSummary("")
    p = new_pipeline()
    with pytest.raises(InputError, match="no collection 'steps'; the collections are rows"):
        {"rows": p | beam.Create([1])} | WriteSummary("s.json", reports=("steps",))


@pytest.mark.parametrize("windows", [FixedWindows(60), Sessions(60)], ids=["fixed", "sessions"])
def test_a_collection_in_windows_is_refused_whose_rows_would_not_be_counted(
    windows: beam.WindowInto, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    rows = new_pipeline() | beam.Create([{"id": 1}]) | beam.WindowInto(windows)
    with pytest.raises(InputError, match="^kept: WriteSummary counts whole collections"):
        _ = {"kept": rows} | WriteSummary("s.json")


@pytest.mark.parametrize("windows", [FixedWindows(60), Sessions(60)], ids=["fixed", "sessions"])
def test_a_summary_waits_for_a_collection_in_windows(
    windows: beam.WindowInto, tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    p = new_pipeline()
    failing = p | "Fail" >> beam.Create([0]) | beam.WindowInto(windows) | beam.Map(lambda n: 1 / n)
    rows = p | beam.Create([{"id": 1}])
    rows | WriteSummary(f"{tmp_path}/s.json", commit_after=failing)
    rejects = WriteRejects(f"{tmp_path}/rejects", commit_after=failing, usable=rows)
    rows | rejects
    with pytest.raises(Exception, match="by zero"):
        run(p)
    assert not list(tmp_path.rglob("*.json*"))
