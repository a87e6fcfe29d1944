"""Readers of a folder that is changed meanwhile see one state of it, whole.

writer: replace | sync | compact, with a version number in every row --> folder <-- readers, each in
a loop: list, open, read --> the versions of the rows that it has seen

After a change the writer waits until every read that has begun has ended, so that no read spans two
changes.
"""

import dataclasses
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest

from beam_gpte import Block, ReadVectors
from beam_gpte.core.errors import InputError
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.folders.commit_rewritten import commit_changes
from beam_gpte.sinks.write_parquet import commit_parquet, commit_sync
from beam_gpte.sources import read_vectors as module
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_vectors import read_vectors
from tests.commits import changes
from tests.programs import PRELOAD
from tests.sinks.test_write_parquet import stage

FILES, ROWS = 3, 2  # of each state, and of a file
ROUNDS = 4  # each of a replacement, a sync and a compaction
REPLACED = "another run has replaced this file since it was listed"
FAILED = "failed: "


@dataclasses.dataclass
class Reader:
    """Hold how many reads of a process have begun and ended, and whether it is to end."""

    begun: Any
    ended: Any
    stop: Any


def replace(out: Path, version: int, keep: bool) -> None:
    """Replace the folder by rows of a version, in several files."""
    staged, destination = stage_version(out, version)
    commit_parquet(staged, Pane(), destination, "replace", keep_previous=keep)


def sync(out: Path, version: int, keep: bool) -> None:
    """Sync the folder with rows of a version."""
    staged, destination = stage_version(out, version)
    found = changes.find_changes(staged, destination)
    commit_sync(staged, Pane(), found, destination, (), keep, False)


def compact(out: Path, _: int, keep: bool) -> None:
    """Put the files of the folder together."""
    _, destination = stage(out, "parquet", [])
    commit_changes(changes.find_small(destination), destination, keep)


def stage_version(out: Path, version: int) -> Any:
    """Stage the rows of a version."""
    bundles = [
        [
            Block.from_pydict(
                {"id": [f"{k}.{n}" for n in range(ROWS)], "text": [str(version)] * ROWS}
            )
        ]
        for k in range(FILES)
    ]
    return stage(out, "parquet", bundles)


def by_function(out: Path) -> list[tuple[str, str]]:
    """Read without Beam."""
    rows = [row for block in read_vectors(str(out)) for row in block.batch.to_pylist()]
    return [(row["id"], row["text"]) for row in rows]


def by_files(out: Path) -> list[tuple[str, str]]:
    """Read what a glob matches, as `ReadCorpus` does."""
    rows: list[tuple[str, str]] = []
    for match in match_files(f"{out}/*.parquet"):
        with reading(match.path), open_file(match.path) as file:
            found = pq.read_table(file).to_pydict()
        rows += zip(found["id"], found["text"], strict=True)
    return rows


def by_pipeline(out: Path) -> list[tuple[str, str]]:
    """Read with Beam."""
    rows: list[tuple[str, str]] = []
    path = out.parent / f"read {time.monotonic_ns()}"
    with beam.Pipeline("FnApiRunner") as pipeline:
        pipeline | ReadVectors(str(out)) | beam.Map(_append_rows, str(path))
    for line in path.read_text().splitlines():
        name, _, text = line.partition(" ")
        rows.append((name, text))
    return rows


def _append_rows(block: Block, path: str) -> None:
    columns = block.batch.to_pydict()
    with Path(path).open("a") as file:
        for name, text in zip(columns["id"], columns["text"], strict=True):
            file.write(f"{name} {text}\n")


def read_on(read: Callable, out: Path, log: Path, reader: Reader) -> None:
    """Read until the writer has ended; note the versions of each read, or why it failed."""
    while not reader.stop.is_set():
        reader.begun.value += 1
        try:
            noted = describe(read(out))
        except Exception as error:
            noted = f"{FAILED}{str(error).splitlines()[0]}"
        with log.open("a") as file:
            file.write(f"{noted}\n")
        reader.ended.value += 1


def describe(rows: list[tuple[str, str]]) -> str:
    """Say which version all rows of a state have; or what else it is."""
    versions = {text for _, text in rows}
    whole = Counter(f"{k}.{n}" for k in range(FILES) for n in range(ROWS))
    if len(versions) == 1 and Counter(name for name, _ in rows) == whole:
        return versions.pop()
    return f"mixed: {sorted(rows)}"


def wait_for(reader: Reader, begun: int) -> None:
    """Wait until as many reads have ended."""
    while reader.ended.value < begun:
        time.sleep(0.002)


@pytest.mark.parametrize("keep", [False, True], ids=["not keeping", "keeping"])
@pytest.mark.parametrize("read", [by_function, by_files, by_pipeline])
def test_a_reader_sees_one_state_whatever_is_changed_meanwhile(
    read: Callable, keep: bool, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    replace(out, 0, keep)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "tests.commits.kills"])
    reader = Reader(context.Value("i", 0), context.Value("i", 0), context.Event())
    process = context.Process(target=read_on, args=(read, out, log, reader))
    process.start()
    wait_for(reader, 1)
    for number in range(ROUNDS):
        for change, version in ((replace, 2 * number), (sync, 2 * number + 1), (compact, 0)):
            change(out, version, keep)
            wait_for(reader, reader.begun.value)
    wait_for(reader, reader.begun.value + 1)
    reader.stop.set()
    process.join()
    seen = log.read_text().splitlines()
    failed = [line for line in seen if line.startswith(FAILED)]
    assert all(REPLACED in line for line in failed)
    assert not (keep and failed)
    versions = [int(line) for line in seen if not line.startswith(FAILED)]
    assert versions == sorted(versions)
    assert versions[-1] == 2 * ROUNDS - 1


def test_a_reader_that_listed_before_a_change_reads_what_is_kept_of_it(tmp_path: Path) -> None:
    replace(tmp_path, 0, keep=False)
    for change, version, rows in ((sync, 1, "0"), (compact, 0, "1"), (replace, 2, "1")):
        listed = [match.path for match in match_files(f"{tmp_path}/*.parquet")]
        change(tmp_path, version, keep=True)
        for path in listed:
            with open_file(path) as file:
                assert set(pq.read_table(file)["text"].to_pylist()) == {rows}


def test_a_reader_that_listed_before_a_change_that_keeps_nothing_is_told(tmp_path: Path) -> None:
    replace(tmp_path, 0, keep=False)
    for change, version in ((sync, 1), (compact, 0), (replace, 2)):
        path = match_files(f"{tmp_path}/*.parquet")[0].path
        change(tmp_path, version, keep=False)
        with pytest.raises(InputError, match=REPLACED), reading(path), open_file(path):
            pass


def test_a_folder_that_changes_while_it_is_listed_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(tmp_path, 0, keep=False)
    old = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    find, changed = module.unfinished_files, []

    def find_and_change(*arguments: str) -> set[str]:
        found = find(*arguments)
        if not changed:
            changed.append(True)
            sync(tmp_path, 1, keep=False)
            for path, data in old.items():  # which are about to be removed
                path.write_bytes(data)
        return found

    monkeypatch.setattr(module, "unfinished_files", find_and_change)
    assert describe(by_function(tmp_path)) == "1"


def test_a_read_of_two_versions_or_of_a_part_is_noticed() -> None:
    whole = [(f"{k}.{n}", "1") for k in range(FILES) for n in range(ROWS)]
    assert describe(whole) == "1"
    assert describe(whole[1:]).startswith("mixed")
    assert describe([*whole, whole[0]]).startswith("mixed")
    assert describe([("0.0", "2"), *whole[1:]]).startswith("mixed")
