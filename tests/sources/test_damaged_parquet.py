"""A Parquet file whose footer or pages are damaged is refused; no process ends at it, or hangs."""

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from beam_gpte import InputError
from beam_gpte.sources.formats import thrift
from beam_gpte.sources.formats.parquet_pages import column_pages
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.read_files import read_file

TABLE = pa.table({"text": ["a", "b"], "n": [1, 2]})
NULLABLE, REQUIRED = b"\x25\x02\x18\x01n", b"\x25\x00\x18\x01n"  # of the column n in the footer
MANY = b"\xff" * 8 + b"\x7f"


def texts_of(path: Path, columns: tuple[str, ...] | None) -> list[str]:
    parts = read_file(str(path), ColumnSelection(columns, None, "text"), None, 256)
    return [text for part in parts for text in part.batch.column("text").to_pylist()]


def test_a_histogram_of_a_wrong_length_does_not_end_the_process(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    assert sink.getvalue().count(NULLABLE) == 1
    path = tmp_path / "a.parquet"
    path.write_bytes(sink.getvalue().replace(NULLABLE, REQUIRED))
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read: Definition level histogram"):
        texts_of(path, None)
    assert texts_of(path, ()) == ["a", "b"]


class Keys(pe.KmsClient):
    """Keep keys as they are."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def test_an_encrypted_column_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    how = pe.EncryptionConfiguration("a", column_keys={"c": ["n"]}, plaintext_footer=True)
    factory = pe.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), how)
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read: Cannot decrypt"):
        texts_of(path, None)
    assert texts_of(path, ()) == ["a", "b"]


def test_the_pages_of_a_column_are_found_by_its_place(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    data = sink.getvalue()
    at = data.rindex(b"\x18\x04text")  # the path that the first chunk names; Arrow goes by place
    renamed = io.BytesIO(data[:at] + b"\x18\x04" + b"same" + data[at + 6 :])
    expected = column_pages(sink, pq.ParquetFile(sink).schema, {"text"})
    assert column_pages(renamed, pq.ParquetFile(renamed).schema, {"text"}) == expected


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x19" * (1 << 20), ValueError),  # lists within lists
        (b"\x1c" * (1 << 20), ValueError),  # structs within structs
        (b"\x19\xf7" + MANY, IndexError),  # doubles
        (b"\x19\xf1" + MANY, IndexError),  # booleans
        (b"\x18" + MANY, IndexError),  # bytes
        (b"\x15" + b"\xff" * 11, ValueError),
        (b"\x17\x00", IndexError),
        (b"\x1d\x00", ValueError),
        (b"", IndexError),
    ],
)
def test_what_no_struct_is_ends_at_once(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        thrift.read_struct(data)
    with pytest.raises(error):
        list(thrift.structs_of(data, 2))


def test_a_field_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="field 1 is there twice"):
        thrift.read_struct(b"\x15\x02\x05\x02\x02\x00")


def test_fields_of_all_kinds_are_read() -> None:
    data = (
        b"\x11\x12\x13\x07\x15\x03\x17"
        + bytes(8)
        + b"\x18\x02ab\x19\x25\x02\x04\x1c\x15\x02\x00\x00"
    )
    fields: dict[int, Any] = {
        1: None,
        2: None,
        3: 7,
        4: -2,
        5: None,
        6: b"ab",
        7: [1, 2],
        8: {1: 1},
    }
    assert thrift.read_struct(data) == (fields, len(data))
    with pytest.raises(ValueError, match="field 7 is a list of something else"):
        list(thrift.structs_of(data, 7))
