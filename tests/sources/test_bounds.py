"""No file takes more memory than is stated, whatever it unpacks to; long rows are rejects."""

import gzip
import lzma
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import Block, InputError, ReadCorpus, ReadOptions, WatchCorpus
from beam_gpte.sources.declared_columns import split_fitting
from beam_gpte.sources.formats import lines as lines_module
from beam_gpte.sources.formats import parquet as parquet_module
from beam_gpte.sources.formats import rows as rows_module
from beam_gpte.sources.formats.parquet_pages import column_pages
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows
from beam_gpte.sources.read_files import read_file
from beam_gpte.sources.read_vectors import read_vectors
from beam_gpte.sources.schemas import conform

MB = 1 << 20
TOO_LONG = "row exceeds max_row_bytes: 100"


def read(path: Path, max_row_bytes: int = 100, rows: int = 256) -> list[FileRows]:
    selection = ColumnSelection(None, None, "text", max_row_bytes=max_row_bytes)
    return list(read_file(str(path), selection, None, rows))


def texts(parts: list[FileRows]) -> list[tuple[int, str]]:
    return [
        pair
        for part in parts
        for pair in zip(part.numbers, part.batch.column("text").to_pylist(), strict=True)
    ]


def errors(parts: list[FileRows]) -> list[tuple[int, str, str]]:
    return [(e.row, e.reason, e.content[:12]) for part in parts for e in part.errors]


LONG = {
    "a.jsonl": b'{"text": "one"}\n{"text": "%s"}\n{"text": "two"}\n',
    "a.txt": b"one\n%s\ntwo\n",
    "a.tsv": b"text\none\n%s\ntwo\n",
    "a.csv": b"text\none\n%s\ntwo\n",
    "windows.csv": b"text\r\none\r\n%s\r\ntwo\r\n",
    "mac.csv": b"text\rone\r%s\rtwo\r",
    "quoted.csv": b'text\none\n"%s"\ntwo\n',
    "lines.csv": b'text\none\n"%s,\n,""\n"\ntwo\n',
    "open.csv": b"text\none\nx%s\ntwo",
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("size", [101, 5000, 3 * MB])
def test_a_long_row_is_an_error_of_its_number_and_the_rest_is_read(
    tmp_path: Path, name: str, size: int
) -> None:
    path = tmp_path / name
    path.write_bytes(LONG[name] % (b"y" * size))
    found = read(path)
    first = 1
    assert texts(found) == [(first, "one"), (first + 2, "two")]
    assert [(row, reason) for row, reason, _ in errors(found)] == [(first + 1, TOO_LONG)]
    assert "yyy" in errors(found)[0][2] or name == "a.jsonl"
    assert max(len(e.content) for part in found for e in part.errors) <= 1000


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.tsv", "a.csv", "quoted.csv"])
def test_a_row_of_just_the_bound_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    around = {"a.jsonl": len(b'{"text": ""}'), "quoted.csv": 3}.get(name, 0)
    path.write_bytes(LONG[name] % (b"y" * (100 - around)))
    assert [number for number, _ in texts(read(path))] == [1, 2, 3]


def test_a_long_row_at_the_end_of_a_file_and_an_open_quote(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\none\n" + b"y" * 5000)
    assert errors(read(path)) == [(2, TOO_LONG, "y" * 12)]
    path.write_bytes(b'text\none\n"' + b"y\n" * 5000)
    with pytest.raises(InputError, match="the quote opened in row 2 is never closed"):
        read(path)
    path.write_bytes(b"y" * 5000 + b"\none\n")
    with pytest.raises(InputError, match="the header cannot be read: row exceeds max_row_bytes"):
        read(path)


def held(reading: Iterator[Any]) -> int:
    """The most bytes that Python and Arrow hold while a file is read."""
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        arrow = max((pa.total_allocated_bytes() - before for _ in reading), default=0)
        return arrow + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.txt.gz", "a.tsv.gz", "a.csv.gz", "quoted.csv.gz"]
)
def test_a_line_of_many_megabytes_is_not_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    head, tail = LONG[name.removesuffix(".gz")].split(b"%s")
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(48):
            file.write(b"y" * MB)
        file.write(tail)
    selection = ColumnSelection(None, None, "text", max_row_bytes=MB)
    assert held(read_file(str(path), selection, None, 256)) < 10 * MB


def test_long_lines_come_a_bounded_number_of_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_gpte.sources.formats.lines.BATCH_BYTES", 10_000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"".join(b"%d %s\n" % (i, b"y" * 3000) for i in range(20)))
    found = read(path, 5000)
    assert [len(part.numbers) for part in found] == [4] * 5
    assert [number for number, _ in texts(found)] == list(range(1, 21))


def test_blank_lines_are_counted_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n" * 300_000 + b"one\n" + b" \n")
    found = read(path)
    assert texts(found) == [(300_001, "one")]
    assert sum(part.blank for part in found) == 300_001
    assert len(found) == 1


def dictionary_table(value: str, rows: int, **more: Any) -> pa.Table:
    indices = pa.array([0] * rows, pa.int32())
    return pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array([value])), **more})


def write(path: Path, table: pa.Table, **options: Any) -> None:
    settings = {"compression": "zstd", "store_schema": False, **options}
    pq.write_table(table, path, dictionary_pagesize_limit=64 * MB, **settings)


def test_a_value_that_all_rows_name_is_unpacked_in_slices(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, dictionary_table("v" * 4 * MB, 256, n=list(range(256))))
    assert path.stat().st_size < 4000
    selection = ColumnSelection(None, None, "text")
    rows = 0

    def counted() -> Iterator[FileRows]:
        nonlocal rows
        for part in read_file(str(path), selection, None, 256):
            assert part.batch.nbytes <= 17 * MB
            assert part.batch.schema.field("text").type == pa.string()
            rows += part.batch.num_rows
            yield part

    assert held(counted()) < 80 * MB
    assert rows == 256


def test_a_long_value_of_parquet_is_an_error_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for dictionary in (True, False):
        write(path, pa.table({"text": ["one", "y" * 5000, "two"]}), use_dictionary=dictionary)
        found = read(path)
        assert texts(found) == [(1, "one"), (3, "two")]
        assert errors(found) == [(2, TOO_LONG, "y" * 12)]


def test_packed_values_come_back_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "UNPACKED_BYTES", 1)
    path = tmp_path / "a.parquet"
    values = ["a", None, "b", "a", "é" * 50] * 200
    table = pa.table(
        {"text": values, "x": [[value] for value in values], "b": pa.array([b"z", None] * 500)}
    )
    write(path, table, row_group_size=300)
    parts = read(path, 10_000)
    read_back = pa.Table.from_batches([part.batch for part in parts])
    assert read_back.select(["text", "b"]).combine_chunks() == table.select(["text", "b"])
    assert read_back["x"].to_pylist() == table["x"].to_pylist()
    blocks = list(read_vectors(str(path), rows_per_block=7))
    assert [value for block in blocks for value in block.column("text").to_pylist()] == values


def test_a_page_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "MAX_PAGE_BYTES", 2 * MB)
    monkeypatch.setattr(parquet_module, "MAX_LIST_DICTIONARY", MB)
    path = tmp_path / "a.parquet"
    write(path, pa.table({"text": ["p" * 3 * MB]}), use_dictionary=False)
    refused = (
        "a.parquet: column 'text' has a page of 3 MiB, more than 2; write it with smaller pages"
    )
    with pytest.raises(InputError, match=refused):
        read(path, 10 * MB)
    with pytest.raises(InputError, match=refused):
        list(read_vectors(str(path)))
    write(path, pa.table({"text": ["a"], "x": [["q" * (3 * MB // 2)] * 3]}))
    with pytest.raises(InputError, match="column 'x.list.element' has a dictionary of 1 MiB"):
        read(path, 10 * MB)
    selection = ColumnSelection((), None, "text")
    assert len(list(read_file(str(path), selection, None, 256))) == 2


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip"])
def test_pages_are_measured_by_their_own_headers(tmp_path: Path, version: Any, codec: Any) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"text {i % 700}" for i in range(5000)], "n": list(range(5000))})
    options: dict[str, Any] = {"data_page_version": version, "write_page_index": True}
    write(path, table, compression=codec, data_page_size=2000, row_group_size=2500, **options)
    metadata = pq.read_metadata(path)
    with open(path, "rb") as file:
        pages = column_pages(file, metadata.schema, {"text", "n"})
    assert [page.name for page in pages] == ["text", "n"] * 2
    for i, page in enumerate(pages):
        chunk = metadata.row_group(i // 2).column(i % 2)
        headers = chunk.total_uncompressed_size - page.total
        assert 0 < headers < 0.2 * chunk.total_uncompressed_size
        assert page.dictionary > 0
        assert page.largest <= page.total


def test_too_many_columns_are_refused_and_few_of_them_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MAX_COLUMNS", 50)
    monkeypatch.setattr("beam_gpte.sources.formats.lines.MAX_COLUMNS", 50)
    names = [f"c{i}" for i in range(60)]
    row = ",".join(["a"] * 61)
    (tmp_path / "a.csv").write_text(f"text,{','.join(names)}\n{row}\n")
    lines = [f'{{"text": "a", "{name}": 1}}' for name in names]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({name: ["a"] for name in ["text", *names]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        path = str(tmp_path / name)
        with pytest.raises(InputError, match="61 columns; read at most 50 of them, by columns"):
            read(tmp_path / name, MB)
        found = list(read_file(path, ColumnSelection(("c59",), None, "text"), None, 256))
        assert found[-1].batch.schema.names == ["text", "c59"]


def test_a_key_costs_nothing_in_blocks_whose_rows_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, typed_column = [], lines_module._typed_column

    def counted(values: list[Any], name: str, *others: Any) -> Any:
        typed.append(name)
        return typed_column(values, name, *others)

    monkeypatch.setattr(lines_module, "_typed_column", counted)
    path, rows = tmp_path / "a.jsonl", 1000
    path.write_text("".join(f'{{"text": "a", "k{i}": {i}}}\n' for i in range(rows)))
    found = read(path, rows=50)
    assert len(typed) == rows + 20  # its own block's, and the text in each
    last = found[-1].batch
    assert last.num_columns == 1 + rows
    assert last.column("k0") == pa.nulls(50, pa.int64())
    assert last.column("k999").to_pylist() == [None] * 49 + [999]


def test_a_batch_of_many_keys_has_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "a.jsonl", 300
    lines = [f'{{"text": "a", "k{i}": {i}}}\n' for i in range(rows)]
    lines[7] = lines[200] = "broken\n"
    lines[100] = "\n"
    path.write_text("".join(lines))
    whole = read(path, rows=150)
    monkeypatch.setattr(lines_module, "CELLS", 3000)
    found = read(path, rows=150)
    assert max(part.batch.num_rows * part.batch.num_columns for part in found) <= 3000
    assert [n for part in found for n in part.numbers] == [
        n for part in whole for n in part.numbers
    ]
    assert [error for part in found for error in part.errors] == [
        error for part in whole for error in part.errors
    ]
    assert [error.row for part in found for error in part.errors] == [8, 201]
    assert sum(part.blank for part in found) == 1
    both = [
        pa.concat_tables(map(table_of, parts), promote_options="default")
        for parts in (found, whole)
    ]
    assert both[0].equals(both[1])


def table_of(rows: Any) -> pa.Table:
    return pa.Table.from_batches([rows.batch])


def test_the_columns_of_a_block_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    listed, schema_of = [], Block.schema.fget  # type: ignore[attr-defined]

    def counted(block: Block) -> pa.Schema:
        listed.append(block)
        return schema_of(block)

    names = [f"k{i}" for i in range(200)]
    block = Block.from_pydict({name: [1] for name in names})
    schema = pa.schema([(name, pa.float64()) for name in [*names[1:], "other"]])
    monkeypatch.setattr(Block, "schema", property(counted))
    assert conform(block, schema).batch.schema == schema
    assert split_fitting(block, schema)[0].batch.schema == schema
    assert len(listed) <= 4


def test_long_texts_in_views_are_errors_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = ["one", "y" * 5000, "two"]
    pq.write_table(pa.table({"text": pa.array(values, pa.string_view())}), path)
    found = read(path)
    assert texts(found) == [(1, "one"), (3, "two")]
    assert errors(found) == [(2, TOO_LONG, "y" * 12)]
    assert found[-1].batch.schema.types == [pa.string()]


def test_a_damaged_second_stream_of_xz_is_refused(tmp_path: Path) -> None:
    one, two = (lzma.compress(b'{"text": "%s"}\n' % word) for word in (b"one", b"two"))
    path = tmp_path / "a.jsonl.xz"
    for whole in (one + two, one + bytes(4) + two + bytes(8)):
        path.write_bytes(whole)
        assert texts(read(path)) == [(1, "one"), (2, "two")]
    damaged: dict[str, bytes] = {
        "first byte": one + b"\0" + two[1:],
        "padding": one + bytes(3) + two,
        "padding at the end": one + two + bytes(5),
        "magic": one + b"\0" * 4 + two[4:],
        "another byte": one + b"\xfe" + two[1:],
        "a letter": one + two + b"x",
    }
    for name, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.jsonl\.xz: cannot be read"):
            print(name, read(path))


def test_a_dictionary_of_xz_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 * MB}]
    path = tmp_path / "a.jsonl.xz"
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{**filters[0], "dict_size": MB}])
    data = bytearray(compressor.compress(b'{"text": "one"}\n') + compressor.flush())
    place = data.index(b"\x21\x01") + 2  # the size of the dictionary, as a power of two
    data[place] = 36  # 1 GiB
    import zlib

    header = 12 + 4 * (data[12] + 1)
    data[header - 4 : header] = zlib.crc32(data[12 : header - 4]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="Memory usage limit exceeded"):
        read(path)


@pytest.mark.parametrize("make", [ReadCorpus, WatchCorpus])
def test_a_bound_below_one_byte_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="max_row_bytes is 0; use 1 or more"):
        make("*.txt", options=ReadOptions(max_row_bytes=0))
