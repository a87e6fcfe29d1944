"""Keep the vectors of a run until it has committed: the next one goes on where a kill stopped it.

    inputs of the model --> find --> those that are not found --> model --> add
                             ^                                               |
                             +---- <folder>/.beam-gpte-tmp-*/*.vectors <-----+

A file is written while the model runs, about every hundredth of the time that it has run so far, so
that a kill costs no more than that. It is Parquet without compression and with checksums: `key`, a
digest of the model's input, `part`, which counts the vectors of one input, and `vector`, whose
metadata name the model. A file that a kill cut, or of another model, is not used.

The sink in whose temporary folder they are removes them when it has committed; see `leftovers`.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.metadata import VectorMetadata, made_alike, vector_metadata
from beam_gpte.sinks.runs.leftovers import VECTORS, kept_vectors
from beam_gpte.sinks.runs.processes import at_work

KEY, PART, VECTOR = "key", "part", "vector"
DIGEST_BYTES = 16
DIGEST, PREFIX = np.dtype(f"S{DIGEST_BYTES}"), np.dtype("u8")  # a digest is looked up by a half
# Between two files are so many seconds, so much of the time since the first vector (which a kill
# loses), and so many times what it takes to write one: 2 ms here, 0.1 s on an object store.
SECONDS, SHARE, WRITES = 0.1, 0.01, 30
FIRST = 0.2  # seconds after which the first file is written: a shorter job leaves none
MAX_BYTES = 64 << 20  # that wait in memory
FILES_IN_MEMORY = 4

_log = logging.getLogger(__name__)


class ComputedVectors:
    """Find vectors that were computed for the same output, and keep new ones; safe for threads.

    Memory: 16 bytes for each vector that killed runs have left, and `FILES_IN_MEMORY` of their
    files; new vectors wait until they are written, `MAX_BYTES` at most.

    Args:
      folders: the temporary folders of the sinks that the vectors are for. Vectors are looked for
        beside all of them, and kept in the last.
      metadata: of the model.
    """

    def __init__(self, folders: Sequence[str], metadata: VectorMetadata) -> None:
        self._home = at_work(folders[-1])
        self._field = metadata.field(VECTOR)
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, np.ndarray]] = []
        self._bytes = 0
        self._began = self._written = self._writing = 0.0
        self._works = True
        self._index = _Index(sorted({FileSystems.split(folder)[0] for folder in folders}), metadata)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of those inputs that are known, float32 (m, dim) each."""
        return self._index.find(keys)

    def add(self, key: bytes, vectors: np.ndarray) -> None:
        """Keep the vectors of an input, float32 (m, dim); they are written with others."""
        now = time.monotonic()
        with self._lock:
            if not self._works:
                return
            self._began = self._began or now
            self._written = self._written or now + FIRST - SECONDS
            self._waiting.append((_digest(key), vectors))
            self._bytes += vectors.nbytes
            pause = max(SECONDS, SHARE * (now - self._began), WRITES * self._writing)
            if now - self._written < pause and self._bytes < MAX_BYTES:
                return
            waiting, self._waiting, self._bytes = self._waiting, [], 0
            self._written = now
        try:
            self._write(waiting)
        except Exception as error:  # each file system raises its own; the job can do without
            self._works = False
            _log.warning("%s: vectors are not kept for a next run: %s", self._home, error)
        self._writing = time.monotonic() - now

    def _write(self, rows: list[tuple[bytes, np.ndarray]]) -> None:
        counts = [len(vectors) for _, vectors in rows]
        keys = np.repeat(np.array([digest for digest, _ in rows], DIGEST), counts)
        kind = pa.binary(DIGEST_BYTES)
        digests = pa.Array.from_buffers(kind, len(keys), [None, pa.py_buffer(keys.tobytes())])
        parts = pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts]))
        flat = np.concatenate([vectors for _, vectors in rows]).reshape(-1)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), self._field.type.list_size)
        schema = pa.schema([pa.field(KEY, kind), pa.field(PART, parts.type), self._field])
        content = pa.BufferOutputStream()
        pq.write_table(
            pa.table([digests, parts, vectors], schema),
            content,
            row_group_size=max(1, len(keys)),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        path = FileSystems.join(self._home, f"{uuid.uuid4().hex}{VECTORS}")
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(content.getvalue().to_pybytes())


class _Index:
    """Know where the vectors of killed runs are."""

    def __init__(self, folders: Sequence[str], metadata: VectorMetadata) -> None:
        self._paths: list[str] = []
        prefixes, places = [], []
        for path in kept_vectors(folders):
            file = _read(path, metadata, [KEY, PART])
            first = np.flatnonzero(file.parts == 0)  # row of an input; its others follow
            if not len(first):
                continue
            prefixes.append(_prefixes(file.digests[first]))
            places.append(np.stack([np.full(len(first), len(self._paths)), first]).astype(np.int32))
            self._paths.append(path)
        found = np.concatenate([np.empty(0, PREFIX), *prefixes])
        order = np.argsort(found, kind="stable")
        self._prefixes = found[order]
        self._places = np.concatenate([np.empty((2, 0), np.int32), *places], axis=1)[:, order]
        self._lock = threading.Lock()
        self._read = lru_cache(FILES_IN_MEMORY)(lambda path: _read(path, metadata))

    def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of the inputs that are known."""
        if not self._paths or not keys:
            return {}
        digests = np.array([_digest(key) for key in keys], DIGEST)
        wanted = _prefixes(digests)
        at = np.minimum(np.searchsorted(self._prefixes, wanted), len(self._prefixes) - 1)
        by_file: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for i in np.flatnonzero(self._prefixes[at] == wanted).tolist():
            file, row = self._places[:, at[i]].tolist()
            by_file[file].append((i, row))
        found = {}
        for file, rows in sorted(by_file.items()):
            with self._lock:
                kept = self._read(self._paths[file])
            for i, row in rows:
                if row < len(kept.digests) and kept.digests[row] == digests[i]:
                    found[keys[i]] = kept.vectors[row : kept.end(row)]
        return found


class _Kept(NamedTuple):
    """Hold the columns of a file: bytes (n,), int32 (n,), float32 (n, dim)."""

    digests: np.ndarray
    parts: np.ndarray
    vectors: np.ndarray

    def end(self, row: int) -> int:
        """Return the row after the last one of an input."""
        after = row + 1
        while after < len(self.parts) and self.parts[after]:
            after += 1
        return after


_NOTHING = _Kept(np.empty(0, DIGEST), np.empty(0, np.int32), np.empty((0, 0), np.float32))


def _read(path: str, metadata: VectorMetadata, columns: list[str] | None = None) -> _Kept:
    """Read a file; nothing if it is damaged, gone, or has vectors of another model."""
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            theirs = vector_metadata(file.schema_arrow.field(VECTOR))
            if theirs is None or not made_alike(theirs, metadata):
                return _NOTHING
            table = file.read(columns)
    except Exception:  # each file system raises its own, and Arrow of what is damaged
        return _NOTHING
    vectors = _NOTHING.vectors
    if VECTOR in table.column_names:
        flat = table.column(VECTOR).combine_chunks().flatten().to_numpy()
        vectors = flat.reshape(table.num_rows, metadata.dim)
    digests = b"".join(table.column(KEY).to_pylist())
    return _Kept(np.frombuffer(digests, DIGEST), table.column(PART).to_numpy(), vectors)


def _prefixes(digests: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each digest as a number."""
    return np.frombuffer(digests.tobytes(), PREFIX)[:: DIGEST.itemsize // PREFIX.itemsize]


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=DIGEST_BYTES).digest()
