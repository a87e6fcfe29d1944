"""Where the files of a corpus are and how they open: globs, formats, compression, on any Beam file system."""

import contextlib
import io
import lzma
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.formats import READERS, column_names
from beam_gpte.schemas import TEXT

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
BUFFER = 1 << 20  # bytes read at a time, of a file that may lie behind a network


def match_files(patterns: str | Sequence[str]) -> list[FileMetadata]:
    """The files that `patterns` name, each once, sorted by path.

    Raises:
      InputError: a pattern names no file.
    """
    found: dict[str, FileMetadata] = {}
    for pattern in pattern_list(patterns):
        try:
            matches = FileSystems.match([pattern])[0].metadata_list
        except (BeamIOError, ValueError, OSError) as error:
            raise InputError(f"cannot look for {pattern!r}: {error}") from error
        matches = [match for match in matches if not os.path.isdir(match.path)]
        if not matches:
            hint = f"; name the files in this folder, such as {pattern}/*.parquet" if os.path.isdir(pattern) else ""
            raise InputError(f"no file matches {pattern!r}{hint or '; check the path'}")
        found.update((match.path, match) for match in matches)
    return [found[path] for path in sorted(found)]


def pattern_list(patterns: str | Sequence[str]) -> list[str]:
    """All patterns, local ones from the root, so that a worker elsewhere in the tree finds the same files."""
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise InputError(f"no file pattern in {patterns!r}; give a path or glob, or a list of them")
    return [pattern if FileSystems.get_scheme(pattern) else os.path.abspath(pattern) for pattern in given]


def common_folder(patterns: Sequence[str]) -> str:
    """The deepest folder, with its slash, that holds every file `patterns` can match; known without looking."""
    folders = [re.split(r"[*?\[]", pattern)[0].split("/")[:-1] for pattern in patterns]
    shared = os.path.commonprefix(folders)  # of lists: by whole folder names
    return "".join(f"{folder}/" for folder in shared)


def file_format(path: str, given: str | None = None) -> str:
    """`given`, or what the extension before any compression suffix says: parquet, jsonl, csv, tsv or text.

    Raises:
      InputError: the extension is none of these.
    """
    stem, suffix = os.path.splitext(path.lower())
    extension = os.path.splitext(stem)[1] if suffix in CODECS else suffix
    kind = given or EXTENSIONS.get(extension)
    if kind is None:
        known = ", ".join(EXTENSIONS)
        raise InputError(
            f"{path}: unknown format; rename it to one of {known} (then perhaps {', '.join(CODECS)}), "
            f"or pass format as one of {', '.join(READERS)}"
        )
    if kind == "parquet" and suffix in CODECS:
        raise InputError(f"{path}: a Parquet file within {suffix}; unpack it, Parquet compresses its columns itself")
    return kind


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed, from behind a byte order mark.

    Beam would decompress too, but takes a truncated file for a complete one (2.77: half of a .gz gives half of the rows and
    no error); Arrow and lzma raise.
    """
    codec = CODECS.get(os.path.splitext(path.lower())[1])
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        if codec is None:
            plain = raw
        elif codec == "xz":
            plain = lzma.open(raw)
        else:
            plain = pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)
        file = cast(BinaryIO, io.BufferedReader(plain, BUFFER))
        if file.peek(3)[:3] == BYTE_ORDER_MARK:  # type: ignore[attr-defined]
            file.read(3)
        yield file


def read_schema(path: str, format: str | None = None, text_column: str = TEXT) -> list[str]:
    """Names of the columns of one file, by a look at its beginning.

    For JSON Lines, whose rows need not all have all keys, those of the first 1,000 lines.

    Raises:
      InputError: the format is unknown or the file cannot be read.
    """
    kind = file_format(path, format)
    with reading(path), open_file(path) as file:
        return column_names(file, kind, text_column)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file as a whole into an `InputError` that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, EOFError, ValueError, pa.ArrowException, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read: {error}; replace the file, or leave it out") from error
