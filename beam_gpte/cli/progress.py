"""Show the progress of a local run on its terminal.

blocks --> ReportProgress --> a local file, one number per block --> progress_bar

Workers append to the file, and a thread of the program adds the numbers up. That works across
threads and processes of one machine, where Beam's in-process runners report no metrics before the
end. Remote runners have their own displays.
"""

import contextlib
import dataclasses
import shutil
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import apache_beam as beam
import tqdm

from beam_gpte.elements.block import Block
from beam_gpte.files.scratch import temporary_folder

_REFRESH_SECONDS = 0.5


@dataclasses.dataclass(eq=False)
class ReportProgress(beam.PTransform):
    """Pass blocks through and append their row counts to a local file.

    Attributes:
      path: the file.
    """

    path: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return the same blocks."""
        return blocks | beam.Map(_report, self.path).with_output_types(Block)


@dataclasses.dataclass(frozen=True)
class ProgressFiles:
    """Name the files to which a run reports.

    Attributes:
      read: for rows that were read.
      done: for rows that were embedded.
    """

    read: str
    done: str


@contextlib.contextmanager
def progress_bar(shown: bool) -> Iterator[ProgressFiles | None]:
    """Show a bar on standard error while the context is open, fed by two `ReportProgress`.

    Yields:
      The files for the two, or None if no bar is shown.
    """
    if not shown:
        yield None
        return
    with temporary_folder() as folder:
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
    with open(path, "ab") as file:  # an append of 8 bytes is atomic, whoever else writes
        file.write(struct.pack("<q", len(block)))
    return block


def _watch(files: ProgressFiles, stop: threading.Event, stream: TextIO) -> None:
    # measured once: tqdm would ask standard error, which is redirected by then
    width = shutil.get_terminal_size().columns - 1
    with tqdm.tqdm(
        file=stream, unit=" texts", desc="reading", ncols=width, leave=False, smoothing=0.1
    ) as bar:
        while not stop.wait(_REFRESH_SECONDS):
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
