"""A compaction leaves the rows as they are, in fewer files."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import CompactVectors, InputError
from tests.conftest import MODES
from tests.sinks.changes import Pipelines, append, changes, files, place, rows_of, stored, sync
from tests.sinks.test_write_parquet import MINILM, embedded


@pytest.fixture
def path(tmp_path: Path) -> str:
    return place(tmp_path, "parquet")


def compact(p: Pipelines, path: str, mode: str = "in memory", **settings: object) -> None:
    pipeline = p(mode)
    _ = pipeline | CompactVectors(path, **settings)  # type: ignore[arg-type]
    assert changes(pipeline) == {}


def columns(path: str) -> list[list[str]]:
    """The ids of each file, in the order of names."""
    return [
        pq.read_table(Path(path, name), partitioning=None)["id"].to_pylist() for name in files(path)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_small_files_become_one(path: str, new_pipeline: Pipelines, mode: str) -> None:
    append(path, *(embedded(i, i + 3) for i in range(0, 12, 3)))
    before = stored(path)
    first = pq.read_schema(Path(path, next(iter(files(path)))))
    compact(new_pipeline, path, mode)
    assert len(files(path)) == 1
    assert stored(path) == before
    assert pq.read_schema(Path(path, next(iter(files(path))))).equals(first, check_metadata=True)
    once = files(path)
    compact(new_pipeline, path, mode)
    assert files(path) == once


def test_rows_stay_in_order(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ba"), rows_of("dc"), rows_of("fe"))
    order = [name for ids in columns(path) for name in ids]
    compact(new_pipeline, path)
    assert columns(path) == [order]


def test_large_files_stay_and_no_new_one_is_larger(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("".join(map(chr, range(0x4E00, 0x5000)))), *map(rows_of, "abcd"))
    sizes = {name: Path(path, name).stat().st_size for name in files(path)}
    small = min(sizes.values())
    large = {name: what for name, what in files(path).items() if sizes[name] > 2 * small}
    compact(new_pipeline, path, max_bytes_per_file=2 * small + small // 2)
    assert large.items() <= files(path).items()
    assert sorted(map(len, columns(path))) == [2, 2, 512]


def test_partitions_and_schemas_are_not_mixed(path: str, new_pipeline: Pipelines) -> None:
    both = pa.array(["de", "en"])
    append(path, rows_of("ab", lang=both), rows_of("cd", lang=both), partition_by="lang")
    compact(new_pipeline, path)
    assert {name.split("/")[0] for name in files(path)} == {"lang=de", "lang=en"}
    assert len(files(path)) == 2
    langs = {name: row["lang"] for name, row in stored(path).items()}
    assert langs == {"a": "de", "b": "en", "c": "de", "d": "en"}


def test_canaries_of_two_runs_do_not_keep_files_apart(path: str, new_pipeline: Pipelines) -> None:
    other = dataclasses.replace(MINILM, model="a folder of the same weights")
    append(path, embedded(0, 2), embedded(2, 4, other), embedded(4, 6), embedded(6, 8, other))
    compact(new_pipeline, path)
    assert len(files(path)) == 2  # one of each name: neither says what the other does
    assert len(stored(path)) == 8


def test_foreign_files_stay(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("a"), rows_of("b"))
    for name in ("mine.parquet", "part-mine.parquet"):
        pq.write_table(pa.table({"id": ["x"], "n": [0]}), Path(path, name))
    before = {name: what for name, what in files(path).items() if "mine" in name}
    compact(new_pipeline, path)
    assert before.items() <= files(path).items()
    assert len(files(path)) == 3


def test_a_sync_after_it_finds_the_same_rows(path: str, new_pipeline: Pipelines) -> None:
    append(path, rows_of("ab"), rows_of("cd"))
    compact(new_pipeline, path)
    assert sync(new_pipeline(), path, [rows_of("abcd")]) == {"unchanged": 4}


def test_nothing_to_compact_is_fine(path: str, new_pipeline: Pipelines) -> None:
    compact(new_pipeline, path)
    append(path, rows_of("ab"))
    before = files(path)
    compact(new_pipeline, path)
    assert files(path) == before


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="path is empty"):
        CompactVectors("")
    with pytest.raises(InputError, match="max_bytes_per_file is 0"):
        CompactVectors("x", 0)
