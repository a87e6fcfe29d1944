"""Test that a reject is one readable line, whatever its row contains."""

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.json
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import WriteRejects
from tests.sinks.test_write_parquet import parts, run, write


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("rejects-*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]


def reject(identifier: int, reason: str, **columns: pa.Array) -> Block:
    return Block.from_pydict({"id": [identifier], **columns, "reject_reason": [reason]})


def test_a_reject_is_a_line_that_people_and_tools_can_read(tmp_path: Path) -> None:
    write([reject(1, "no text", title=pa.array(["Größe 大"]))], WriteRejects(str(tmp_path)))
    [path] = tmp_path.glob("*")
    assert (
        path.read_text(encoding="utf-8")
        == '{"id": 1, "title": "Größe 大", "reject_reason": "no text"}\n'
    )
    assert pa.json.read_json(path).to_pylist() == lines(tmp_path)
    assert pl.read_ndjson(path).to_dicts() == lines(tmp_path)


def test_blocks_of_different_columns_go_to_different_files(tmp_path: Path) -> None:
    blocks = [reject(1, "a"), reject(2, "b", title=pa.array(["x"])), reject(3, "c")]
    write(blocks, WriteRejects(str(tmp_path)))
    assert len(parts(tmp_path)) == 2
    for path in tmp_path.glob("*"):
        assert pa.json.read_json(path).num_rows in (1, 2)
    assert sorted(row["id"] for row in lines(tmp_path)) == [1, 2, 3]


def test_no_value_is_too_odd_for_a_line(tmp_path: Path) -> None:
    columns = {
        "bytes": pa.array([b"ab\xff"]),
        "broken": pa.StringArray.from_buffers(
            1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")
        ),
        "when": pa.array([1], pa.timestamp("ns", "UTC")),
        "day": pa.array([datetime.date(2026, 1, 2)]),
        "price": pa.array([decimal.Decimal("1.50")]),
        "score": pa.array([float("nan")]),
        "vector": pa.array([[0.5, float("inf")]], pa.list_(pa.float32(), 2)),
        "tags": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "nothing": pa.nulls(1),
        "nested": pa.array([{"at": datetime.datetime(2026, 1, 2, 3)}]),
    }
    write([Block.from_pydict(columns)], WriteRejects(str(tmp_path)))
    assert lines(tmp_path) == [
        {
            "bytes": "ab\\xff",
            "broken": "a\\xff",
            "when": "1970-01-01T00:00:00+00:00",
            "day": "2026-01-02",
            "price": "1.50",
            "score": None,
            "vector": [0.5, None],
            "tags": [["a", 1]],
            "nothing": None,
            "nested": {"at": "2026-01-02T03:00:00"},
        }
    ]


def test_previous_rejects_are_removed_even_when_there_are_none_now(tmp_path: Path) -> None:
    write([], WriteRejects(str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    (tmp_path / "rejects-of-mine.jsonl").write_text("{}\n")
    write([reject(1, "a")], WriteRejects(str(tmp_path)))
    write([reject(2, "b")], WriteRejects(str(tmp_path)))
    assert [row for row in lines(tmp_path) if row] == [{"id": 2, "reject_reason": "b"}]
    write([], WriteRejects(str(tmp_path)))
    assert parts(tmp_path) == ["rejects-of-mine.jsonl"]


def test_rejects_wait_for_the_barrier(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    pipeline = new_pipeline("two threads")
    barrier = pipeline | beam.Impulse() | beam.Map(lambda _: 1 // 0)
    blocks = pipeline | beam.Create([reject(1, "a")]).with_output_types(Block)
    _ = blocks | WriteRejects(str(tmp_path), commit_after=barrier)
    with pytest.raises(Exception, match="division"):
        run(pipeline)
    assert lines(tmp_path) == []


def test_an_empty_path_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="path is empty"):
        WriteRejects("")


def test_more_rejects_than_allowed_fail_when_they_are_written(tmp_path: Path) -> None:
    blocks = [reject(1, "a"), reject(2, "b", title=pa.array(["x"]))]
    write(blocks, WriteRejects(str(tmp_path), max_rejects=2))
    with pytest.raises(
        InputError, match="2 rows rejected, more than max_rejects 1; see their reasons in /"
    ):
        write(blocks, WriteRejects(str(tmp_path), max_rejects=1))
    assert sorted(row["id"] for row in lines(tmp_path)) == [1, 2]
    with pytest.raises(InputError, match="max_rejects is -1"):
        WriteRejects(str(tmp_path), max_rejects=-1)


def write_beside(
    new_pipeline: Callable[..., beam.Pipeline], folder: Path, good: list[Any], bad: list[Block]
) -> None:
    """Write good rows by a sink that mirrors them, once the bad ones are written."""
    with new_pipeline() as p:
        usable = p | "good" >> beam.Create(good)
        rejects = p | "bad" >> beam.Create(bad).with_output_types(Block)
        written = rejects | WriteRejects(str(folder / "rejects"), usable=usable)
        usable | WriteVectorsToParquet(str(folder / "rows"), "mirror", commit_after=written)


def test_without_a_usable_row_the_previous_output_stays(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    row, name = {"id": 7, "text": "good"}, "no row is usable: 2 were rejected, see their reasons"
    write_beside(new_pipeline, tmp_path, [row], [reject(1, "a")])
    before = parts(tmp_path / "rows"), lines(tmp_path / "rejects")
    with pytest.raises(Exception, match="no row was read, usable or not; the previous output"):
        write_beside(new_pipeline, tmp_path, [], [])
    assert (parts(tmp_path / "rows"), lines(tmp_path / "rejects")) == before
    with pytest.raises(Exception, match=f"WriteRejects: {name}"):
        write_beside(new_pipeline, tmp_path, [], [reject(2, "b"), reject(3, "b")])
    assert parts(tmp_path / "rows") == before[0]
    assert sorted(line["id"] for line in lines(tmp_path / "rejects")) == [2, 3]
    write_beside(new_pipeline, tmp_path, [{"id": 8, "text": "better"}], [])
    assert lines(tmp_path / "rejects") == []


def test_a_stream_has_no_number_of_usable_rows(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    pipeline = new_pipeline()
    rows = pipeline | beam.Create([1]) | beam.WindowInto(beam.window.FixedWindows(60))
    rejects = pipeline | "bad" >> beam.Create([reject(1, "a")]).with_output_types(Block)
    with pytest.raises(InputError, match="WriteRejects: usable is for whole collections, not for"):
        rejects | WriteRejects("rejects", usable=rows)
