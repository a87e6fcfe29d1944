"""Define the element: a corpus is a PCollection of `Block`, and a block is one Arrow record batch.

A class around `pyarrow.RecordBatch` exists for two reasons only: Beam attaches a coder to a class
(Arrow IPC, see `BlockCoder`), and a pickled slice of a record batch would carry its whole parent
along (1.6 MB for one row of 1,024), so pickling has to go through IPC too.

Between its own steps a transform keeps what it needs in hidden columns (`core.columns.HIDDEN`), and
trusts them. So there is no way from input to a hidden column: everything public that makes a block
refuses their names. `hidden_block` and `with_hidden` do not, and are for our own steps alone; what
they made is all that another worker can be sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import check_visible
from beam_gpte.elements.arrow_values import check_names, check_nesting
from beam_gpte.elements.block_html import block_html
from beam_gpte.elements.plain_types import converted_columns, held_array, held_type

# 400 KB of float32[384]; blocks pay off from 16 rows on, and progress is reported by block
ROWS_PER_BLOCK = 256


class Block:
    """Hold rows of a corpus: a thin wrapper around one `pyarrow.RecordBatch`.

    The columns are the user's and, after embedding, a `FixedSizeList<float32>[dim]`. Nothing else
    is added: which column holds the ids and which the texts is an argument of each transform.
    Columns of string_view and binary_view become large_string and large_binary, and run ends are
    decoded. What reads Arrow's C stream interface reads a block without a copy, as
    ``polars.DataFrame(block)`` and ``pyarrow.table(block)`` do; a notebook shows its first rows.

    Raises:
      InputError: two columns have one name, one has a hidden name, or is nested too deep.
    """

    __slots__ = ("_batch",)

    def __init__(self, batch: pa.RecordBatch) -> None:
        check_visible(batch.schema.names, batch.schema.metadata)
        self._batch = _held(batch)

    @property
    def batch(self) -> pa.RecordBatch:
        """The rows."""
        return self._batch

    @classmethod
    def _of(cls, batch: pa.RecordBatch) -> "Block":
        """Make a block of what is left of another, whose names and types are known."""
        block = cls.__new__(cls)
        block._batch = batch
        return block

    @classmethod
    def from_pydict(
        cls, columns: dict[str, list | pa.Array], schema: pa.Schema | None = None
    ) -> "Block":
        """Make a block of columns, lists or arrays, by name."""
        return cls(pa.RecordBatch.from_pydict(columns, schema=schema))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Block":
        """Make one block of all rows of `table`.

        Raises:
          ValueError: a column is too large for one Arrow array (2 GiB of text).
        """
        return cls(_one_batch(table))

    @classmethod
    def concat(cls, blocks: Iterable["Block"]) -> "Block":
        """Make one block of all rows of `blocks`, in order; the schemas must agree."""
        table = pa.Table.from_batches([block.batch for block in blocks])
        return cls._of(_one_batch(table))

    @property
    def schema(self) -> pa.Schema:
        """The names, types and metadata of the columns."""
        return self.batch.schema

    def __len__(self) -> int:
        return self.batch.num_rows

    def __bool__(self) -> bool:
        return self.batch.num_rows > 0

    def column(self, name: str) -> pa.Array:
        """Return one column."""
        return self.batch.column(name)

    def slice(self, start: int, length: int | None = None) -> "Block":
        """Return the rows from `start` on, without a copy."""
        return Block._of(self.batch.slice(start, length))

    def filter(self, mask: pa.Array) -> "Block":
        """Return the rows where `mask`, booleans, is true."""
        return Block._of(self.batch.filter(mask))

    def take(self, rows: Sequence[int] | np.ndarray | pa.Array) -> "Block":
        """Return the rows at these positions."""
        return Block._of(self.batch.take(rows if isinstance(rows, pa.Array) else pa.array(rows)))

    def select(self, names: Iterable[str]) -> "Block":
        """Return the columns of `names`, in this order."""
        chosen = list(names)
        check_names(chosen)
        return Block._of(self.batch.select(chosen))

    def with_column(self, field: pa.Field, values: pa.Array) -> "Block":
        """Return this block with one more column, or the column of that name replaced in place.

        Raises:
          InputError: it has a hidden name.
        """
        check_visible((field.name,))
        return with_hidden(self, field, values)

    def without_columns(self, names: Iterable[str]) -> "Block":
        """Return this block without those of `names` that it has."""
        present = [name for name in names if name in self.schema.names]
        return Block._of(self.batch.drop_columns(present)) if present else self

    def without_metadata(self) -> "Block":
        """Return this block without the metadata of its schema; those of columns stay."""
        return Block._of(self.batch.replace_schema_metadata(None))

    def to_ipc(self) -> bytes:
        """Write an Arrow IPC stream: the schema with metadata, then one batch, cut to the slice."""
        if not any(_has_dictionary(kind) for kind in self.schema.types):
            # what a writer writes, at half the cost
            return b"".join((self.schema.serialize(), self.batch.serialize(), _END_OF_STREAM))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_batch(self.batch)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_ipc(cls, data: bytes) -> "Block":
        """Read what `to_ipc` wrote."""
        return cls(_read_block(data).batch)

    def __reduce__(self) -> tuple:
        return _read_block, (self.to_ipc(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.batch.equals(other.batch, check_metadata=True)

    __hash__ = None  # type: ignore[assignment]  # a block is data, not a key

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Export the rows, with the metadata of their columns, as Arrow's PyCapsule interface."""
        return pa.Table.from_batches([self.batch]).__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        """Show the first rows in a notebook."""
        return block_html(self.batch)

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name}: {field.type}" for field in self.schema)
        return f"Block({len(self)} rows; {columns})"


def hidden_block(rows: pa.RecordBatch | pa.Table | Mapping[str, Any]) -> Block:
    """Make a block that may have hidden columns, of what our own steps computed.

    Args:
      rows: a batch, a table, or columns by name; visible columns are those of blocks.

    Raises:
      InputError: two columns have one name.
    """
    if isinstance(rows, Mapping):
        rows = pa.RecordBatch.from_pydict(rows)
    return Block._of(_held(_one_batch(rows) if isinstance(rows, pa.Table) else rows))


def with_hidden(block: Block, field: pa.Field, values: pa.Array) -> Block:
    """Return a block with one more column, hidden or not, or that of the name replaced in place."""
    if (kind := held_type(field.type)) != field.type:
        field, values = field.with_type(kind), held_array(values)
    position = block.schema.get_field_index(field.name)
    if position < 0:
        return Block._of(block.batch.append_column(field, values))
    return Block._of(block.batch.set_column(position, field, values))


def _held(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert columns to types that a block holds; check their names, and that all can be sent."""
    check_names(batch.schema.names)
    check_nesting(batch.schema)
    return converted_columns(batch, held_array)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError(
            f"a table of {table.num_rows} rows and {table.nbytes} bytes is too large "
            "for one block; split it"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _read_block(data: bytes) -> Block:
    """Read a block of another worker, or pickled."""
    with pa.ipc.open_stream(data) as reader:
        return Block._of(reader.read_next_batch())


_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def _has_dictionary(kind: pa.DataType) -> bool:
    """Return whether values of a type need messages of their own in an IPC stream."""
    if pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))


class BlockCoder(beam.coders.Coder):
    """Encode blocks as Arrow IPC streams.

    That takes 8 us per float32[384] vector, where a dict with a numpy array takes 30.
    """

    def encode(self, value: Block) -> bytes:
        """Write a block."""
        return value.to_ipc()

    def decode(self, encoded: bytes) -> Block:
        """Read a block."""
        return _read_block(encoded)

    def estimate_size(self, value: Block) -> int:
        """Return about the number of encoded bytes, which Beam asks of a sample of blocks."""
        return int(value.batch.nbytes)

    def is_deterministic(self) -> bool:
        """Return True: equal blocks have equal bytes."""
        return True

    def to_type_hint(self) -> type:
        """Return the type that the coder is registered for."""
        return Block

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


beam.coders.registry.register_coder(Block, BlockCoder)
