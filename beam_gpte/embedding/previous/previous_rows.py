"""Find what a previous run has of the vectors of a text, and attach it to the row of the text.

    previous file --> read_previous --> rows by the names of `previous_columns` --> PreviousRows --+
                                                                                                   |
    rows of the corpus ------------------------------------------------------------------> attach <+

`attach` adds the column `PREVIOUS` to the rows whose text the previous run has: a list of what it
has of each vector, one for a whole text and one per chunk for a text that was split. Its field has
the metadata of these vectors. What they are good for is decided where the model is loaded, see
`previous_vectors`.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_gpte.core.columns import PREVIOUS
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.multi_vectors.token_metadata import token_metadata
from beam_gpte.core.sparse.metadata import sparse_metadata
from beam_gpte.core.visible_text import is_visible
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.embedding.previous.previous_columns import (
    END,
    INDEX,
    KEY,
    KNOWN,
    MADE,
    SAME_ID,
    VECTOR,
    NotReused,
    PreviousColumns,
)
from beam_gpte.embedding.previous.sound_vectors import sound_rows
from beam_gpte.sources.corpus_files import open_file, reading

BYTES_AT_ONCE = 64 << 20  # of a previous file

INCOMPLETE = "the previous run lacks some chunks of the text"
DAMAGED = "the previous vectors have values that no model makes"

_KINDS = {
    "vectors": vector_metadata,
    "token vectors": token_metadata,
    "sparse vectors": sparse_metadata,
}


def read_previous(path: str, columns: PreviousColumns) -> Iterator[Block | NotReused]:
    """Read what can be used of one Parquet file, under the names above; rows keep their order.

    Chunks without a hash of their parents, those of version 0.1.0, are counted as `NotReused`.

    Raises:
      InputError: a column is missing, or the vectors do not name the model that made them.
    """
    with reading(path), open_file(path) as file:
        parquet = pq.ParquetFile(file)
        present = parquet.schema_arrow.names
        columns = columns.of_file(parquet.schema_arrow)
        _check_previous(path, parquet.schema_arrow, columns)
        lacking = columns.lacking(present)
        if lacking is not None:
            reason = f"the previous run has no column {lacking!r}"
            yield NotReused(reason, _count_texts(parquet, columns.files().get(INDEX)))
            return
        wanted = columns.files().items()
        names = {ours: name for ours, name in wanted if name is not None and name in present}
        read = list(dict.fromkeys(names.values()))
        for rows in parquet.iter_batches(_rows_at_once(parquet, read), columns=read):
            for name in columns.made:
                rows = rows.filter(pc.is_valid(rows.column(name)))
            sound = rows.filter(sound_rows(rows.select(columns.made)))
            if len(sound) < len(rows):
                yield NotReused(DAMAGED, len(rows) - len(sound))
            fields = [sound.schema.field(name).with_name(ours) for ours, name in names.items()]
            arrays = [sound.column(name) for name in names.values()]
            block = Block(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)))
            keys = columns.read_keys(block.column(KEY))
            if keys.null_count:
                yield NotReused(columns.without_key, keys.null_count)
            yield block.with_column(pa.field(KEY, keys.type), keys).filter(pc.is_valid(keys))


def _rows_at_once(parquet: pq.ParquetFile, names: list[str]) -> int:
    """Return how many rows take about `BYTES_AT_ONCE`: those with images are large."""
    groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    wanted = (one for one in chunks if one.path_in_schema.split(".")[0] in names)
    size = sum(one.total_uncompressed_size for one in wanted)
    return max(1, min(ROWS_PER_BLOCK, BYTES_AT_ONCE * parquet.metadata.num_rows // max(1, size)))


def _check_previous(path: str, schema: pa.Schema, columns: PreviousColumns) -> None:
    missing = [name for name in columns.required() if name not in schema.names]
    if missing:
        raise InputError(
            f"reuse: no column {missing[0]!r} in {path}; it has {', '.join(schema.names)}"
        )
    described = [columns.describe(schema.field(name)) for name in columns.made]
    for name, metadata in zip(columns.made, described, strict=True):
        if metadata is None:
            raise _not_of_kind(path, schema.field(name))
    if len(set(described)) > 1:
        raise InputError(
            f"reuse: columns {' and '.join(map(repr, columns.made))} of {path} are of two models; "
            "leave reuse out and embed again"
        )


def _not_of_kind(path: str, field: pa.Field) -> InputError:
    """Make the error for a column that is not of the kind that is asked for."""
    place = f"reuse: column {field.name!r} of {path}"
    for kind, describe in _KINDS.items():
        if describe(field) is not None:
            return InputError(f"{place} holds {kind} of another transform; name a run of this one")
    return InputError(
        f"{place} does not name the model that made it; leave reuse out and embed again"
    )


def _count_texts(parquet: pq.ParquetFile, index: str | None) -> int:
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

    def find(self, key: bytes | None, id_: str | None, text: str) -> list[int] | None:
        """Return the rows of a text: those of its id if there are, else the first.

        None if there is none, or not all chunks of it; the last one must reach its end.
        """
        if key is None:
            return None
        rows = self._first.get((key, id_)) or self._first.get((key, None))
        if rows and self._ends is not None and is_visible(text[self._ends[rows[-1]] :]):
            self._incomplete.add(key)
            return None
        return rows

    def lacks_chunks(self, key: bytes | None) -> bool:
        """Tell whether chunks of a text are here that are not all of it."""
        return key in self._incomplete

    def attach(self, block: Block, found: list[list[int]]) -> Block:
        """Add the column `PREVIOUS`: for each row of `block` what these rows hold."""
        rows = pa.array([row for rows in found for row in rows], pa.int64())
        offsets = np.cumsum([0, *map(len, found)])
        names = [name for name in (*MADE, *KNOWN) if name in self._table.column_names]
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
