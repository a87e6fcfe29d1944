"""Keep the file that names the owner of an output: on a disk that is shared, or in a bucket.

A disk has locks: who takes an output over waits for the commits at work. A bucket has none: there,
a commit that began before the owner fell silent may end after another has taken over.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import is_remote

_PLAIN = CompressionTypes.UNCOMPRESSED


class OwnerFile(Protocol):
    """A small text that all launchers and workers see; it is empty as long as nobody wrote it."""

    def held(self) -> contextlib.AbstractContextManager[str]:
        """Give the text, which stays what it is until the end of the block if there are locks."""

    def write(self, text: str) -> None:
        """Replace the text."""

    def touch(self, text: str) -> None:
        """Date the file, which holds this text, to now."""

    def changed(self) -> float:
        """Return when the file was last dated, in seconds; 0 if it is not there."""

    def now(self) -> float:
        """Tell the time by the clock that changes are dated by."""


def owner_file(path: str) -> OwnerFile:
    """Return the file of a path, in a folder that exists or in a bucket."""
    return _Object(path) if is_remote(path) else _LocalFile(path)


class _LocalFile:
    def __init__(self, path: str) -> None:
        self._path = path

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        with self._locked(fcntl.LOCK_SH) as file:
            yield file.read().decode()

    def write(self, text: str) -> None:
        with self._locked(fcntl.LOCK_EX) as file:
            file.truncate(0)
            file.write(text.encode())

    def touch(self, text: str) -> None:
        os.utime(self._path)

    def changed(self) -> float:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._path).st_mtime
        return 0.0

    def now(self) -> float:
        clock = Path(f"{self._path}-clock")
        clock.touch()
        return clock.stat().st_mtime

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[BinaryIO]:
        with open(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            fcntl.flock(file, kind)
            yield file


class _Object:
    def __init__(self, path: str) -> None:
        self._path = path

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        if not FileSystems.exists(self._path):
            yield ""
            return
        with FileSystems.open(self._path, compression_type=_PLAIN) as file:
            text = bytes(file.read()).decode().strip()
        yield text

    def write(self, text: str) -> None:
        with FileSystems.create(self._path, compression_type=_PLAIN) as file:
            file.write(f"{text}\n".encode())  # Beam 2.77 cannot write an empty object to S3

    def touch(self, text: str) -> None:
        self.write(text)

    def changed(self) -> float:
        return FileSystems.last_updated(self._path) if FileSystems.exists(self._path) else 0.0

    def now(self) -> float:
        clock = _Object(f"{self._path}-clock")
        clock.write("")
        return clock.changed()
