"""Final names: what stands under one is whole, and a commit that is tried again changes nothing.

    <folder>/part-<run>[-<window>-<pane>]-<i>-of-<n>.parquet

A set of files, all `n` of one run and pane, is there or is not: sets that a killed run left incomplete are removed by the
next commit, and a set that is complete is never written again. So the names are the ledger, and no other file is needed.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.folders import (
    TEMPORARY,
    file_name,
    is_remote,
    list_files,
    list_partitioned,
    remove_files,
    remove_folder,
)
from beam_gpte.sinks.staging import StagedFile

ABANDONED_SECONDS = (
    7 * 86400
)  # a temporary folder of another machine that was not touched for so long is removed
PUBLISHED = re.compile(
    r"(?P<set>(?P<prefix>\w+)-(?P<run>[0-9a-f]{12})(-[\w.]+-\d+)?)-\d{5,}-of-(?P<count>\d{5,})(?P<end>\.\w+)"
)


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A file under its final name, or a database, and how many rows a commit brought into it."""

    path: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Pane:
    """What one commit brings in: a bounded collection as a whole, or one firing of one window.

    Attributes:
      window: its name, empty for a whole collection; letters, digits, underscores and dots.
      index: counts the firings of a window from 0.
    """

    window: str = ""
    index: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.window


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where one run of one sink writes.

    Attributes:
      folder: holds the final files and, while the run lasts, the temporary folder.
      sink: names the sink, so that two sinks may share a folder and each removes its own leftovers only.
      run: the run's name; a random one unless one was given.
      owner: machine, process and a random part: whose the temporary folder is.
    """

    folder: str
    sink: str
    run: str
    owner: str

    @classmethod
    def new(cls, folder: str, sink: str, run: str | None = None) -> "Destination":
        token = uuid.uuid4().hex
        return cls(folder, sink, run or token, f"{_machine()}-{os.getpid()}-{token}")

    @property
    def run_hash(self) -> str:
        """The run in the names of files."""
        return _hash(self.run, 12)

    @property
    def temporary(self) -> str:
        return FileSystems.join(self.folder, f"{TEMPORARY}{self.sink}-{self.run_hash}-{self.owner}")

    def set_name(self, prefix: str, pane: Pane) -> str:
        """What the names of all files of one commit begin with."""
        whole = f"{prefix}-{self.run_hash}"
        return whole if pane.is_whole else f"{whole}-{pane.window}-{pane.index}"


@contextlib.contextmanager
def one_at_a_time(folder: str) -> Iterator[None]:
    """Hold a local folder against other processes that publish there; the lock ends with the process."""
    if is_remote(folder) or not Path(folder).is_dir():  # without a folder nothing was staged
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def publish(
    staged: list[StagedFile],
    destination: Destination,
    pane: Pane,
    prefix: str,
    extension: str,
    replace: bool,
) -> list[WrittenFile]:
    """Move the staged files of one pane to their final names; may be repeated.

    A staged file that is gone was moved by the attempt before, to the same name, because the order of `staged` is the
    same. Call it within `one_at_a_time`.

    Args:
      replace: then remove all other files that a run has published here.

    Returns:
      The files; none if a former run of the same name has committed this pane already.

    Raises:
      InputError: a staged file is neither in the temporary folder nor under its final name.
    """
    folder, name = destination.folder, destination.set_name(prefix, pane)
    names = [
        f"{file.partition}{name}-{i:05d}-of-{len(staged):05d}{extension}"
        for i, file in enumerate(staged)
    ]
    written = [
        WrittenFile(FileSystems.join(folder, name), file.rows)
        for name, file in zip(names, staged, strict=True)
    ]
    waiting, sets = (
        set(list_files(destination.temporary)),
        published_sets(folder, prefix, extension),
    )
    own = sets.pop(name, [])
    if own and all(
        file_name(file.path) in waiting for file in staged
    ):  # another process began or made this set
        if is_complete(own):
            remove_files([file.path for file in staged])
            written = []
        else:
            remove_files([FileSystems.join(folder, path) for path in own])
            own = []
    if written:
        _move(
            staged,
            [file.path for file in written],
            waiting,
            {FileSystems.join(folder, path) for path in own},
        )
    alive = set() if replace else _live_runs(destination)
    previous = [
        files
        for files in sets.values()
        if replace or not (is_complete(files) or run_of(files[0]) in alive)
    ]
    remove_files([FileSystems.join(folder, path) for files in previous for path in files])
    remove_leftovers(destination, own=pane.is_whole, alone=replace)
    return written


def published_sets(folder: str, prefix: str, extension: str) -> dict[str, list[str]]:
    """All files that `publish` made in `folder`, by set: paths within the folder, sorted."""
    sets: dict[str, list[str]] = defaultdict(list)
    for path in list_partitioned(folder):
        match = PUBLISHED.fullmatch(file_name(path))
        if match and match["prefix"] == prefix and match["end"] == extension:
            sets[match["set"]].append(path)
    return dict(sets)


def run_of(path: str) -> str:
    """The run that published a file, as its name has it."""
    return _match(path)["run"]


def partition_names(path: str) -> tuple[str, ...]:
    """The columns in the folders of a file's path: ("language",) for language=de/part-..."""
    return tuple(unquote(part.split("=")[0]) for part in path.split("/")[:-1])


def is_complete(files: list[str]) -> bool:
    """Whether these paths of one set are all of it."""
    counts = {int(match["count"]) for match in map(_match, files)}
    return counts == {len(files)}


def remove_leftovers(destination: Destination, own: bool, alone: bool) -> None:
    """Delete what killed runs of this sink left in temporary folders.

    Args:
      own: this run's temporary folder goes too; all its files are in place.
      alone: no other run of this process writes here, so its temporary folders are leftovers as well.
    """
    for name in _temporary_folders(destination):
        mine = name == file_name(destination.temporary)
        if own if mine else not _may_live(destination.folder, name, alone):
            remove_folder(FileSystems.join(destination.folder, name))


def _move(
    staged: list[StagedFile], targets: list[str], waiting: set[str], present: set[str]
) -> None:
    moves = []
    for file, target in zip(staged, targets, strict=True):
        if file_name(file.path) in waiting:
            moves.append((file.path, target))
        elif target not in present:
            folder = FileSystems.split(target)[0]
            raise InputError(
                f"{file.path}: staged file is gone; let only one run at a time write to {folder}, and run again"
            )
    for folder in {FileSystems.split(target)[0] for _, target in moves}:
        if not is_remote(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
    if moves:
        FileSystems.rename([source for source, _ in moves], [target for _, target in moves])


def _live_runs(destination: Destination) -> set[str]:
    """Runs that may be at work in this folder, by what is in the names of their files."""
    alive = [
        name
        for name in _temporary_folders(destination)
        if _may_live(destination.folder, name, alone=False)
    ]
    return {destination.run_hash, *(name.split("-")[-4] for name in alive if name.count("-") >= 4)}


def _may_live(folder: str, name: str, alone: bool) -> bool:
    """Whether the run that made a temporary folder may still be at work.

    On this machine its process tells; with `alone`, one of this process is over. On a remote file system one run at a time
    writes to a folder, so any other is over.
    """
    if is_remote(folder):
        return False
    machine, process = ["", *name.split("-")][-3:-1]
    if machine == _machine() and process.isdigit():
        return not alone if int(process) == os.getpid() else _is_running(int(process))
    with contextlib.suppress(FileNotFoundError):
        return time.time() - Path(folder, name).stat().st_mtime < ABANDONED_SECONDS
    return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _temporary_folders(destination: Destination) -> list[str]:
    folder, start = destination.folder, f"{TEMPORARY}{destination.sink}-"
    if is_remote(folder):
        found = FileSystems.match([FileSystems.join(folder, f"{start}*", "*")])[0].metadata_list
        return sorted({file_name(FileSystems.split(file.path)[0]) for file in found})
    if not Path(folder).is_dir():
        return []
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.name.startswith(start))


def _machine() -> str:
    return _hash(socket.gethostname(), 8)


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _match(path: str) -> re.Match[str]:
    match = PUBLISHED.fullmatch(file_name(path))
    if match is None:
        raise ValueError(f"{path}: not a name that was published")
    return match
