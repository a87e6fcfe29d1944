"""Readers of a folder that is changed meanwhile see one state of it, whole."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.sources import read_vectors as module
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.match_files import match_files
from tests.commits.readers import (
    FILES,
    REPLACED,
    ROWS,
    by_files,
    by_function,
    by_pipeline,
    check_reads,
    compact,
    describe,
    replace,
    sync,
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("keep", [False, True], ids=["not keeping", "keeping"])
@pytest.mark.parametrize("read", [by_function, by_files, by_pipeline])
def test_a_reader_sees_one_state_whatever_is_changed_meanwhile(
    read: Callable, keep: bool, tmp_path: Path
) -> None:
    check_reads(read, str(tmp_path / "out"), keep, tmp_path / "log", rounds=4)


def test_a_reader_that_listed_before_a_change_reads_what_is_kept_of_it(tmp_path: Path) -> None:
    replace(str(tmp_path), 0, keep=False)
    for change, version, rows in ((sync, 1, "0"), (compact, 0, "1"), (replace, 2, "1")):
        listed = [match.path for match in match_files(f"{tmp_path}/*.parquet")]
        change(str(tmp_path), version, keep=True)
        for path in listed:
            with open_file(path) as file:
                assert set(pq.read_table(file)["text"].to_pylist()) == {rows}


def test_a_reader_that_listed_before_a_change_that_keeps_nothing_is_told(tmp_path: Path) -> None:
    replace(str(tmp_path), 0, keep=False)
    for change, version in ((sync, 1), (compact, 0), (replace, 2)):
        path = match_files(f"{tmp_path}/*.parquet")[0].path
        change(str(tmp_path), version, keep=False)
        with pytest.raises(InputError, match=REPLACED), reading(path), open_file(path):
            pass


def test_a_folder_that_changes_while_it_is_listed_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(str(tmp_path), 0, keep=False)
    old = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    find, changed = module.unfinished_files, []

    def find_and_change(*arguments: str) -> set[str]:
        found = find(*arguments)
        if not changed:
            changed.append(True)
            sync(str(tmp_path), 1, keep=False)
            for path, data in old.items():  # which are about to be removed
                path.write_bytes(data)
        return found

    monkeypatch.setattr(module, "unfinished_files", find_and_change)
    assert describe(by_function(str(tmp_path))) == "1"


def test_a_read_of_two_versions_or_of_a_part_is_noticed() -> None:
    whole = [(f"{k}.{n}", "1") for k in range(FILES) for n in range(ROWS)]
    assert describe(whole) == "1"
    assert describe(whole[1:]).startswith("mixed")
    assert describe([*whole, whole[0]]).startswith("mixed")
    assert describe([("0.0", "2"), *whole[1:]]).startswith("mixed")
