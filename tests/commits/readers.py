"""Read a folder in a loop while it is changed, and say which state of it each read has seen.

writer: replace | sync | compact, with a version number in every row --> folder <-- reader, in a
loop: list, open, read --> the versions of the rows that it has seen

After a change the writer waits until every read that has begun has ended, so that no read spans two
changes.
"""

import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq

from beam_gpte import Block, ReadVectors
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.folders.commit_rewritten import commit_changes
from beam_gpte.sinks.write_parquet import commit_parquet, commit_sync
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_vectors import read_vectors
from tests.commits import changes
from tests.programs import PRELOAD
from tests.sinks.test_write_parquet import stage

FILES, ROWS = 3, 2  # of each state, and of a file
REPLACED = "another run has replaced this file since it was listed"
FAILED = "failed: "


@dataclasses.dataclass
class Reader:
    """Hold how many reads of a process have begun and ended, and whether it is to end."""

    begun: Any
    ended: Any
    stop: Any


def replace(out: str, version: int, keep: bool) -> None:
    """Replace the folder by rows of a version, in several files."""
    staged, destination = stage_version(out, version)
    commit_parquet(staged, Pane(), destination, "replace", keep_previous=keep)


def sync(out: str, version: int, keep: bool) -> None:
    """Sync the folder with rows of a version."""
    staged, destination = stage_version(out, version)
    found = changes.find_changes(staged, destination)
    commit_sync(staged, Pane(), found, destination, (), keep, False)


def compact(out: str, _: int, keep: bool) -> None:
    """Put the files of the folder together."""
    _, destination = stage(out, "parquet", [])
    commit_changes(changes.find_small(destination), destination, keep)


def stage_version(out: str, version: int) -> Any:
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


def by_function(out: str) -> list[tuple[str, str]]:
    """Read without Beam."""
    rows = [row for block in read_vectors(out) for row in block.batch.to_pylist()]
    return [(row["id"], row["text"]) for row in rows]


def by_files(out: str) -> list[tuple[str, str]]:
    """Read what a glob matches, as `ReadCorpus` does."""
    rows: list[tuple[str, str]] = []
    for match in match_files(f"{out}/*.parquet"):
        with reading(match.path), open_file(match.path) as file:
            found = pq.read_table(file).to_pydict()
        rows += zip(found["id"], found["text"], strict=True)
    return rows


def by_pipeline(out: str) -> list[tuple[str, str]]:
    """Read with Beam."""
    with tempfile.NamedTemporaryFile("r") as file:
        with beam.Pipeline("FnApiRunner") as pipeline:
            pipeline | ReadVectors(out) | beam.Map(_append_rows, file.name)
        lines = [line.split() for line in file]
    return [(name, text) for name, text in lines]


def _append_rows(block: Block, path: str) -> None:
    columns = block.batch.to_pydict()
    with Path(path).open("a") as file:
        for name, text in zip(columns["id"], columns["text"], strict=True):
            file.write(f"{name} {text}\n")


def read_on(
    read: Callable, out: str, log: Path, reader: Reader, environment: dict[str, str]
) -> None:
    """Read until the writer has ended; note the versions of each read, or why it failed."""
    os.environ.update(environment)
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


def check_reads(read: Callable, out: str, keep: bool, log: Path, rounds: int) -> None:
    """Read in a process while this one changes the folder: each read sees one state of it.

    Args:
      read: gives ids and versions of a folder.
      out: the folder, local or in an object store.
      keep: whether what is replaced is kept; else a read may fail, as its file was replaced.
      log: gets a line for each read.
      rounds: each of a replacement, a sync and a compaction.
    """
    replace(out, 0, keep)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "tests.commits.kills"])
    reader = Reader(context.Value("i", 0), context.Value("i", 0), context.Event())
    process = context.Process(target=read_on, args=(read, out, log, reader, {**os.environ}))
    process.start()
    wait_for(reader, 1)
    for number in range(rounds):
        for change, version in ((replace, 2 * number), (sync, 2 * number + 1), (compact, 0)):
            change(out, version, keep)
            wait_for(reader, reader.begun.value)
    wait_for(reader, reader.begun.value + 1)
    reader.stop.set()
    process.join()
    seen = log.read_text().splitlines()
    failed = [line for line in seen if line.startswith(FAILED)]
    assert all(REPLACED in line for line in failed), failed
    assert not (keep and failed), failed
    versions = [int(line) for line in seen if not line.startswith(FAILED)]
    assert versions == sorted(versions)
    assert versions[-1] == 2 * rounds - 1
