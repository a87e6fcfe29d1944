"""Name the files of a run, and tell which of a folder's files count.

    <folder>/part-<run>[-<window>-<pane>]-<commit>-<i>-of-<n>.parquet
    <folder>/.beam-gpte-replaces-part-<run>-<commit>.json: what this set replaces, while it does

The `n` files of one commit are a set. A set that a killed run left incomplete does not count, and
neither do files that a complete set replaces. The names are the ledger of what is committed.
"""

import dataclasses
import hashlib
import json
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.cloud import missing_object
from beam_gpte.files.folders import TEMPORARY, file_name, list_partitioned, output_path
from beam_gpte.sinks.runs.launch import Launch
from beam_gpte.sinks.runs.processes import machine

REPLACES = ".beam-gpte-replaces-"
LAUNCH_DIGITS = 8  # of a commit's 16 in the name of a set
PUBLISHED = re.compile(
    r"(?P<set>(?P<pane>(?P<prefix>\w+)-(?P<run>[0-9a-f]{12})(-[\w.]+-\d+)?)(-(?P<commit>[0-9a-f]{16}))?)"
    r"-\d{5,}-of-(?P<count>\d{5,})(?P<end>\.\w+)"
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
    """Name the place where the runs of one sink write.

    Attributes:
      folder: holds the final files and, during a run, the temporary folder.
      sink: names the sink, so that two sinks can share a folder and each removes only its own
        leftovers.
      run: the name that the user gave to the run.
      token: of this sink of this pipeline, random.
      owner: of the temporary folder: machine and process that built the pipeline.
      launch: of the pipeline; every launch is a run of its own where the user named none.
    """

    folder: str
    sink: str
    run: str | None
    token: str
    owner: str
    launch: Launch

    @classmethod
    def new(cls, folder: str, sink: str, run: str | None = None) -> "Destination":
        """Name the destination of a sink that this process builds."""
        owner = f"{machine()}-{os.getpid()}"
        return cls(output_path(folder), sink, run, uuid.uuid4().hex, owner, Launch())

    @property
    def run_hash(self) -> str:
        """The run, as it appears in file names: the same for all launches of one pipeline."""
        return _hash(self.token if self.run is None else self.run, 12)

    @property
    def run_name(self) -> str:
        """The run, as a ledger lists it."""
        return self.launch.token if self.run is None else self.run

    @property
    def temporary(self) -> str:
        """The folder for staged files."""
        name = f"{TEMPORARY}{self.sink}-{self.run_hash}-{self.owner}-{self.token}"
        return FileSystems.join(self.folder, name)

    def pane_name(self, prefix: str, pane: Pane) -> str:
        """Return the beginning of all file names of one run and pane."""
        whole = f"{prefix}-{self.run_hash}"
        return whole if pane.is_whole else f"{whole}-{pane.window}-{pane.index}"

    @property
    def launch_hash(self) -> str:
        """The launch, as it appears in file names and in a ledger."""
        return _hash(self.launch.token, LAUNCH_DIGITS)

    def files_hash(self, staged: list[str]) -> str:
        """Identify a commit by the files that it commits, which are the same when it is retried."""
        names = sorted(map(file_name, staged))
        return _hash("\n".join(names) if names else self.launch.token, 32)

    def set_name(self, prefix: str, pane: Pane, staged: list[str]) -> str:
        """Return the beginning of all file names of one commit."""
        commit = self.launch_hash + self.files_hash(staged)[:8]
        return f"{self.pane_name(prefix, pane)}-{commit}"

    def is_same_run(self, name: str, earlier: str) -> bool:
        """Return whether a set of the same pane is of this run, by the names of both sets.

        A run without a name is one launch.
        """
        return self.run is not None or is_same_launch(name, earlier)


def is_same_launch(name: str, earlier: str) -> bool:
    """Return whether two sets are of one launch, by their names."""
    return name[-16:-8] == earlier[-16:-8]


def published_sets(folder: str, prefix: str, extension: str) -> dict[str, list[str]]:
    """List all files that sinks made in `folder`, by set: sorted paths within the folder."""
    return sets_among(list_partitioned(folder), prefix, extension)


def sets_among(paths: list[str], prefix: str, extension: str) -> dict[str, list[str]]:
    """List those of `paths` that sinks made, by set."""
    sets: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        match = PUBLISHED.fullmatch(file_name(path))
        if match and match["prefix"] == prefix and match["end"] == extension:
            sets[match["set"]].append(path)
    return dict(sets)


def current_sets(folder: str, prefix: str, extension: str) -> dict[str, list[str]]:
    """List the files that count, by set: of complete sets that no other replaces."""
    return _divided(folder, prefix, extension)[0]


def unfinished_files(folder: str, prefix: str, extension: str) -> set[str]:
    """List the files that do not count, as paths within `folder`."""
    return {path for files in _divided(folder, prefix, extension)[1].values() for path in files}


def _divided(
    folder: str, prefix: str, extension: str
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """List the sets that count, and those that do not."""
    paths = list_partitioned(folder)
    replaced = replaced_files(folder, paths)
    counting: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for name, files in sets_among(paths, prefix, extension).items():
        counts = is_complete(files) and not replaced.intersection(files)
        (counting if counts else others)[name] = files
    return counting, others


def incomplete_files(paths: list[str]) -> set[str]:
    """Return those of `paths` that do not count.

    They belong to sets which a run has not finished or a person cut, or that a complete set
    replaces. A set spans the partitions of a folder, so the whole folder is listed.
    """
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for path in paths:
        match = PUBLISHED.fullmatch(file_name(path))
        if match:
            kinds[_partitioned_folder(path), match["prefix"], match["end"]].append(path)
    found: set[str] = set()
    for (folder, prefix, end), files in kinds.items():
        partial = {FileSystems.join(folder, path) for path in unfinished_files(folder, prefix, end)}
        found.update(partial.intersection(files))
    return found


def _partitioned_folder(path: str) -> str:
    """Return the folder that a sink wrote to, above its partitions."""
    folders = path.split("/")[:-1]
    while folders and "=" in folders[-1]:
        folders.pop()
    return "/".join(folders) or "/"


def replaced_files(folder: str, paths: list[str]) -> set[str]:
    """Return those of `paths` in `folder` that a complete set replaces, but has not removed yet."""
    found: set[str] = set()
    for note in paths:
        if file_name(note).startswith(REPLACES):
            start = note.removesuffix(file_name(note))
            if is_complete_set(paths, start, set_of_note(note)):
                found.update(f"{start}{path}" for path in read_note(folder, note))
    return found


def is_complete_set(paths: list[str], start: str, name: str) -> bool:
    """Return whether `paths` have all files of a set, in or below one folder."""
    files = [
        path
        for path in paths
        if path.startswith(start) and file_name(path).startswith(f"{name}-") and _is_of(path, name)
    ]
    return bool(files) and is_complete(files)


def _is_of(path: str, name: str) -> bool:
    match = PUBLISHED.fullmatch(file_name(path))
    return match is not None and match["set"] == name


def note_of(name: str) -> str:
    """Return the name of the file that says what a set replaces."""
    return f"{REPLACES}{name}.json"


def set_of_note(note: str) -> str:
    """Return the set that a note is about."""
    return file_name(note).removeprefix(REPLACES).removesuffix(".json")


def read_note(folder: str, note: str) -> Iterator[str]:
    """Read which files a set replaces: paths within the note's folder; none of a damaged note."""
    gone: tuple[type[Exception], ...] = (OSError, ValueError, *missing_object())
    try:
        with FileSystems.open(FileSystems.join(folder, note)) as stream:
            known = json.load(stream)
    except gone:  # another process removed it, or writes it now
        return
    for path in known if isinstance(known, list) else []:
        if isinstance(path, str) and PUBLISHED.fullmatch(file_name(path)):
            yield path


def is_complete(files: list[str]) -> bool:
    """Return whether these paths of one set are the whole set."""
    counts = {int(match["count"]) for match in map(match_name, files)}
    return counts == {len(files)}


def run_of(path: str) -> str:
    """Return the hash of the run that published a file, which is part of its name."""
    return match_name(path)["run"]


def match_name(path: str) -> re.Match[str]:
    """Take the name of a published file apart."""
    match = PUBLISHED.fullmatch(file_name(path))
    if match is None:
        raise ValueError(f"{path}: not the name of a published file")
    return match


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
