"""A rollback puts back what the last change of a folder has replaced, if that was kept."""

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_gpte import CompactVectors, DeleteVectors, InputError, ReplaceOptions
from beam_gpte.sinks.folders.roll_back import roll_back
from tests.sinks.changes import Pipelines, append, files, place, rows_of, stored, sync

KEEP = ReplaceOptions(keep_previous=True)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return place(tmp_path, "parquet")


def delete(path: str, *ids: str) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create(ids) | DeleteVectors(path, replacing=KEEP)


def test_a_sync_is_rolled_back(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"), rows_of("cd"), rows_of("ef"))
    before = stored(path)
    sync(new_pipeline(), path, [rows_of("ac"), rows_of("eg", 1), rows_of("f")], keep_previous=True)
    written = roll_back(path)
    assert stored(path) == before
    assert sum(file.rows for file in written) == 6
    with pytest.raises(InputError, match="no previous state is kept"):
        roll_back(path)


def test_a_sync_that_only_added_rows_is_rolled_back(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"))
    sync(new_pipeline(), path, [rows_of("abc")], keep_previous=True)
    roll_back(path)
    assert sorted(stored(path)) == ["a", "b"]


def test_a_rollback_is_undone_and_done_again(path: str) -> None:
    append(path, rows_of("ab"), rows_of("cd"))
    delete(path, "a", "c", "d")
    for expected in (["a", "b", "c", "d"], ["b"], ["a", "b", "c", "d"]):
        roll_back(path, keep_previous=True)
        assert sorted(stored(path)) == expected


def test_rows_that_were_added_since_stay(path: str) -> None:
    append(path, rows_of("ab"))
    delete(path, "a")
    append(path, rows_of("c"))
    roll_back(path)
    assert sorted(stored(path)) == ["a", "b", "c"]


def test_only_the_last_change_is_kept(path: str) -> None:
    append(path, rows_of("ab"), rows_of("cd"))
    delete(path, "a")
    delete(path, "c")
    roll_back(path)
    assert sorted(stored(path)) == ["b", "c", "d"]


def test_a_compaction_is_rolled_back_with_its_partitions(path: str) -> None:
    both = pa.array(["de", "en"])
    append(path, rows_of("ab", lang=both), rows_of("cd", lang=both), partition_by="lang")
    before = stored(path)
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | CompactVectors(path, keep_previous=True)
    assert len(files(path)) == 2
    roll_back(path)
    assert len(files(path)) == 4
    assert stored(path) == before


def test_foreign_files_stay(path: str) -> None:
    append(path, rows_of("ab"))
    Path(path, "notes.txt").write_text("mine")
    mine = files(path)["notes.txt"]
    delete(path, "a")
    roll_back(path)
    assert files(path)["notes.txt"] == mine


def test_nothing_is_there_to_roll_back(path: str) -> None:
    with pytest.raises(InputError, match="no previous state is kept; write with keep_previous"):
        roll_back(path)
    append(path, rows_of("ab"))
    with pytest.raises(InputError, match="no previous state is kept"):
        roll_back(path)
