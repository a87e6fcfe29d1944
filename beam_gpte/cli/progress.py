"""Show what a job on this machine does.

    batch   steps of Beam's runner, `files.meter` --> a bar, or a line every 30 seconds
    stream  `files.meter` --> a line per commit, on standard output

Workers append to the meter's files, and a thread of the program reads them. Remote runners have
their own displays.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import pyarrow.parquet as pq
import tqdm
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_gpte.core.errors import InputError
from beam_gpte.files.meter import BYTES, FOLDER, ROWS, TEXTS, amount, commits
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.sources.corpus_files import file_format
from beam_gpte.sources.match_files import match_files

REFRESH_SECONDS = 0.5  # of a bar
LINE_SECONDS = 30.0  # between two lines where there is no terminal
MAX_FOOTERS = 100  # of Parquet files, that are read to count rows


@dataclasses.dataclass
class Step:
    """Say which step a runner is at.

    Attributes:
      name: of the transforms that it belongs to; a runner fuses their steps.
      number: from 1.
      of: how many there are.
    """

    name: str = ""
    number: int = 0
    of: int = 0


@dataclasses.dataclass(frozen=True)
class Work:
    """Say how much there is to read.

    Attributes:
      bytes: of all files.
      rows: of all files; None if only reading them tells.
    """

    bytes: int
    rows: int | None


@contextlib.contextmanager
def shown_progress(
    shown: bool, command: str, patterns: Sequence[str], stream: TextIO | None = None
) -> Iterator[FnApiRunner | None]:
    """Show the progress of a batch job while the context is open.

    Args:
      shown: whether to; False for jobs that run elsewhere.
      command: begins a line.
      patterns: of the files that are read.
      stream: to write to; standard error by default.

    Yields:
      The runner to use; None if none is shown.
    """
    if not shown:
        yield None
        return
    step, out = Step(), stream or sys.stderr
    with metered() as folder, _watching(_Batch(folder, step, command, patterns, out)):
        yield _runner(step)


@contextlib.contextmanager
def shown_commits(shown: bool, places: Sequence[str]) -> Iterator[None]:
    """Print a line for each commit of a stream while the context is open.

    Args:
      shown: whether to; False for jobs that run elsewhere.
      places: folders and files that it writes to.
    """
    if not shown:
        yield
        return
    with metered() as folder, _watching(_Stream(folder, places, sys.stdout)):
        yield


def work_of(patterns: Sequence[str]) -> Work:
    """Find how much there is to read: bytes, and the rows of Parquet files from their metadata."""
    files = match_files(patterns, [])
    total = sum(file.size_in_bytes for file in files)
    try:
        parquet = {file_format(file.path) for file in files} == {"parquet"}
        if not parquet or len(files) > MAX_FOOTERS:
            return Work(total, None)
        return Work(total, sum(_rows(file.path) for file in files))
    except (InputError, OSError, ValueError, BeamIOError):  # the job says it
        return Work(total, None)


def _rows(path: str) -> int:
    with FileSystems.open(path, compression_type="uncompressed") as file:
        return pq.read_metadata(file).num_rows


@contextlib.contextmanager
def metered() -> Iterator[str]:
    """Provide the meter's folder while the context is open; see `files.meter`."""
    with temporary_folder() as folder:
        os.environ[FOLDER] = folder  # which worker processes have, too
        try:
            yield folder
        finally:
            del os.environ[FOLDER]


@contextlib.contextmanager
def _watching(display: Any) -> Iterator[None]:
    stop = threading.Event()
    watcher = threading.Thread(target=display.watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _runner(step: Step) -> FnApiRunner:
    """Make Beam's in-process runner, which writes down the step that it is at."""
    runner = FnApiRunner()
    run_stages, execute_bundle = runner.run_stages, runner._execute_bundle
    begun: dict[str, int] = {}

    def count(context: Any, stages: Any) -> Any:
        step.of = len(stages)
        return run_stages(context, stages)

    def execute(context: Any, manager: Any, *arguments: Any) -> Any:
        stage = manager.stage
        step.number = begun.setdefault(stage.name, len(begun) + 1)
        labels = [one.unique_name.split("/")[0] for one in stage.transforms]
        own = [label for label in labels if not label.startswith("ref_")]  # others are Beam's
        step.name = ", ".join(dict.fromkeys(own))
        return execute_bundle(context, manager, *arguments)

    for name, method in (("run_stages", count), ("_execute_bundle", execute)):
        setattr(runner, name, method)
    return runner


class _Batch:
    """Show a bar on a terminal, elsewhere a line from time to time."""

    def __init__(
        self, folder: str, step: Step, command: str, patterns: Sequence[str], out: TextIO
    ) -> None:
        self._folder, self._step, self._patterns = folder, step, patterns
        self._command, self._out = command, out
        self._texts = self._embedding = 0  # embedded so far, and the step that does
        self._began = {TEXTS: 0.0, BYTES: time.monotonic()}

    def watch(self, stop: threading.Event) -> None:
        """Show until the event is set."""
        is_terminal = self._out.isatty()
        # measured once: it would be asked of standard error, which is redirected by then
        width = shutil.get_terminal_size().columns - 1 if is_terminal else None
        while not stop.wait(REFRESH_SECONDS if is_terminal else LINE_SECONDS):
            text = self._text(width)
            self._out.write(f"\r{text:<{width}}" if width else f"{self._command}: {text}\n")
            self._out.flush()
        if width:
            self._out.write("\r" + " " * width + "\r")
            self._out.flush()

    @functools.cached_property
    def _work(self) -> Work:
        """How much there is to read; not looked up by a run that ends before anything is shown."""
        return work_of(self._patterns)

    def _text(self, width: int | None) -> str:
        step = self._step
        prefix = f"step {step.number} of {step.of}: "
        texts, read = amount(self._folder, TEXTS), amount(self._folder, BYTES)
        if texts > self._texts:
            self._texts, self._embedding = texts, step.number
        if step.number == self._embedding:
            rows, is_read = amount(self._folder, ROWS), read >= self._work.bytes
            total = self._work.rows or (rows if is_read else None)
            return self._bar(TEXTS, texts, total, width, f"{prefix}embedding", " texts")
        if 0 < read < self._work.bytes:
            return self._bar(BYTES, read, self._work.bytes, width, f"{prefix}reading", "B")
        return prefix + (step.name or "starting")

    def _bar(
        self, figure: str, done: int, total: int | None, width: int | None, prefix: str, unit: str
    ) -> str:
        began = self._began[figure] = self._began[figure] or time.monotonic() - REFRESH_SECONDS
        seconds, scale = time.monotonic() - began, unit == "B"
        bound: Any = None if total is None else max(done, total)
        return tqdm.tqdm.format_meter(
            done, bound, seconds, ncols=width, prefix=prefix, unit=unit, unit_scale=scale
        )


class _Stream:
    """Print a line per commit."""

    def __init__(self, folder: str, places: Sequence[str], out: TextIO) -> None:
        self._folder, self._places, self._out = folder, places, out
        self._rows: Counter[str] = Counter()

    def watch(self, stop: threading.Event) -> None:
        """Print until the event is set, and then what is left."""
        shown, has_ended = 0, False
        while not has_ended:
            has_ended = stop.wait(REFRESH_SECONDS)
            new = commits(self._folder)[shown:]
            shown += len(new)
            for files in new:
                self._print(files)

    def _print(self, files: list[tuple[str, int]]) -> None:
        rows: Counter[str] = Counter()
        for path, count in files:
            within = [place for place in self._places if path.startswith(place)]
            rows[max(within, key=len, default=path)] += count
        self._rows.update(rows)
        for place, count in rows.items():
            now = time.strftime("%H:%M:%S")
            self._out.write(f"{now}  {count:,} rows to {place}, {self._rows[place]:,} in all\n")
        self._out.flush()
