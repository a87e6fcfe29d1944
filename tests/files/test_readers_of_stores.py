"""Readers of a folder in an object store that is changed meanwhile see one state of it, whole."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_gpte.core.errors import ReplacedFileError
from beam_gpte.files.cloud import check_bucket
from beam_gpte.sources.corpus_files import open_file
from beam_gpte.sources.match_files import match_files
from tests.commits.readers import (
    REPLACED,
    by_files,
    by_function,
    by_pipeline,
    check_reads,
    replace,
    sync,
)
from tests.files.stores import Store

FAR = 1 << 30  # a position past all that a reader has in memory


@pytest.mark.sampled(2)
@pytest.mark.parametrize("keep", [False, True], ids=["not keeping", "keeping"])
@pytest.mark.parametrize("read", [by_function, by_files, by_pipeline])
def test_a_reader_sees_one_state_whatever_is_changed_meanwhile(
    read: Callable, keep: bool, store: Store, tmp_path: Path
) -> None:
    check_bucket(store.url)
    out = f"{store.url}/{read.__name__} {keep}"
    check_reads(read, out, keep, tmp_path / "log", rounds=1)


def first_file(store: Store, out: str) -> str:
    """Write a state, and name one of its files."""
    check_bucket(store.url)
    replace(out, 0, keep=False)
    return match_files(f"{out}/*.parquet")[0].path


def test_a_reader_that_has_opened_a_file_reads_on_in_what_is_kept_of_it(store: Store) -> None:
    out = f"{store.url}/kept"
    with open_file(first_file(store, out)) as file:
        sync(out, 1, keep=True)
        file.seek(FAR)
        assert set(pq.read_table(file)["text"].to_pylist()) == {"0"}


def test_a_reader_that_has_opened_a_file_of_which_nothing_is_kept_is_told(store: Store) -> None:
    out = f"{store.url}/opened"
    with open_file(first_file(store, out)) as file:
        replace(out, 1, keep=False)
        file.seek(FAR)
        with pytest.raises(ReplacedFileError, match=REPLACED):
            pq.read_table(file)


def test_an_object_that_is_written_again_while_it_is_read_is_read_to_its_end(store: Store) -> None:
    check_bucket(store.url)
    name = f"again/part-{'0' * 12}-{'0' * 16}-00000-of-00001.parquet"
    data = bytes(range(256)) * (1 << 13)
    store.upload(name, data)
    with open_file(f"{store.url}/{name}") as file:
        assert file.read(10) == data[:10]
        store.upload(name, data)
        assert file.read() == data[10:]
