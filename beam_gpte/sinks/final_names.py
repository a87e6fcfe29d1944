"""Publish staged files under final names, complete, such that a retried commit changes nothing.

    <folder>/part-<run>[-<window>-<pane>]-<i>-of-<n>.parquet

The `n` files of one run and pane are a set. A set that a killed run left incomplete is removed by
the next commit, and a complete set is never written again. So the names are the ledger, and no
other file is needed.
"""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import os
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

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

# A temporary folder of another machine is removed when nothing has changed in it for so long.
ABANDONED_SECONDS = 7 * 86400
PUBLISHED = re.compile(
    r"(?P<set>(?P<prefix>\w+)-(?P<run>[0-9a-f]{12})(-[\w.]+-\d+)?)-\d{5,}-of-(?P<count>\d{5,})(?P<end>\.\w+)"
)


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """Report a file under its final name, or a database, and how many rows a commit wrote to it."""

    path: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Pane:
    """Name the content of one commit: a whole bounded collection, or one firing of one window.

    Attributes:
      window: its name, empty for a whole collection; letters, digits, underscores and dots.
      index: counts the firings of a window from 0.
    """

    window: str = ""
    index: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole bounded collection."""
        return not self.window


@dataclasses.dataclass(frozen=True)
class Destination:
    """Name the place where one run of one sink writes.

    Attributes:
      folder: holds the final files and, during the run, the temporary folder.
      sink: names the sink, so that two sinks can share a folder and each removes only its own
        leftovers.
      run: the name of the run, random unless the user gave one.
      owner: of the temporary folder: machine, process and a random part.
    """

    folder: str
    sink: str
    run: str
    owner: str

    @classmethod
    def new(cls, folder: str, sink: str, run: str | None = None) -> "Destination":
        """Name the destination of a run that this process starts."""
        token = uuid.uuid4().hex
        return cls(folder, sink, run or token, f"{_machine()}-{os.getpid()}-{token}")

    @property
    def run_hash(self) -> str:
        """The run, as it appears in file names."""
        return _hash(self.run, 12)

    @property
    def temporary(self) -> str:
        """The folder for staged files."""
        return FileSystems.join(self.folder, f"{TEMPORARY}{self.sink}-{self.run_hash}-{self.owner}")

    def set_name(self, prefix: str, pane: Pane) -> str:
        """Return the beginning of all file names of one commit."""
        whole = f"{prefix}-{self.run_hash}"
        return whole if pane.is_whole else f"{whole}-{pane.window}-{pane.index}"


@contextlib.contextmanager
def one_at_a_time(folder: str) -> Iterator[None]:
    """Lock a local folder against other processes that publish; the lock ends with the process."""
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

    A staged file that is missing was moved by the previous attempt, to the same name, because
    `staged` is in the same order. Call this within `one_at_a_time`.

    Args:
      staged: the files.
      destination: where to publish them.
      pane: the part of the run that they hold.
      prefix: begins every file name.
      extension: ends every file name.
      replace: remove all other files that a run has published here afterwards.

    Returns:
      The files; none if a previous run of the same name has committed this pane.

    Raises:
      InputError: a staged file is neither in the temporary folder nor under its final name.
    """
    folder, name = destination.folder, destination.set_name(prefix, pane)
    count = f"{len(staged):05d}"
    names = [f"{f.partition}{name}-{i:05d}-of-{count}{extension}" for i, f in enumerate(staged)]
    targets = [FileSystems.join(folder, name) for name in names]
    written = [WrittenFile(target, f.rows) for target, f in zip(targets, staged, strict=True)]
    waiting = set(list_files(destination.temporary))
    sets = published_sets(folder, prefix, extension)
    present = sets.pop(name, [])
    # If all files still wait, another process began or completed this set.
    if present and all(file_name(file.path) in waiting for file in staged):
        if is_complete(present):
            remove_files([file.path for file in staged])
            written = []
        else:
            remove_files([FileSystems.join(folder, path) for path in present])
            present = []
    if written:
        _move(staged, targets, waiting, {FileSystems.join(folder, path) for path in present})
    alive = set() if replace else _live_runs(destination)
    outdated = [
        files
        for files in sets.values()
        if replace or not (is_complete(files) or run_of(files[0]) in alive)
    ]
    remove_files([FileSystems.join(folder, path) for files in outdated for path in files])
    remove_leftovers(destination, finished=pane.is_whole, exclusive=replace)
    return written


def published_sets(folder: str, prefix: str, extension: str) -> dict[str, list[str]]:
    """List all files that `publish` made in `folder`, by set: sorted paths within the folder."""
    sets: dict[str, list[str]] = defaultdict(list)
    for path in list_partitioned(folder):
        match = PUBLISHED.fullmatch(file_name(path))
        if match and match["prefix"] == prefix and match["end"] == extension:
            sets[match["set"]].append(path)
    return dict(sets)


def incomplete_files(paths: list[str]) -> set[str]:
    """Return those of `paths` that belong to sets which a run has not finished, or a person cut.

    A set spans the partitions of a folder, so the folder is listed where `paths` have only a part.
    """
    sets: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in paths:
        match = PUBLISHED.fullmatch(file_name(path))
        if match:
            sets[_partitioned_folder(path), match["prefix"], match["end"], match["set"]].append(
                path
            )
    found: set[str] = set()
    for (folder, prefix, end, name), files in sets.items():
        if not is_complete(files):
            whole = published_sets(folder, prefix, end).get(name, [])
            found.update(files if not is_complete(whole) else [])
    return found


def _partitioned_folder(path: str) -> str:
    """Return the folder that a sink wrote to, above its partitions."""
    folders = path.split("/")[:-1]
    while folders and "=" in folders[-1]:
        folders.pop()
    return "/".join(folders) or "/"


def run_of(path: str) -> str:
    """Return the hash of the run that published a file, which is part of its name."""
    return _match(path)["run"]


def is_complete(files: list[str]) -> bool:
    """Return whether these paths of one set are the whole set."""
    counts = {int(match["count"]) for match in map(_match, files)}
    return counts == {len(files)}


def remove_leftovers(destination: Destination, finished: bool, exclusive: bool) -> None:
    """Delete what killed runs of this sink left in temporary folders.

    Args:
      destination: of this run.
      finished: delete this run's temporary folder, too: all its files are in place.
      exclusive: no other run of this process writes here, so its temporary folders are leftovers.
    """
    current = file_name(destination.temporary)
    for name in _temporary_folders(destination):
        if name == current:
            is_leftover = finished
        else:
            is_leftover = not _may_be_alive(destination.folder, name, exclusive)
        if is_leftover:
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
                f"{file.path}: staged file is missing; "
                f"let only one run at a time write to {folder}, and run again"
            )
    for folder in {FileSystems.split(target)[0] for _, target in moves}:
        if not is_remote(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
    if moves:
        FileSystems.rename([source for source, _ in moves], [target for _, target in moves])


def _live_runs(destination: Destination) -> set[str]:
    """List the runs that may be working in this folder, by the hash in their files' names."""
    alive = [
        name
        for name in _temporary_folders(destination)
        if _may_be_alive(destination.folder, name, exclusive=False)
    ]
    return {destination.run_hash, *(name.split("-")[-4] for name in alive if name.count("-") >= 4)}


def _may_be_alive(folder: str, name: str, exclusive: bool) -> bool:
    """Return whether the run that made a temporary folder may still be working.

    On this machine, its process shows that; with `exclusive`, a run of this process is over. On a
    remote file system one run at a time writes to a folder, so any other is over.
    """
    if is_remote(folder):
        return False
    machine, process = ["", *name.split("-")][-3:-1]
    if machine == _machine() and process.isdigit():
        return not exclusive if int(process) == os.getpid() else _is_running(int(process))
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
        pattern = FileSystems.join(glob.escape(folder), f"{start}*", "*")
        found = FileSystems.match([pattern])[0].metadata_list
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
        raise ValueError(f"{path}: not the name of a published file")
    return match
