"""List the files of the local file system below a folder, with those that cannot be read.

Beam's listing leaves out what it cannot look at: links to nothing, folders without permission. It
passes on FIFOs, which would block whoever opens them, and names that no text can hold.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import FileMetadata

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MARK = "\0"  # is in no path


@dataclasses.dataclass(frozen=True)
class BadFile:
    """Name a file or folder that matches, but is not to be opened.

    Attributes:
      path: as Python has it, with surrogates for bytes that are not UTF-8; that of a folder ends
        in a slash.
      reason: why, and what to do.
    """

    path: str
    reason: str

    @property
    def shown(self) -> str:
        """The path as valid text, with escapes."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def to_text(self) -> str:
        """Return what travels in place of a path; no path is spelled so."""
        return f"{_MARK}{self.shown}{_MARK}{self.reason}"

    @classmethod
    def from_text(cls, path: str) -> "BadFile | None":
        """Read what `to_text` wrote; None for a path."""
        if not path.startswith(_MARK):
            return None
        return cls(*path[1:].split(_MARK, maxsplit=1))


Listed = FileMetadata | BadFile


def list_below(
    folder: str, parts: list[str], matches: Callable[[str, str], bool]
) -> Iterator[Listed]:
    """Yield the files that can match below a folder; links to folders are not followed.

    Args:
      folder: where to begin, with its slash.
      parts: the names of a pattern below it; one with ``**`` stands for any number.
      matches: compares a name with one of the parts.
    """
    waiting = [(folder, parts)]
    while waiting:
        place, (part, *rest) = waiting.pop()
        anywhere = "**" in part
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"the folder cannot be listed: {error.strerror}; change its permissions"
            yield BadFile(place, reason)
            continue
        for entry in found:
            path = f"{place}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if anywhere:
                    waiting.append((f"{path}/", [part, *rest]))
                elif rest and matches(entry.name, part):
                    waiting.append((f"{path}/", rest))
            elif anywhere or not rest:
                file = look_at(path)
                if file is not None:
                    yield file


def look_at(path: str) -> Listed | None:
    """Describe one file without opening it; None for a folder, and what is gone."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return BadFile(path, "it is a link to nothing; remove it") if os.path.islink(path) else None
    except OSError as error:
        loop = error.errno == errno.ELOOP
        problem = "it is a link to itself" if loop else f"it cannot be read: {error.strerror}"
        return BadFile(path, f"{problem}; remove it")
    if stat.S_ISDIR(about.st_mode):
        return None
    try:
        path.encode()
    except UnicodeEncodeError:
        return BadFile(path, "its name is not valid UTF-8; rename it")
    odd = why_not_regular(about)
    if odd is not None:
        return BadFile(path, odd)
    return FileMetadata(path, about.st_size, about.st_mtime)


def why_not_regular(about: os.stat_result) -> str | None:
    """Say what is wrong with something that is not a regular file; opening it may wait forever."""
    if stat.S_ISREG(about.st_mode):
        return None
    kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
    return f"it is {kind}, not a file; move it elsewhere"
