"""Draw rows of a corpus, spread over its files, to write as smaller files of the same formats.

    files --> some of them, evenly by bytes --> rows, evenly --> Sample --> files of n rows

A corpus of up to `READ_BYTES` is passed through whole: its rows are counted, and those drawn are
spread over all. Of a larger one pieces of files are read; of compressed files, CSV and other
encodings than UTF-8, in which nobody can tell where a row begins, their first rows.
"""

import contextlib
import dataclasses
import itertools
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import FileMetadata

from beam_gpte.cli.progress import metered, work_of
from beam_gpte.core.errors import InputError
from beam_gpte.files.meter import BYTES, amount
from beam_gpte.sources.corpus_files import CODECS, common_folder, file_format, open_file, reading
from beam_gpte.sources.formats.encodings import UTF_8, is_utf8_name
from beam_gpte.sources.formats.parquet import bounded_batches
from beam_gpte.sources.formats.rows import MAX_ROW_BYTES
from beam_gpte.sources.match_files import match_files

READ_BYTES = 64 << 20  # of all files, as they are stored
MAX_FILES = 100  # that are opened
PIECES = 16  # of a large file
MAX_ROWS = 16_384  # that are drawn; of lines up to twice as many
MAX_BYTES = 64 << 20  # of the rows that are drawn
BATCH_ROWS = 256  # of Parquet, read at once
MAX_LINES = 1000  # of one row of CSV; a lone quote ends nowhere


def spread(count: int, total: int) -> np.ndarray:
    """Choose so many of `total` places, by chance one in each of as many parts; the same always."""
    ends = np.arange(count + 1) * total // count if count else np.zeros(1, int)
    chance = np.random.default_rng(0).random(count)
    return ends[:-1] + (chance * np.diff(ends)).astype(int)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Hold rows of one file.

    Attributes:
      path: of the file.
      header: the first row of CSV and TSV.
      rows: lines, or a table.
      counted: the rows that were passed, of which these are.
      share: of the file's bytes, that were passed.
    """

    path: str
    header: bytes
    rows: list[bytes] | pa.Table
    counted: int
    share: float

    def thinned(self, rows: int) -> "Drawn":
        """Leave so many rows, evenly spaced."""
        if rows >= len(self.rows):
            return self
        at = spread(rows, len(self.rows))
        if isinstance(self.rows, pa.Table):
            return dataclasses.replace(self, rows=self.rows.take(pa.array(at)))
        return dataclasses.replace(self, rows=[self.rows[i] for i in at])

    def write(self, path: Path, at: np.ndarray) -> None:
        """Write a file of some of the rows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.rows, pa.Table):
            pq.write_table(self.rows.take(pa.array(at)), path, compression="snappy")
            return
        data = b"".join([self.header, *(self.rows[i] for i in at)])
        codec = CODECS.get(path.suffix.lower())
        if codec == "xz":
            path.write_bytes(lzma.compress(data))
        elif codec is None:
            path.write_bytes(data)
        else:
            with pa.CompressedOutputStream(str(path), codec) as file:
                file.write(data)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Hold rows of a corpus.

    Attributes:
      parts: the files that were read.
      rows: of the whole corpus; predicted unless `is_exact`.
      is_exact: whether the rows were counted.
      bytes: of all files.
    """

    parts: list[Drawn]
    rows: int
    is_exact: bool
    bytes: int

    @property
    def drawn(self) -> int:
        """Return the number of rows that can be written."""
        return sum(len(part.rows) for part in self.parts)

    def write(self, folder: str, rows: int) -> list[str]:
        """Write files of so many rows, or of all that there are, and return their paths."""
        total, paths = self.drawn, []
        chosen = spread(min(rows, total), total)
        common = common_folder([part.path for part in self.parts])
        start = 0
        for part in self.parts:
            at = chosen[(chosen >= start) & (chosen < start + len(part.rows))] - start
            start += len(part.rows)
            if len(at) or rows >= total:
                path = Path(folder, part.path.removeprefix(common))
                part.write(path, at)
                paths.append(str(path))
        return paths


def draw(patterns: Sequence[str], rows: int = MAX_ROWS, encoding: str = UTF_8) -> Sample:
    """Draw rows of the files that match, as UTF-8.

    Args:
      patterns: of files.
      rows: to draw, at least, if there are as many.
      encoding: of the files.

    Raises:
      InputError: no file matches, or none can be read.
    """
    files, work = match_files(patterns, []), work_of(patterns)
    chosen = _chosen(files)
    read = sum(file.size_in_bytes for file in chosen)
    parts = []
    for file in chosen:
        weight = file.size_in_bytes / read if read else 1 / len(chosen)
        limit = _Limit(max(1, round(rows * weight)), MAX_BYTES * weight, READ_BYTES * weight)
        with contextlib.suppress(InputError):  # it is one of the rejects of a run
            parts.append(_draw(file, limit, encoding))
    if not parts:
        raise InputError(
            f"none of the files can be read, such as {chosen[0].path}; replace them, or name others"
        )
    counted = len(chosen) == len(files) and all(part.share == 1 for part in parts)
    parts = _evened(parts)
    return Sample(parts, _total(files, parts, work.rows), counted or bool(work.rows), work.bytes)


def _evened(parts: list[Drawn]) -> list[Drawn]:
    """Leave the same share of each file's rows: the smallest that was drawn of one."""
    there = [part.counted / part.share for part in parts]
    rates = [len(part.rows) / rows for part, rows in zip(parts, there, strict=True) if rows]
    return [
        part.thinned(max(1, round(min(rates) * rows))) if rows else part
        for part, rows in zip(parts, there, strict=True)
    ]


def _chosen(files: list[FileMetadata]) -> list[FileMetadata]:
    """Choose files, evenly by bytes; all where they are few."""
    if len(files) <= MAX_FILES:
        return files
    ends = np.cumsum([max(1, file.size_in_bytes) for file in files])
    wanted = (np.arange(MAX_FILES) + 0.5) * ends[-1] / MAX_FILES
    return [files[i] for i in np.unique(np.searchsorted(ends, wanted))]


def _total(files: list[FileMetadata], parts: list[Drawn], known: int | None) -> int:
    """Return the rows of all files: those of footers, else by the bytes that were passed."""
    if known is not None:
        return known
    size = {file.path: file.size_in_bytes for file in files}
    passed = sum(size[part.path] * part.share for part in parts)
    rows = sum(part.counted for part in parts)
    return round(rows * sum(size.values()) / passed) if passed else rows


@dataclasses.dataclass(frozen=True)
class _Limit:
    """Bound what is drawn of one file, and how much of it is read."""

    rows: int
    drawn_bytes: float
    read_bytes: float


def _draw(file: FileMetadata, limit: _Limit, encoding: str) -> Drawn:
    kind = file_format(file.path)
    with reading(file.path):
        if kind == "parquet":
            with open_file(file.path) as content:
                return _draw_table(file, content, limit)
        is_packed = PurePath(file.path.lower()).suffix in CODECS
        is_whole = file.size_in_bytes <= limit.read_bytes * 1.01
        is_stream = is_packed or not is_utf8_name(encoding)
        with metered() as folder, open_file(file.path, encoding) as content:
            if is_whole or is_stream or kind == "csv":
                return _draw_front(file, content, kind, limit, folder)
            return _draw_pieces(file, content, kind, limit)


class _Even:
    """Keep rows of a stream, evenly: at least as many as wanted, at most twice as many."""

    def __init__(self, limit: _Limit) -> None:
        self.rows: list[bytes] = []
        self.seen, self._size, self._step, self._limit = 0, 0, 1, limit

    def add(self, row: bytes) -> None:
        """Pass a row."""
        if self.seen % self._step == _chance(self.seen // self._step) % self._step:
            self.rows.append(row)
            self._size += len(row)
            many = len(self.rows) >= 2 * self._limit.rows
            if many or (self._size > self._limit.drawn_bytes and len(self.rows) > 1):
                self._thin_out()
        self.seen += 1

    def _thin_out(self) -> None:
        """Keep one of each two rows."""
        pairs = range(len(self.rows) // 2)
        self.rows = [self.rows[2 * i + _chance(i) % 2] for i in pairs]
        self._size, self._step = sum(map(len, self.rows)), 2 * self._step


def _chance(part: int) -> int:
    """Return a number by chance, the same for a part always; steps would miss what is periodic."""
    return part * 0x9E3779B1 >> 7 & 0xFFFFFF


def _draw_front(
    file: FileMetadata, content: BinaryIO, kind: str, limit: _Limit, meter: str
) -> Drawn:
    """Pass through a file from its beginning, to its end if that is within the limit."""
    rows, even = _rows(content, kind), _Even(limit)
    header = next(rows, b"") if kind in ("csv", "tsv") else b""
    for row in rows:
        even.add(row)
        if even.seen % 1000 == 0 and amount(meter, BYTES) > limit.read_bytes * 1.01 + (1 << 20):
            share = min(1.0, amount(meter, BYTES) / max(1, file.size_in_bytes))
            return Drawn(file.path, header, even.rows, even.seen, share)
    return Drawn(file.path, header, even.rows, even.seen, 1.0)


def _draw_pieces(file: FileMetadata, content: BinaryIO, kind: str, limit: _Limit) -> Drawn:
    """Read pieces of a file of lines, at even distances."""
    header = next(_rows(content, kind), b"") if kind == "tsv" else b""
    even, piece, passed = _Even(limit), limit.read_bytes / PIECES, 0
    for start in np.linspace(len(header), file.size_in_bytes - piece, PIECES).astype(int):
        content.seek(int(start))
        content.readline()  # the rest of a row
        end = content.tell() + piece
        before = content.tell()
        for row in _rows(content, kind):
            even.add(row)
            if content.tell() >= end:
                break
        passed += content.tell() - before
    return Drawn(file.path, header, even.rows, even.seen, passed / file.size_in_bytes)


def _rows(content: BinaryIO, kind: str) -> Iterator[bytes]:
    """Yield rows as they are in the file, without blank lines."""
    lines = iter(lambda: content.readline(MAX_ROW_BYTES), b"")
    for line in lines:
        row = line
        if kind == "csv" and row.count(b'"') % 2:
            for more in itertools.islice(lines, MAX_LINES):
                row += more
                if more.count(b'"') % 2 or len(row) > MAX_ROW_BYTES:
                    break
        if row.strip():
            yield row if row.endswith(b"\n") else row + b"\n"


def _draw_table(file: FileMetadata, content: BinaryIO, limit: _Limit) -> Drawn:
    """Read a Parquet file, or some batches of a large one, from row groups at even distances."""
    about, schema = pq.read_metadata(content), pq.read_schema(content)
    total = about.num_rows
    groups = range(about.num_row_groups)
    unpacked = sum(about.row_group(i).total_byte_size for i in groups) / max(1, total)
    rows = max(1, min(limit.rows, int(limit.drawn_bytes / max(1, unpacked))))
    if file.size_in_bytes <= limit.read_bytes * 1.01:
        batches: Any = bounded_batches(content, schema, BATCH_ROWS)
        kept = list(_taken(batches, spread(min(rows, total), total)))
    else:
        some = np.unique(np.linspace(0, len(groups) - 1, PIECES).astype(int)).tolist()
        kept = []
        for group in some:
            left = -(-rows // len(some))
            for batch in bounded_batches(content, schema, BATCH_ROWS, [group]):
                kept.append(batch.slice(0, left))
                left -= batch.num_rows
                if left <= 0:
                    break
    table = pa.Table.from_batches(kept).cast(schema) if kept else schema.empty_table()
    return Drawn(file.path, b"", table, total, 1.0)


def _taken(batches: Iterator[pa.RecordBatch], rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Take rows by their numbers."""
    start = 0
    for batch in batches:
        at = rows[(rows >= start) & (rows < start + batch.num_rows)] - start
        start += batch.num_rows
        if len(at):
            yield batch.take(pa.array(at))
