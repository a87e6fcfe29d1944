"""Define the element: a corpus is a PCollection of `Block`, and a block is one Arrow record batch.

A class around `pyarrow.RecordBatch` exists for two reasons only: Beam attaches a coder to a class
(Arrow IPC, see `BlockCoder`), and a pickled slice of a record batch would carry its whole parent
along (1.6 MB for one row of 1,024), so pickling has to go through IPC too.
"""

from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa

from beam_gpte.elements.arrow_values import check_names
from beam_gpte.elements.plain_types import held_array, held_type

# 400 KB of float32[384]; blocks pay off from 16 rows on, and progress is reported by block
ROWS_PER_BLOCK = 256


class Block:
    """Hold rows of a corpus: a thin wrapper around one `pyarrow.RecordBatch`.

    The columns are the user's and, after embedding, a `FixedSizeList<float32>[dim]`. Nothing else
    is added: which column holds the ids and which the texts is an argument of each transform.
    Columns of string_view and binary_view become large_string and large_binary, and run ends are
    decoded.

    Raises:
      InputError: two columns have one name.
    """

    __slots__ = ("batch",)

    def __init__(self, batch: pa.RecordBatch) -> None:
        check_names(batch.schema.names)
        for i, kind in enumerate(batch.schema.types):
            if (held := held_type(kind)) != kind:
                field = batch.schema.field(i).with_type(held)
                batch = batch.set_column(i, field, held_array(batch.column(i)))
        self.batch = batch

    @classmethod
    def _of(cls, batch: pa.RecordBatch) -> "Block":
        """Make a block of what is left of another, whose types are known."""
        block = cls.__new__(cls)
        block.batch = batch
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
        batches = table.combine_chunks().to_batches()
        if len(batches) > 1:
            raise ValueError(
                f"a table of {table.num_rows} rows and {table.nbytes} bytes is too large "
                "for one block; split it"
            )
        return cls(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))

    @classmethod
    def concat(cls, blocks: Iterable["Block"]) -> "Block":
        """Make one block of all rows of `blocks`, in order; the schemas must agree."""
        return cls.from_table(pa.Table.from_batches([block.batch for block in blocks]))

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

    def with_column(self, field: pa.Field, values: pa.Array) -> "Block":
        """Return this block with one more column, or the column of that name replaced in place."""
        position = self.schema.get_field_index(field.name)
        if position < 0:
            return Block(self.batch.append_column(field, values))
        return Block(self.batch.set_column(position, field, values))

    def without_columns(self, names: Iterable[str]) -> "Block":
        """Return this block without those of `names` that it has."""
        present = [name for name in names if name in self.schema.names]
        return Block._of(self.batch.drop_columns(present)) if present else self

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
        with pa.ipc.open_stream(data) as reader:
            return cls._of(reader.read_next_batch())

    def __reduce__(self) -> tuple:
        return Block.from_ipc, (self.to_ipc(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.batch.equals(other.batch, check_metadata=True)

    __hash__ = None  # type: ignore[assignment]  # a block is data, not a key

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name}: {field.type}" for field in self.schema)
        return f"Block({len(self)} rows; {columns})"


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
        return Block.from_ipc(encoded)

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
