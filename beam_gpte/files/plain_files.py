"""Open files as they are, on any Beam file system, with one error for those that are not there.

Of an object store Beam asks for each range that is read, so an object may be gone at any read.
"""

import io
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.cloud import finding
from beam_gpte.files.folders import is_remote


def open_plain(path: str) -> BinaryIO:
    """Open the bytes of a file, which Beam does not decompress.

    Raises:
      FileNotFoundError: it is not there; of an object, reading and seeking may raise it too.
    """
    if is_remote(path):
        return cast(BinaryIO, _Object(path))
    return cast(BinaryIO, _open(path))


def _open(path: str) -> Any:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


class _Object(io.RawIOBase):
    """Read an object."""

    def __init__(self, path: str) -> None:
        self._path = path
        with finding(path):
            self._stream = _open(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with finding(self._path):
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        with finding(self._path):
            return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        with finding(self._path):
            return int(self._stream.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
