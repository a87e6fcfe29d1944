"""Tell which of a folder's files count, while runs commit to it.

    listing: names of sets, notes  -->  sets that count | files that do not | what is gone

A set counts once all its files are there. A note says which files a set replaces, and has a say as
soon as that set counts: its files are gone from then on, removed or not. So the last file of a set
that appears changes the state from the old one to the new one, on any file system.

A note that was written where a part of a folder is rewritten stays, as the ledger of what is gone:
with the digest of each file, by which a run that is repeated finds what it has committed. Its files
of sets that are in part still there are what these lack.
"""

import dataclasses
import functools
import json
import time
from collections import defaultdict
from collections.abc import Collection, Mapping

import duckdb
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.format_version import FORMAT, check_format
from beam_gpte.files.folders import file_name, list_partitioned
from beam_gpte.files.plain_files import open_plain
from beam_gpte.sinks.final_names import PUBLISHED, match_name, partitioned_folder
from beam_gpte.sinks.runs.same_rows import Digest

REPLACES = ".beam-gpte-replaces-"
LISTINGS = 100  # tries to list a folder twice alike, which a commit at work prevents
LISTING_SECONDS = 0.02

Sets = dict[str, list[str]]  # paths by set
Gone = dict[str, Digest | None]  # by path, what is known of its rows


@dataclasses.dataclass(frozen=True)
class Note:
    """Say what a set replaces.

    Attributes:
      gone: paths within the folder, each with the digest of its rows, which a ledger needs; None
        where the whole folder is replaced.
      keep: whether these files are kept as the previous state.
      number: counts the replacements of a folder; the last one has the highest.
    """

    gone: Gone
    keep: bool = False
    number: int = 0

    @property
    def is_ledger(self) -> bool:
        """Whether it says what is gone of runs that may be repeated."""
        return any(digest is not None for digest in self.gone.values())

    def to_json(self) -> str:
        """Write it, with the version of DuckDB, whose hashes are comparable within one."""
        gone = {
            path: None if digest is None else [digest.rows, _text(digest.total)]
            for path, digest in sorted(self.gone.items())
        }
        about = {"format": FORMAT, "duckdb": duckdb.__version__}
        about |= {"keep": self.keep, "number": self.number}
        return json.dumps({**about, "gone": gone})

    @classmethod
    def from_json(cls, text: bytes) -> "Note":
        """Read what `to_json` wrote, or version 0.1.0, a list of paths; nothing of what is damaged.

        Raises:
          InputError: it has a later format.
        """
        try:
            found = json.loads(text)
        except ValueError:
            return cls({})
        if isinstance(found, list):
            found = {"gone": {path: None for path in found if isinstance(path, str)}}
        if not isinstance(found, dict) or not isinstance(found.get("gone"), dict):
            return cls({})
        check_format(found.get("format"), "a note of what a run has replaced")
        is_known = found.get("duckdb") == duckdb.__version__
        gone = {
            path: None if digest is None else Digest(digest[0], _total(digest[1], is_known))
            for path, digest in found["gone"].items()
            if PUBLISHED.fullmatch(file_name(path))
        }
        return cls(gone, bool(found.get("keep")), int(found.get("number", 0)))


def _text(total: int | None) -> str | None:
    return None if total is None else str(total)  # larger than what JSON's readers take


def _total(text: str | None, is_known: bool) -> int | None:
    return int(text) if is_known and text is not None else None


@dataclasses.dataclass(frozen=True)
class FolderState:
    """Hold what one listing of a folder says about the files of one sink.

    Attributes:
      folder: that was listed.
      sets: all of the sink's files that are there, by set: sorted paths within the folder.
      notes: by the set that replaces.
    """

    folder: str
    sets: Sets
    notes: dict[str, Note]

    @functools.cached_property
    def gone_sets(self) -> dict[str, Gone]:
        """What the sets that count have replaced, whether it was removed yet or not, by set."""
        found: dict[str, Gone] = defaultdict(dict)
        pending = dict(self.notes)
        while True:
            ready = [name for name in pending if self._is_whole(name, found)]
            if not ready:
                return dict(found)
            for name in ready:
                for path, digest in pending.pop(name).gone.items():
                    known = found[set_of(path)]
                    known[path] = digest or known.get(path)

    @property
    def gone(self) -> Gone:
        """All of `gone_sets`."""
        return {path: digest for paths in self.gone_sets.values() for path, digest in paths.items()}

    def has_replaced(self, name: str) -> bool:
        """Return whether a set has replaced what its note says."""
        return name in self.notes and self._is_whole(name, self.gone_sets)

    @property
    def last(self) -> str | None:
        """The set that has made the last replacement, of those with a note."""
        done = [(note.number, name) for name, note in self.notes.items() if self.has_replaced(name)]
        return max(done)[1] if done else None

    @property
    def next_number(self) -> int:
        """The number of the next replacement."""
        return 1 + max((note.number for note in self.notes.values()), default=0)

    def was_committed(self, name: str) -> bool:
        """Return whether all files of a set were there once, whatever was replaced since."""
        gone = self.gone_sets.get(name, {})
        return is_complete({*self.sets.get(name, []), *gone})

    def has_counted(self, path: str) -> bool:
        """Return whether a file is or was of a set that was committed."""
        return self.was_committed(set_of(path))

    def any_path(self, name: str) -> str:
        """Return a path of a set that is known."""
        return next(iter(self.sets.get(name) or self.gone_sets[name]))

    def _is_whole(self, name: str, gone_sets: Mapping[str, Gone]) -> bool:
        """Return whether a set has all its files, apart from what is gone."""
        files = self.sets.get(name, [])
        return bool(files) and is_complete({*files, *gone_sets.get(name, {})})

    @property
    def counting(self) -> Sets:
        """The files that count, by set."""
        found = {}
        for name, files in self.sets.items():
            gone = self.gone_sets.get(name, {})
            live = [path for path in files if path not in gone]
            if live and self._is_whole(name, self.gone_sets):
                found[name] = live
        return found

    @property
    def others(self) -> set[str]:
        """The files that do not count: of incomplete sets, or replaced and not removed yet."""
        live = {path for files in self.counting.values() for path in files}
        return {path for files in self.sets.values() for path in files} - live


def read_state(folder: str, prefix: str, extension: str) -> FolderState:
    """List a folder of a sink.

    A listing is not a snapshot: files appear and vanish while it is made. No name comes back once
    it is gone, so two listings that are alike are what was there at each moment between them.

    Args:
      folder: that the sink wrote to.
      prefix: begins the names of its files.
      extension: ends them.
    """
    for _ in range(LISTINGS):
        paths = list_partitioned(folder)
        notes = {path: _read_note(folder, path) for path in paths if _is_note(path, prefix)}
        sets = sets_among(paths, prefix, extension)
        found = {set_of_note(path): note for path, note in notes.items() if note is not None}
        state = FolderState(folder, sets, found)
        again = list_partitioned(folder)
        if len(found) == len(notes) and _shown(again, prefix) == _shown(paths, prefix):
            return state
        time.sleep(LISTING_SECONDS)
    return state


def _shown(paths: list[str], prefix: str) -> list[str]:
    starts = (f"{prefix}-", f"{REPLACES}{prefix}-")
    return [path for path in paths if file_name(path).startswith(starts)]


def _is_note(path: str, prefix: str) -> bool:
    return path.startswith(f"{REPLACES}{prefix}-")


def sets_among(paths: list[str], prefix: str, extension: str) -> Sets:
    """List those of `paths` that sinks made, by set."""
    sets: Sets = defaultdict(list)
    for path in paths:
        match = PUBLISHED.fullmatch(file_name(path))
        if match and match["prefix"] == prefix and match["end"] == extension:
            sets[match["set"]].append(path)
    return dict(sets)


def published_sets(folder: str, prefix: str, extension: str) -> Sets:
    """List all files that sinks made in `folder`, by set: sorted paths within the folder."""
    return sets_among(list_partitioned(folder), prefix, extension)


def current_sets(folder: str, prefix: str, extension: str) -> Sets:
    """List the files that count, by set."""
    return read_state(folder, prefix, extension).counting


def unfinished_files(folder: str, prefix: str, extension: str) -> set[str]:
    """List the files that do not count, as paths within `folder`."""
    return read_state(folder, prefix, extension).others


def incomplete_files(paths: list[str]) -> set[str]:
    """Return those of `paths` that do not count.

    They belong to sets which a run has not finished or a person cut, or that a complete set
    replaces. A set spans the partitions of a folder, so the whole folder is listed.
    """
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for path in paths:
        match = PUBLISHED.fullmatch(file_name(path))
        if match:
            kinds[partitioned_folder(path), match["prefix"], match["end"]].append(path)
    found: set[str] = set()
    for (folder, prefix, end), files in kinds.items():
        partial = {FileSystems.join(folder, path) for path in unfinished_files(folder, prefix, end)}
        found.update(partial.intersection(files))
    return found


def is_complete(files: Collection[str]) -> bool:
    """Return whether these paths of one set are the whole set."""
    counts = {int(match["count"]) for match in map(match_name, files)}
    return counts == {len(files)}


def set_of(path: str) -> str:
    """Return the set of a published file."""
    return match_name(path)["set"]


def note_of(name: str) -> str:
    """Return the name of the file that says what a set replaces."""
    return f"{REPLACES}{name}.json"


def set_of_note(note: str) -> str:
    """Return the set that a note is about."""
    return file_name(note).removeprefix(REPLACES).removesuffix(".json")


def _read_note(folder: str, path: str) -> Note | None:
    """Read a note; None if another process has removed it since it was listed."""
    try:
        with open_plain(FileSystems.join(folder, path)) as stream:
            return Note.from_json(stream.read())
    except OSError:
        return None


def write_note(folder: str, name: str, note: Note) -> None:
    """Write down what a set replaces, before it is complete."""
    target = FileSystems.join(folder, note_of(name))
    with FileSystems.create(target, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        stream.write(note.to_json().encode())
