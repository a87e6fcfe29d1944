"""Name the files of a run.

    <folder>/part-<run>[-<window>-<pane>]-<commit>-<i>-of-<n>.parquet
    <folder>/.beam-gpte-replaces-part-<run>-<commit>.json: what this set replaces
    <folder>/.beam-gpte-previous-part-<run>-<commit>/*.kept: what it has replaced, if that is kept

The `n` files of one commit are a set. The names are the ledger of what is committed; which of a
folder's files count, `runs.folder_state` tells.
"""

import dataclasses
import hashlib
import os
import re
import uuid

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import TEMPORARY, file_name, output_path
from beam_gpte.sinks.runs.launch import Launch
from beam_gpte.sinks.runs.processes import machine

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


# What a sync, deletion or compaction commits, and a rollback: new files in place of others.
REWRITTEN, ROLLED_BACK = Pane("rewritten", 0), Pane("rewritten", 1)


def is_rewritten(name: str) -> bool:
    """Return whether a set took the place of others, by its name; none is committed again."""
    panes = (f"-{pane.window}-{pane.index}-" for pane in (REWRITTEN, ROLLED_BACK))
    return any(pane in name for pane in panes)


def is_rolled_back(name: str) -> bool:
    """Return whether a rollback committed a set, by its name."""
    return f"-{ROLLED_BACK.window}-{ROLLED_BACK.index}-" in name


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


def run_of(path: str) -> str:
    """Return the hash of the run that published a file, which is part of its name."""
    return match_name(path)["run"]


def partitioned_folder(path: str) -> str:
    """Return the folder that a sink wrote to, above its partitions."""
    folders = path.split("/")[:-1]
    while folders and "=" in folders[-1]:
        folders.pop()
    return "/".join(folders) or "/"


def match_name(path: str) -> re.Match[str]:
    """Take the name of a published file apart."""
    match = PUBLISHED.fullmatch(file_name(path))
    if match is None:
        raise ValueError(f"{path}: not the name of a published file")
    return match


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
