"""Find what a previous run has of the vectors of a text, and attach it to the row of the text.

    previous file --> read_previous --> rows by the names below --> PreviousRows --+
                                                                                   +--> attach
    rows of the corpus ------------------------------------------------------------+

`attach` adds the column `PREVIOUS` to the rows whose text the previous run has: a list of what it
has of each vector, one for a whole text and one per chunk for a text that was split. Its field has
the metadata of these vectors. What they are good for is decided where the model is loaded, see
`previous_vectors`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    PARENT_HASH,
    PARENT_ID,
    PREVIOUS,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.visible_text import is_visible
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.sources.corpus_files import open_file, reading

# Columns of previous rows, whatever their names in files.
KEY = "key"  # the text; of a chunk, the hash of its parent's
SAME_ID = "id"  # of the text's row
VECTOR = "vector"
INDEX = "index"  # of a chunk
KNOWN = (START, END, TOKEN_COUNT, DROPPED) = ("start", "end", "tokens", "dropped")  # with a vector

HASH_BYTES = 16
INCOMPLETE = "the previous run lacks some chunks of the text"


class NotReused(NamedTuple):
    """Tell why previous vectors are of no use, and of how many texts they are."""

    reason: str
    texts: int


@dataclasses.dataclass(frozen=True)
class PreviousColumns:
    """Name the columns of a previous run; those of the corpus have the same names.

    Attributes:
      text: the texts.
      id: the ids; None if there is none.
      vectors: the vectors.
      splits: whether texts are split into chunks.
      tokens: whether the numbers of tokens are asked for.
      added: the names of the other columns.
    """

    text: str
    id: str | None
    vectors: str
    splits: bool
    tokens: bool
    added: AddedColumns

    def required(self) -> tuple[str, ...]:
        """Name the columns that a file of a previous run has to have."""
        return (self.vectors,) if self.splits else (self.text, self.vectors)

    def files(self) -> dict[str, str | None]:
        """Return the name in files of each column of previous rows."""
        names: dict[str, str | None] = {KEY: self.text, SAME_ID: self.id, VECTOR: self.vectors}
        if self.splits:
            names |= {KEY: self.added[PARENT_HASH], SAME_ID: self.added[PARENT_ID]}
            places = INDEX, START, END
            ours = CHUNK_INDEX, CHUNK_START, CHUNK_END
            names |= {place: self.added[name] for place, name in zip(places, ours, strict=True)}
        if self.tokens:
            names |= {TOKEN_COUNT: self.added[TOKENS], DROPPED: self.added[TOKENS_DROPPED]}
        return names

    def lacking(self, present: list[str]) -> str | None:
        """Name a column without which chunks cannot be matched; None if there are all."""
        names = self.files()
        places = (names[ours] for ours in (KEY, INDEX, START, END) if self.splits)
        return next((name for name in places if name not in present), None)

    def keys(self, block: Block) -> list[bytes]:
        """Return what the rows of the corpus are matched by."""
        texts = block.column(self.text).cast(pa.large_binary()).to_pylist()
        return [_hash(text or b"").encode() if self.splits else text or b"" for text in texts]


def parent_hashes(texts: list[str]) -> pa.Array:
    """Hash whole texts, by which their chunks are found again: hex of 128 bits of BLAKE2b."""
    return pa.array([_hash(text.encode()) for text in texts], pa.string())


class HashTexts(beam.PTransform):
    """Add the hash of each text, which its chunks will have; texts are strings or UTF-8."""

    def __init__(self, text_column: str, name: str) -> None:
        super().__init__()
        self._columns = text_column, name

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Add the column."""
        return blocks | beam.Map(_with_hashes, *self._columns).with_output_types(Block)


def _with_hashes(block: Block, text_column: str, name: str) -> Block:
    texts = block.column(text_column).cast(pa.large_binary()).to_pylist()
    hashes = pa.array([_hash(text) for text in texts], pa.string())
    return block.with_column(pa.field(name, pa.string()), hashes)


def _hash(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=HASH_BYTES).hexdigest()


def read_previous(path: str, columns: PreviousColumns) -> Iterator[Block | NotReused]:
    """Read what can be used of one Parquet file, under the names above; rows keep their order.

    Chunks without a hash of their parents, those of version 0.1.0, are counted as `NotReused`.

    Raises:
      InputError: a column is missing, or the vectors do not name the model that made them.
    """
    with reading(path), open_file(path) as file:
        parquet = pq.ParquetFile(file)
        _check_previous(path, parquet.schema_arrow, columns)
        present = parquet.schema_arrow.names
        lacking = columns.lacking(present)
        if lacking is not None:
            reason = f"the previous run has no column {lacking!r}"
            yield NotReused(reason, _count_texts(parquet, columns.added[CHUNK_INDEX]))
            return
        names = {ours: name for ours, name in columns.files().items() if name in present}
        read = list(dict.fromkeys(names.values()))
        for batch in parquet.iter_batches(ROWS_PER_BLOCK, columns=read):
            rows = batch.filter(pc.is_valid(batch.column(columns.vectors)))
            fields = [rows.schema.field(name).with_name(ours) for ours, name in names.items()]
            arrays = [rows.column(name) for name in names.values()]
            yield Block(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))


def _check_previous(path: str, schema: pa.Schema, columns: PreviousColumns) -> None:
    missing = [name for name in columns.required() if name not in schema.names]
    if missing:
        raise InputError(
            f"reuse: no column {missing[0]!r} in {path}; it has {', '.join(schema.names)}"
        )
    if vector_metadata(schema.field(columns.vectors)) is None:
        raise InputError(
            f"reuse: column {columns.vectors!r} of {path} does not name the model that made "
            "it; leave reuse out and embed again"
        )


def _count_texts(parquet: pq.ParquetFile, index: str) -> int:
    """Count the first chunks of texts, or rows where there are no chunks."""
    if index not in parquet.schema_arrow.names:
        return int(parquet.metadata.num_rows)
    indexes = parquet.read([index]).column(0)
    return int(pc.sum(pc.equal(indexes, 0)).as_py() or 0)


class PreviousRows:
    """Index rows of a previous run by text; vectors of all are of one kind."""

    def __init__(self, blocks: list[Block]) -> None:
        self._table = pa.Table.from_batches([block.batch for block in blocks]).combine_chunks()
        self._first: dict[tuple[bytes, str | None], list[int]] = {}
        self._incomplete: set[bytes] = set()
        for (key, id_), rows in self._groups():
            self._first.setdefault((key, id_), rows)
            self._first.setdefault((key, None), rows)
        splits = INDEX in self._table.column_names
        self._ends = self._table.column(END).to_pylist() if splits else None

    def find(self, key: bytes, id_: str | None, text: str) -> list[int] | None:
        """Return the rows of a text: those of its id if there are, else the first.

        None if there is none, or not all chunks of it; the last one must reach its end.
        """
        rows = self._first.get((key, id_)) or self._first.get((key, None))
        if rows and self._ends is not None and is_visible(text[self._ends[rows[-1]] :]):
            self._incomplete.add(key)
            return None
        return rows

    def lacks_chunks(self, key: bytes) -> bool:
        """Tell whether chunks of a text are here that are not all of it."""
        return key in self._incomplete

    def attach(self, block: Block, found: list[list[int]]) -> Block:
        """Add the column `PREVIOUS`: for each row of `block` what these rows hold."""
        rows = pa.array([row for rows in found for row in rows], pa.int64())
        offsets = np.cumsum([0, *map(len, found)])
        names = [name for name in (VECTOR, *KNOWN) if name in self._table.column_names]
        taken = [self._table.column(name).combine_chunks().take(rows) for name in names]
        values = pa.StructArray.from_arrays(
            [_one_array(column) for column in taken],
            fields=[self._table.schema.field(name) for name in names],
        )
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
        metadata = self._table.schema.field(VECTOR).metadata
        return with_hidden(block, pa.field(PREVIOUS, lists.type, metadata=metadata), lists)

    def _groups(self) -> Iterator[tuple[tuple[bytes, str | None], list[int]]]:
        """Yield the rows of each text, in the order of the first; chunks only if there are all."""
        keys = self._table.column(KEY).cast(pa.large_binary()).to_pylist()
        ids = ids_of(self._table, SAME_ID)
        pairs = list(zip(keys, ids, strict=True))
        if INDEX not in self._table.column_names:
            yield from ((pair, [row]) for row, pair in enumerate(pairs))
            return
        indexes = self._table.column(INDEX).to_pylist()
        texts: dict[tuple[bytes, str | None], list[int]] = {}
        for row, pair in enumerate(pairs):
            texts.setdefault(pair, []).append(row)
        for pair, rows in texts.items():
            rows.sort(key=lambda row: indexes[row] or 0)
            if [indexes[row] for row in rows] == list(range(len(rows))):
                yield pair, rows
            else:
                self._incomplete.add(pair[0])


def ids_of(rows: Block | pa.Table, name: str | None) -> list[str | None]:
    """Return the ids of rows as strings, whatever their type; None where there is none."""
    if name is None or name not in rows.schema.names:
        return [None] * len(rows)
    return [None if id_ is None else str(id_) for id_ in rows.column(name).to_pylist()]


def index_previous(blocks: Iterable[Block]) -> list[PreviousRows]:
    """Index the rows of a previous run, those of each model and set of columns for themselves."""
    kinds: dict[bytes, list[Block]] = {}
    for block in blocks:
        kinds.setdefault(block.schema.serialize().to_pybytes(), []).append(block)
    return [PreviousRows(some) for some in kinds.values()]


def attach(
    block: Block, previous: list[PreviousRows], columns: PreviousColumns
) -> Iterator[Block | NotReused]:
    """Yield the rows whose text a previous run has, with the column `PREVIOUS`, then the others.

    Args:
      block: rows of the corpus.
      previous: each text is looked up in the first, then in the second, and so on.
      columns: of the rows.
    """
    keys, ids = columns.keys(block), ids_of(block, columns.id)
    texts = [""] * len(block)
    if columns.splits:
        texts = block.column(columns.text).cast(pa.large_string()).to_pylist()
    left = list(range(len(block)))
    for rows in previous:
        found = {i: there for i in left if (there := rows.find(keys[i], ids[i], texts[i]))}
        if found:
            yield rows.attach(block.take(pa.array(list(found), pa.int64())), list(found.values()))
            left = [i for i in left if i not in found]
    incomplete = sum(any(rows.lacks_chunks(keys[i]) for rows in previous) for i in left)
    if incomplete:
        yield NotReused(INCOMPLETE, incomplete)
    if left:
        yield block if len(left) == len(block) else block.take(pa.array(left, pa.int64()))


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.chunks else pa.nulls(0, column.type)
    return column
