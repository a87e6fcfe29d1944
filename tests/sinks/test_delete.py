"""A deletion takes the rows of ids out of a folder or a table, and touches nothing else."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import Block, Deleted, DeleteVectors, InputError, ReplaceOptions
from tests.conftest import MODES
from tests.examples import keep, kept
from tests.sinks.changes import SINKS, Pipelines, append, create, files, place, rows_of, stored
from tests.sinks.test_sync import ODD_IDS, chunk, chunks


@pytest.fixture(params=SINKS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, then a database."""
    return place(tmp_path, request.param)


def delete(p: beam.Pipeline, path: str, ids: list, **options: Any) -> int:
    """Delete ids, and return how many rows went, as the transform gives it."""
    folder = str(Path(path).parent)
    deletion = DeleteVectors(path, replacing=ReplaceOptions(**options))
    _ = p | beam.Create(ids) | deletion | beam.Map(keep, folder, "deleted")
    p.run().wait_until_finish()
    found: Deleted = kept(folder, "deleted")[-1]
    assert found.path == path
    return found.rows


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_ids_go(path: str, new_pipeline: Pipelines, mode: str) -> None:
    append(path, rows_of("ab"), rows_of("cd"), rows_of("ef"))
    assert delete(new_pipeline(mode), path, ["b", "c", "d", "x", "b"]) == 3
    assert sorted(stored(path)) == ["a", "e", "f"]


def test_files_without_such_rows_are_not_touched(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    append(path, rows_of("ab"), rows_of("cd"))
    before = files(path)
    assert delete(new_pipeline(), path, ["x"]) == 0
    assert files(path) == before
    assert delete(new_pipeline(), path, ["a"]) == 1
    assert len(before.items() & files(path).items()) == 1


def test_the_id_of_a_text_takes_its_chunks(path: str, new_pipeline: Pipelines) -> None:
    append(path, chunks(chunk("a", 0), chunk("a", 1), chunk("b", 0), chunk("b", 1)))
    assert delete(new_pipeline(), path, ["a", "b#1"]) == 3
    assert sorted(stored(path)) == ["b#0"]


@pytest.mark.parametrize(
    "ids",
    [
        [2, 3],
        ["2", 3],
        [{"id": 2}, {"id": "3", "why": "withdrawn"}, {"id": None}],
        [beam.Row(id=2), beam.Row(id=3)],
        [pa.table({"id": [2, 3, None]})],
        [pa.record_batch({"id": ["2", "3"]})],
        [Block.from_pydict({"id": pa.array(["2", "3"]).dictionary_encode()})],
        [np.int64(2), np.int64(3)],
    ],
    ids=str,
)
def test_ids_come_as_strings_integers_or_rows(
    path: str, new_pipeline: Pipelines, ids: list
) -> None:
    append(path, Block.from_pydict({"id": [1, 2, 3, 4]}))
    assert delete(new_pipeline(), path, ids) == 2
    assert sorted(stored(path)) == ["1", "4"]


def test_strange_ids_are_compared_as_they_are(path: str, new_pipeline: Pipelines) -> None:
    append(path, Block.from_pydict({"id": ODD_IDS, "n": list(range(len(ODD_IDS)))}))
    assert delete(new_pipeline(), path, ODD_IDS[1::2]) == len(ODD_IDS[1::2])
    assert sorted(stored(path)) == sorted(ODD_IDS[::2])


def test_all_rows_of_a_folder_may_go(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"), rows_of("c"))
    assert delete(new_pipeline(), path, list("abc")) == 3
    assert stored(path) == {}
    append(path, rows_of("d"))
    assert list(stored(path)) == ["d"]


def test_rows_go_from_their_partitions(tmp_path: Path, new_pipeline: Pipelines) -> None:
    path = place(tmp_path, "parquet")
    block = rows_of("abcd", lang=pa.array(["de", "en", None, "de"]))
    append(path, block, partition_by="lang")
    before = files(path)
    assert delete(new_pipeline(), path, ["a", "c"]) == 2
    assert {name: row["lang"] for name, row in stored(path).items()} == {"b": "en", "d": "de"}
    assert len(before.items() & files(path).items()) == 1
    assert sorted(entry.name for entry in Path(path).iterdir() if entry.is_dir()) == [
        "lang=de",
        "lang=en",
    ]


@pytest.mark.parametrize("keep_previous", [False, True])
def test_a_previous_state_goes_too_unless_it_is_kept(
    tmp_path: Path, new_pipeline: Pipelines, keep_previous: bool
) -> None:
    path = place(tmp_path, "parquet")
    append(path, rows_of("ab"), rows_of("cd"))
    delete(new_pipeline(), path, ["a"], keep_previous=True)
    delete(new_pipeline(), path, ["c" if keep_previous else "x"], keep_previous=keep_previous)
    left = list(Path(path).glob(".beam-gpte-previous-*/part-*.kept"))
    ids = [pq.read_table(file)["id"].to_pylist() for file in left]
    assert ids == ([["c", "d"]] if keep_previous else [])


def test_mistakes_are_named(tmp_path: Path, new_pipeline: Pipelines) -> None:
    for sink in SINKS:
        path = place(tmp_path, sink)
        append(path, rows_of("ab"))
        with pytest.raises(InputError, match="^DeleteVectors: .*no column 'key'"):
            delete(new_pipeline(), path, ["a"], id_column="key")
        with pytest.raises(InputError, match=r"^DeleteVectors: 1\.5 is not an id|not a row"):
            delete(new_pipeline(), path, [1.5])
        with pytest.raises(InputError, match="^DeleteVectors: no column 'id'; rows have key"):
            delete(new_pipeline(), path, [{"key": "a"}])
        with pytest.raises(InputError, match="True is not an id"):
            delete(new_pipeline(), path, [True])
        assert sorted(stored(path)) == ["a", "b"]
    none = str(tmp_path / "none.duckdb")
    with pytest.raises(InputError, match="there is no such file"):
        delete(new_pipeline(), none, ["a"])
    assert not Path(none).exists()
    with pytest.raises(InputError, match="no table 'other'; it has beam_gpte_commits, vectors"):
        _ = ["a"] | DeleteVectors(place(tmp_path, "duckdb"), "other")
    with pytest.raises(InputError, match="keep_previous"):
        DeleteVectors("x.duckdb", replacing=ReplaceOptions(keep_previous=True))
    with pytest.raises(InputError, match="path is empty"):
        DeleteVectors("")


def test_ids_of_a_stream_or_window_are_refused(new_pipeline: Pipelines) -> None:
    rows = create(new_pipeline(), [rows_of("a")]) | beam.WindowInto(beam.window.FixedWindows(1))
    with pytest.raises(InputError, match="give a bounded collection"):
        _ = rows | DeleteVectors("x")
