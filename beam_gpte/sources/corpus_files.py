"""Open the files of a corpus: formats and compression, on any Beam file system."""

import contextlib
import dataclasses
import io
import itertools
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from beam_gpte.core.columns import TEXT
from beam_gpte.core.errors import InputError, ReplacedFileError
from beam_gpte.files.folders import file_name, is_remote
from beam_gpte.files.meter import BYTES, report
from beam_gpte.files.plain_files import open_plain
from beam_gpte.sinks.final_names import PUBLISHED
from beam_gpte.sinks.runs.previous_state import find_kept
from beam_gpte.sources.formats.encodings import (
    UTF_8,
    OtherEncoding,
    TranscodedFile,
    is_utf8_name,
    other_encoding,
)
from beam_gpte.sources.formats.readers import READERS, column_names
from beam_gpte.sources.local_files import why_not_regular
from beam_gpte.sources.match_files import WILDCARDS

EXTENSIONS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
XZ_BYTES = 256 << 20  # that a dictionary may take; that of `xz -9` takes 65 MiB
BUFFER = 1 << 20  # bytes read at a time, of a file that may be on a network


def common_folder(patterns: Sequence[str]) -> str:
    """Return the deepest folder, with its slash, that contains every file `patterns` can match.

    It depends on the patterns alone, not on the files that are there.
    """
    folders = [WILDCARDS.split(pattern)[0].split("/")[:-1] for pattern in patterns]
    levels = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    return "".join(f"{names[0]}/" for names in levels)


def file_format(path: str, given: str | None = None) -> str:
    """Return the format of a file: parquet, jsonl, csv, tsv or text.

    Args:
      path: of the file; its extension before any compression suffix decides.
      given: the format, if the user has set it.

    Raises:
      InputError: the extension is none of these.
    """
    name = PurePath(path.lower())
    packed = name.suffix in CODECS
    kind = given or EXTENSIONS.get(PurePath(name.stem).suffix if packed else name.suffix)
    if kind is None:
        known = ", ".join(EXTENSIONS)
        raise InputError(
            f"{path}: unknown format; rename it to one of {known} "
            f"(optionally followed by {', '.join(CODECS)}), "
            f"or pass format as one of {', '.join(READERS)}"
        )
    if kind == "parquet" and packed:
        raise InputError(
            f"{path}: a Parquet file within {name.suffix}; "
            "unpack it, Parquet compresses its columns itself"
        )
    return kind


@contextlib.contextmanager
def open_file(path: str, encoding: str = UTF_8) -> Iterator[BinaryIO]:
    """Open the bytes of a file, decompressed, as UTF-8, after any byte order mark.

    Beam would decompress too, but takes a truncated file for a complete one (2.77: half of a .gz
    returns half of the rows and no error); Arrow and lzma raise.

    Args:
      path: of the file.
      encoding: that it is converted from; with UTF-8 the bytes are those of the file.
    """
    codec = CODECS.get(PurePath(path.lower()).suffix)
    with _open_bytes(path) as raw:
        plain: Any = _MeteredFile(raw)
        if codec == "xz":
            plain = _XzFile(plain)  # Arrow has no xz
        elif codec is not None:
            plain = pa.CompressedInputStream(pa.PythonFile(plain, "r"), codec)
        file = cast(BinaryIO, io.BufferedReader(plain, BUFFER))
        if not is_utf8_name(encoding):
            file = cast(BinaryIO, io.BufferedReader(TranscodedFile(file, encoding), BUFFER))
        if file.peek(3)[:3] == BYTE_ORDER_MARK:  # type: ignore[attr-defined]
            file.read(3)
        yield file


def _open_bytes(path: str) -> BinaryIO:
    """Open the bytes of a file; of one that was replaced since it was listed, what is kept."""
    is_published = PUBLISHED.fullmatch(file_name(path)) is not None
    return cast(BinaryIO, _PublishedFile(path)) if is_published else _open_present(path)


class _PublishedFile(io.RawIOBase):
    """Read a sink's file; once it is not there any more, what is kept of it, from where it was.

    A local file that is open stays readable. Of an object the next read fails if it is gone, and in
    Google's client also if it was written again, with the same bytes, by a commit that is repeated.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._position = 0
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = self._from_any(lambda file: file.seek(offset, whence))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self._from_any(lambda file: file.readinto(buffer))  # type: ignore[attr-defined]
        self._position += count
        return count

    def close(self) -> None:
        self._turn_to(None)
        super().close()

    def _from_any(self, work: Callable[[BinaryIO], int]) -> int:
        """Do something with the file, with what is there now, or with what is kept."""
        try:
            if self._file is None:
                self._turn_to(_open_present(self._path))
            return self._do(work)
        except FileNotFoundError as error:
            for find in _FINDING:
                with contextlib.suppress(FileNotFoundError):  # what is kept may go at this moment
                    if (path := find(self._path)) is not None:
                        self._turn_to(_open_present(path))
                        return self._do(work)
            raise ReplacedFileError(
                "another run has replaced this file since it was listed; read again, or have that "
                "run keep what it replaces (keep_previous)"
            ) from error

    def _turn_to(self, file: BinaryIO | None) -> None:
        if self._file is not None:
            self._file.close()
        self._file = file
        if file is not None and self._position:
            file.seek(self._position)

    def _do(self, work: Callable[[BinaryIO], int]) -> int:
        assert self._file is not None
        return work(self._file)


_FINDING: tuple[Callable[[str], str | None], ...] = (lambda path: path, find_kept)


def _open_present(path: str) -> Any:
    """Open the bytes of a file; a local one only if it is a file, for a FIFO would wait forever."""
    if is_remote(path):
        return open_plain(path)
    _check_regular(os.stat(path))
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(handle))  # it may have been replaced
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(about: os.stat_result) -> None:
    problem = why_not_regular(about)
    if problem is not None:
        raise InputError(problem)


class _MeteredFile(io.RawIOBase):
    """Report the bytes that are read of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        report(BYTES, count)
        return count


class _XzFile(io.RawIOBase):
    """Decompress an xz file; `lzma.LZMAFile` takes a damaged second stream for the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = lzma.LZMADecompressor(memlimit=XZ_BYTES)
        self._unread = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._stream.eof or self._next_stream():
            data, self._unread = self._unread, b""
            if not data and self._stream.needs_input:
                data = self._file.read(BUFFER)
                if not data:
                    raise EOFError("it ends before its end-of-stream marker")
            plain = self._stream.decompress(data, len(buffer))
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
        return 0

    def _next_stream(self) -> bool:
        """Begin the next stream; False at the end of the file, after padding."""
        data, padding = self._stream.unused_data, 0
        while True:
            padding += len(data) - len(data := data.lstrip(b"\0"))
            if data or not (data := self._file.read(BUFFER)):
                break
        if padding % 4:
            raise lzma.LZMAError("between its streams, or after them, are bytes of no stream")
        if data:
            self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_BYTES)
            self._unread = data
        return bool(data)


def encoding_of(kind: str, given: str) -> str:
    """Return the encoding of a file of this format; one that users name is not that of Parquet."""
    return UTF_8 if kind == "parquet" else given


def find_other_encoding(path: str) -> OtherEncoding | None:
    """Look into the beginning of a file for another encoding than UTF-8; Parquet has none.

    Raises:
      InputError: the format is unknown or the file cannot be read.
    """
    if file_format(path) == "parquet":
        return None
    with reading(path), open_file(path) as file:
        data = file.read(BUFFER)
        return other_encoding(data, len(data) < BUFFER)


def read_schema(
    path: str,
    format: str | None = None,  # noqa: A002  # named as the transforms' argument
    text_column: str = TEXT,
    encoding: str = UTF_8,
) -> list[str]:
    """Read the names of the columns of one file, from its beginning.

    For JSON Lines, whose rows may lack keys, those of the first 1,000 lines.

    Args:
      path: of the file.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      text_column: the name of a text file's column.
      encoding: of other files than Parquet.

    Raises:
      InputError: the format is unknown or the file cannot be read.
    """
    kind = file_format(path, format)
    with reading(path), open_file(path, encoding_of(kind, encoding)) as file:
        return column_names(file, kind, text_column)


@dataclasses.dataclass
class ReadPosition:
    """Record the last row read of a file."""

    row: int = 0


@contextlib.contextmanager
def reading(path: str) -> Iterator[ReadPosition]:
    """Turn any error of a whole file into an `InputError` with its path and the last row read."""
    position = ReadPosition()
    try:
        yield position
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, EOFError, ValueError, pa.ArrowException, lzma.LZMAError) as error:
        where = f" past row {position.row}" if position.row else ""
        raise InputError(
            f"{path}: cannot be read{where}: {error}; replace the file, or leave it out"
        ) from error
