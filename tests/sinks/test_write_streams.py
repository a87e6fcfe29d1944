"""Test that a stream is written pane by pane: complete windows, late rows, nothing twice."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindows,
    Sessions,
    SlidingWindows,
    TimestampedValue,
)

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.panes import window_name
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB, commit_duckdb
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import WriteRejects
from tests.sinks.test_write_parquet import commit, embedded, ids, parts, stage

# rows n<i> at second 10 i; windows of a minute: n0..n5, n6..n11, ...
MINUTES = beam.WindowInto(FixedWindows(60))


def at(first: int, last: int) -> TimestampedValue:
    return TimestampedValue(embedded(first, last), 10 * first)


def stream(*events: TimestampedValue | int) -> test_stream.TestStream:
    """Make a stream of blocks, and of watermarks in seconds."""
    source = test_stream.TestStream(coder=beam.coders.registry.get_coder(Block))
    for event in events:
        if isinstance(event, int):
            source.advance_watermark_to(event)
        else:
            source.add_elements([event])
    return source.advance_watermark_to_infinity()


def streaming() -> beam.Pipeline:
    # the runner that runs TestStream
    return beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))


def sets(folder: Path) -> dict[str, list[str]]:
    """Read the ids by window and pane, from the names of the files."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        _, _, window, pane, *_ = path.name.split("-")
        found.setdefault(f"{window} {pane}", []).extend(pq.read_table(path)["id"].to_pylist())
    return {name: sorted(rows) for name, rows in found.items()}


FIRST, SECOND = "19700101T000000_19700101T000100", "19700101T000100_19700101T000200"


def test_every_pane_of_every_window_becomes_a_set_of_files_and_late_rows_are_not_lost(
    tmp_path: Path,
) -> None:
    # n1 to n5 arrive after their window, whose own allowed lateness is zero
    source = stream(
        at(0, 1), at(6, 8), 61, at(2, 3), at(8, 9), 121, at(1, 2), at(3, 5), 36_000, at(5, 6)
    )
    with streaming() as p:
        p | source | MINUTES | WriteVectorsToParquet(str(tmp_path), mode="append")
    found = sets(tmp_path)
    assert found[f"{FIRST} 0"] == ["n0"]
    assert found[f"{SECOND} 0"] == ["n6", "n7", "n8"]
    assert sorted(found) == [f"{FIRST} {pane}" for pane in range(len(found) - 1)] + [f"{SECOND} 0"]
    assert sorted(itertools.chain(*found.values())) == [f"n{i}" for i in range(9)]


def test_a_table_gets_every_pane_in_its_own_transaction(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    with streaming() as p:
        ready = p | beam.Create(["ready"])
        sink = WriteVectorsToDuckDB(str(path), run="monday", commit_after=ready)
        p | stream(at(0, 2), at(6, 8), 61, 121, at(3, 4)) | MINUTES | sink
    with duckdb.connect(str(path)) as connection:
        rows = connection.execute("SELECT id FROM vectors ORDER BY id").fetchall()
        assert [row for (row,) in rows] == ["n0", "n1", "n3", "n6", "n7"]
        ledger = 'SELECT run, "table", "window", pane, rows FROM beam_gpte_commits ORDER BY ALL'
        panes = [(FIRST, 0, 2), (FIRST, 1, 1), (SECOND, 0, 2)]
        assert connection.execute(ledger).fetchall() == [
            ("monday", "vectors", *pane) for pane in panes
        ]
    assert [name for name in parts(tmp_path) if not name.startswith(".")] == ["corpus.duckdb"]


def test_panes_are_discarding_whatever_the_stream_was(tmp_path: Path) -> None:
    # an accumulating trigger would give every pane the rows of the previous ones
    early = trigger.AfterWatermark(early=trigger.AfterCount(1))
    window = beam.WindowInto(
        FixedWindows(60), trigger=early, accumulation_mode=trigger.AccumulationMode.ACCUMULATING
    )
    sink = WriteVectorsToParquet(str(tmp_path), mode="append")
    with streaming() as p:
        p | stream(at(0, 1), 5, at(1, 2), 15, at(2, 3), 61, at(3, 4)) | window | sink
    found = sets(tmp_path)
    assert len(found) >= 3
    assert Counter(itertools.chain(*found.values())) == Counter(["n0", "n1", "n2", "n3"])


def test_a_stream_in_the_global_window_needs_a_trigger(tmp_path: Path) -> None:
    # the stream's own trigger fires only once, the sink's again and again
    fires = beam.WindowInto(
        GlobalWindows(),
        trigger=trigger.AfterCount(1),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )
    sink = WriteVectorsToParquet(str(tmp_path), mode="append")
    with streaming() as p:
        p | stream(at(0, 1), 5, at(1, 2), 15, at(2, 3)) | fires | sink
    assert sets(tmp_path) == {"global 0": ["n0"], "global 1": ["n1"], "global 2": ["n2"]}
    with pytest.raises(InputError, match=r"global window never completes; add beam\.WindowInto"):
        streaming() | stream(at(0, 1)) | WriteVectorsToParquet(str(tmp_path), mode="append")


def test_a_stream_cannot_replace_and_a_sink_cannot_wait_for_a_stream(tmp_path: Path) -> None:
    p = streaming()
    blocks = p | stream(at(0, 1)) | MINUTES
    with pytest.raises(InputError, match=r'cannot replace a whole folder; pass mode="append"'):
        blocks | "a" >> WriteVectorsToParquet(str(tmp_path))
    with pytest.raises(
        InputError, match=r'cannot replace a whole table; pass mode="upsert" or mode="insert"'
    ):
        blocks | "b" >> WriteVectorsToDuckDB(str(tmp_path / "x.duckdb"), mode="replace")
    with pytest.raises(InputError, match="commit_after is a stream, which never completes"):
        blocks | "c" >> WriteVectorsToDuckDB(str(tmp_path / "x.duckdb"), commit_after=blocks)


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_bounded_rows_in_windows_are_written_by_window(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    barrier = "commits after"
    with new_pipeline(mode) as p:
        blocks = (
            p
            | beam.Create([at(i, i + 3) for i in (0, 3, 6)])
            | beam.Map(lambda block: block).with_output_types(Block)
        )
        windowed = blocks | MINUTES
        done = p | barrier >> beam.Create([1])
        windowed | WriteVectorsToParquet(str(tmp_path / "out"), mode="append", commit_after=done)
        windowed | WriteVectorsToDuckDB(str(tmp_path / "corpus.duckdb"))
        windowed | WriteRejects(str(tmp_path / "rejects"))
    rows = [f"n{i}" for i in range(9)]
    assert sets(tmp_path / "out") == {f"{FIRST} 0": rows[:6], f"{SECOND} 0": rows[6:]}
    with duckdb.connect(str(tmp_path / "corpus.duckdb")) as connection:
        assert connection.execute("SELECT id FROM vectors ORDER BY id").fetchall() == [
            (row,) for row in rows
        ]
        assert connection.execute(
            "SELECT sum(rows), count(*) FROM beam_gpte_commits"
        ).fetchall() == [(9, 2)]
    rejects = sorted((tmp_path / "rejects").glob("rejects-*-*_*-0-*.jsonl"))
    assert sum(len(path.read_text().splitlines()) for path in rejects) == 9


def test_a_row_in_two_windows_is_in_both_and_sessions_are_not_merged(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    with new_pipeline() as p:
        blocks = (
            p
            | beam.Create([at(0, 1), at(1, 2)])
            | beam.Map(lambda block: block).with_output_types(Block)
        )
        sliding = blocks | "Sliding" >> beam.WindowInto(SlidingWindows(20, 10))
        sliding | "A" >> WriteVectorsToParquet(str(tmp_path / "sliding"), mode="append")
        sessions = blocks | "Sessions" >> beam.WindowInto(Sessions(60))
        sessions | "B" >> WriteVectorsToParquet(str(tmp_path / "sessions"), mode="append")
    assert sorted(sets(tmp_path / "sliding").values()) == [["n0"], ["n0", "n1"], ["n1"]]
    assert sorted(sets(tmp_path / "sessions").values()) == [["n0"], ["n1"]]


def test_a_pane_that_is_sent_again_changes_nothing(tmp_path: Path) -> None:
    pane = Pane("w", 0)
    staged, destination = stage(tmp_path, "parquet", [[embedded(0, 2)], [embedded(2, 3)]], run="r")
    first = commit(staged, destination, pane, "append")
    names = parts(tmp_path)
    assert commit(staged, destination, pane, "append") == first  # a bundle is retried
    # another process, other bundles, the same rows
    again, other = stage(tmp_path, "parquet", [[embedded(0, 3)]], run="r")
    assert commit(again, other, pane, "append") == []
    assert ids(tmp_path) == ["n0", "n1", "n2"]
    assert [name for name in parts(tmp_path) if not name.startswith(".")] == [
        name for name in names if not name.startswith(".")
    ]
    commit(*stage(tmp_path, "parquet", [[embedded(3, 4)]], run="r"), Pane("w", 1), "append")
    commit(*stage(tmp_path, "parquet", [[embedded(4, 5)]], run="another"), pane, "append")
    assert ids(tmp_path) == [f"n{i}" for i in range(5)]


def test_a_set_that_a_killed_run_left_incomplete_is_removed_or_written_again(
    tmp_path: Path,
) -> None:
    pane, bundles = Pane("w", 0), [[embedded(0, 1)], [embedded(1, 2)], [embedded(2, 3)]]
    for run in ("r", "s"):
        staged, destination = stage(tmp_path, "parquet", bundles, run=run)
        commit(staged, destination, pane, "append")
        first = sorted(tmp_path.glob(f"part-{destination.run_hash}-*"))[0]
        first.unlink()  # as after a kill between two renames
        # a temporary folder would show that the run is alive, as long as the process is
        shutil.rmtree(destination.temporary, ignore_errors=True)
    assert len(ids(tmp_path)) == 2  # of s; its commit removed the leftovers of r
    commit(*stage(tmp_path, "parquet", bundles, run="r"), pane, "append")  # r is repeated, s is not
    assert ids(tmp_path) == ["n0", "n1", "n2"]


def test_a_pane_half_moved_is_completed_by_the_next_attempt_while_other_panes_are_written(
    tmp_path: Path,
) -> None:
    staged, destination = stage(tmp_path, "parquet", [[embedded(0, 1)], [embedded(1, 2)]], run="r")
    name = destination.set_name("part", Pane("w", 0), [file.path for file in staged])
    Path(staged[0].path).rename(tmp_path / f"{name}-00000-of-00002.parquet")
    # the worker stopped; now another run of the same process commits
    commit(*stage(tmp_path, "parquet", [[embedded(5, 6)]]), Pane("v", 0), "append")
    commit(staged, destination, Pane("w", 0), "append")
    assert ids(tmp_path) == ["n0", "n1", "n5"]


def test_a_pane_in_the_ledger_is_not_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "c.duckdb"
    table = Table(str(path), "vectors", "id", "insert")

    def load(first: int, last: int, run: str, pane: Pane) -> list:
        staged, destination = stage(tmp_path, "duckdb-test", [[embedded(first, last)]], run=run)
        return commit_duckdb(staged, pane, destination, table)

    assert [file.rows for file in load(0, 2, "r", Pane("w", 0))] == [2]
    assert load(0, 2, "r", Pane("w", 0)) == []
    assert [file.rows for file in load(2, 3, "r", Pane("w", 1))] == [1]
    assert [file.rows for file in load(3, 4, "r", WHOLE)] == [1]
    with pytest.raises(
        InputError, match=r"1 ids are already in table 'vectors', such as 'n3'.*upsert"
    ):
        load(3, 5, "another", WHOLE)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT id FROM vectors ORDER BY id").fetchall() == [
            (f"n{i}",) for i in range(4)
        ]


def test_windows_are_named_by_start_and_end() -> None:
    windows = beam.transforms.window
    assert window_name(windows.IntervalWindow(0, 90.25)) == "19700101T000000_19700101T000130.250000"
    assert window_name(windows.GlobalWindow()) == "global"
    # rows without a timestamp lie before the year 1
    [ages] = FixedWindows(60).assign(
        windows.WindowFn.AssignContext(beam.utils.timestamp.MIN_TIMESTAMP)
    )
    assert window_name(ages).startswith("minus9223372036")
