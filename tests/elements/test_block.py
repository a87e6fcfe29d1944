"""Check that a block is a record batch that can be sent to workers."""

import pickle

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block, BlockCoder


def vectors(n: int, dim: int = 384) -> Block:
    flat = pa.array(np.arange(n * dim, dtype=np.float32))
    return Block.from_pydict(
        {"id": list(range(n)), "embedding": pa.FixedSizeListArray.from_arrays(flat, dim)}
    )


def test_a_block_survives_its_coder_with_types_and_metadata() -> None:
    field = pa.field("text", pa.string(), metadata={"language": "de"})
    block = Block(
        pa.record_batch([["ä", None]], schema=pa.schema([field], metadata={"corpus": "x"}))
    )
    again = BlockCoder().decode(BlockCoder().encode(block))
    assert again == block
    assert again.schema.field("text").metadata == {b"language": b"de"}


def test_one_row_of_a_thousand_travels_as_one_row() -> None:
    whole = vectors(1024)
    assert len(pickle.dumps(whole)) > 1_500_000
    for encode in (pickle.dumps, BlockCoder().encode):
        assert len(encode(whole.slice(7, 1))) < 4_000
    assert pickle.loads(pickle.dumps(whole.slice(7, 1))).column("id").to_pylist() == [7]


def test_a_column_is_added_at_the_end_and_replaced_in_place() -> None:
    block = Block.from_pydict({"a": [1], "b": [2]})
    assert block.with_column(pa.field("c", pa.int64()), pa.array([3])).schema.names == [
        "a",
        "b",
        "c",
    ]
    assert block.with_column(pa.field("a", pa.int64()), pa.array([9])).batch.to_pylist() == [
        {"a": 9, "b": 2}
    ]


def test_blocks_are_concatenated_in_order() -> None:
    both = Block.concat([Block.from_pydict({"a": [1, 2]}), Block.from_pydict({"a": [3]})])
    assert both.column("a").to_pylist() == [1, 2, 3]


def test_blocks_of_other_columns_do_not_concatenate() -> None:
    with pytest.raises(pa.ArrowInvalid):
        Block.concat([Block.from_pydict({"a": [1]}), Block.from_pydict({"b": [1]})])


def test_an_empty_block_survives_too() -> None:
    empty = vectors(3).slice(0, 0)
    assert not empty
    assert BlockCoder().decode(BlockCoder().encode(empty)) == empty


def stream_of(block: Block) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_batch(block.batch)
    return sink.getvalue().to_pybytes()


WORDS = pa.array(["a", "b", None, "a"]).dictionary_encode()
COLUMNS = {
    "dictionary": WORDS,
    "list of dictionaries": pa.ListArray.from_arrays([0, 1, 2, 3, 4], WORDS),
    "struct with a dictionary": pa.StructArray.from_arrays([WORDS], ["word"]),
    "struct": pa.array([{"x": 1, "y": "a"}] * 4),
    "map": pa.array([[("a", 1)], [], None, [("b", 2)]], pa.map_(pa.string(), pa.int32())),
    "vectors": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 8, pa.float32()), 2),
    "time": pa.array([1, 2, 3, None], pa.timestamp("ns", "UTC")),
    "null": pa.nulls(4),
    "extension": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "2", None, "3"])),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_bytes_are_those_of_an_arrow_stream(name: str) -> None:
    columns = {"id": pa.array([1, 2, 3, 4]), name: COLUMNS[name]}
    block = Block.from_pydict(columns)
    for part in (block, block.slice(1, 2), block.slice(4)):
        assert part.to_ipc() == stream_of(part)
        assert Block.from_ipc(part.to_ipc()) == part


def test_the_size_that_is_estimated_is_about_that_of_the_bytes() -> None:
    for block in (vectors(1), vectors(300), vectors(300).slice(100, 50)):
        size = BlockCoder().estimate_size(block)
        assert size <= len(BlockCoder().encode(block)) <= size + 1000


def test_two_columns_of_one_name_are_refused() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    with pytest.raises(InputError, match="column 'n' is there 2 times; rename one"):
        Block(batch)


@pytest.mark.parametrize("levels", [61, 100, 1000])
def test_types_that_cannot_be_sent_are_refused(levels: int) -> None:
    kind = pa.int64()
    for level in range(levels):
        kind = pa.list_(kind) if level % 2 else pa.struct([("a", kind)])
    batch = pa.RecordBatch.from_arrays([pa.nulls(1, kind)], ["deep"])
    with pytest.raises(InputError, match="column 'deep' is nested deeper than 60 levels"):
        Block(batch)


def test_libraries_read_a_block_without_a_copy() -> None:
    field = pa.field("text", pa.string(), metadata={"language": "de"})
    rows = pa.record_batch([["x", "y", "z"]], schema=pa.schema([field]))
    block = Block(rows).slice(1)
    table = pa.table(block)
    assert table.to_pydict() == {"text": ["y", "z"]}
    assert table.schema.field("text").metadata == {b"language": b"de"}
    assert table["text"].chunk(0).buffers()[2].address == rows.column(0).buffers()[2].address
    assert pl.DataFrame(block).to_dict(as_series=False) == {"text": ["y", "z"]}
    assert pl.DataFrame(vectors(2, 3)).schema["embedding"] == pl.Array(pl.Float32, 3)
    assert duckdb.sql("SELECT text FROM block ORDER BY text").fetchall() == [("y",), ("z",)]
    assert pa.table(block.slice(0, 0)).num_rows == 0
