"""How far a local run is, shown on its terminal.

Workers append one number a block to a file; the program's thread adds them up. That works across threads and processes of
one machine, where Beam's in-process runners give no metrics before the end. Remote runners have their own displays.
"""

import contextlib
import dataclasses
import shutil
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import apache_beam as beam
import tqdm

from beam_gpte.elements.block import Block

_SECONDS = 0.5  # between two looks


@dataclasses.dataclass(eq=False)
class ReportProgress(beam.PTransform):
    """Pass blocks through and append their row counts to the local file `path`."""

    path: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        return blocks | beam.Map(_report, self.path).with_output_types(Block)


@dataclasses.dataclass(frozen=True)
class ProgressFiles:
    """Where a run reports rows read and rows done; None where nobody looks."""

    read: str
    done: str


@contextlib.contextmanager
def progress_bar(shown: bool) -> Iterator[ProgressFiles | None]:
    """Show a bar on standard error while the block runs, fed by two `ReportProgress` of the pipeline."""
    if not shown:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        files = ProgressFiles(f"{folder}/read", f"{folder}/done")
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(files, stop, sys.stderr), daemon=True)
        watcher.start()
        try:
            yield files
        finally:
            stop.set()
            watcher.join()


def _report(block: Block, path: str) -> Block:
    with open(path, "ab") as file:  # appends of 8 bytes are whole, whoever else writes
        file.write(struct.pack("<q", len(block)))
    return block


def _watch(files: ProgressFiles, stop: threading.Event, stream: TextIO) -> None:
    width = (
        shutil.get_terminal_size().columns - 1
    )  # asked once: tqdm would ask a standard error that is redirected by then
    with tqdm.tqdm(
        file=stream, unit=" texts", desc="reading", ncols=width, leave=False, smoothing=0.1
    ) as bar:
        while not stop.wait(_SECONDS):
            done, read = _total(files.done), _total(files.read)
            if done and bar.total is None:
                bar.reset(total=read)
                bar.set_description_str("embedding", refresh=False)
            bar.update((done if bar.total else read) - bar.n)
            bar.refresh()


def _total(path: str) -> int:
    if not Path(path).exists():
        return 0
    data = Path(path).read_bytes()
    return sum(value for (value,) in struct.iter_unpack("<q", data[: len(data) // 8 * 8]))
