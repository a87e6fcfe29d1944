"""Readers of a folder in an object store that is changed meanwhile see one state of it, whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commits.readers import by_files, by_function, by_pipeline, check_reads
from tests.files.stores import Store

pytest.importorskip("boto3")


@pytest.mark.parametrize("keep", [False, True], ids=["not keeping", "keeping"])
@pytest.mark.parametrize("read", [by_function, by_files, by_pipeline])
def test_a_reader_sees_one_state_whatever_is_changed_meanwhile(
    read: Callable, keep: bool, store: Store, tmp_path: Path
) -> None:
    out = f"{store.url}/{read.__name__}-{keep}"
    check_reads(read, out, keep, tmp_path / "log", rounds=1)
