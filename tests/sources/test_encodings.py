"""Files of any encoding are read by its name; with another name, no row is lost silently."""

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import InputError, ReadCorpus, ReadOptions
from beam_gpte.sources.corpus_files import find_other_encoding, read_schema
from beam_gpte.sources.formats.encodings import other_encoding
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.read_files import read_file

TEXTS = ["one", "", 'Käse, größer; "alt"', "naïve\u0085café", "zwei\u00a0drei"]
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def read(path: Path, encoding: str) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]]]:
    """Read a file without a pipeline: texts with their rows, and errors."""
    good, bad = [], []
    for part in read_file(str(path), ColumnSelection(None, None, "text"), None, 3, encoding):
        texts = part.batch.column("text").to_pylist() if part.batch.num_columns else []
        good += zip(part.numbers, texts, strict=True)
        bad += [(error.row, error.reason, error.content) for error in part.errors]
    return good, bad


def content(kind: str, texts: list[str]) -> str:
    if kind == "txt":
        return "".join(f"{text}\n" for text in texts)
    if kind == "jsonl":
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=";" if kind == "csv" else "\t", lineterminator="\r\n")
    writer.writerows([["text", "n"], *([text, str(i)] for i, text in enumerate(texts))])
    return file.getvalue()


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-be", "UTF_32", "utf-8", "utf-8-sig"]
)
def test_a_file_is_read_as_its_utf8_form_is(
    tmp_path: Path, kind: str, encoding: str, packing: str
) -> None:
    texts = [text.replace("\u0085", " ") for text in TEXTS] * 3  # cp1252 has no U+0085
    (tmp_path / f"plain.{kind}").write_bytes(content(kind, texts).encode())
    path = tmp_path / f"a.{kind}{packing}"
    path.write_bytes(PACK[packing](content(kind, texts).encode(encoding)))
    found, errors = read(path, encoding)
    assert (found, errors) == read(tmp_path / f"plain.{kind}", "utf-8")
    assert errors == []
    blank = 0 if kind == "jsonl" else 3
    expected = 15 - blank if kind == "txt" else 15
    assert len(found) == expected
    assert found[2 if kind != "txt" else 1] == (3, TEXTS[2])


def test_asian_encodings_and_utf16_without_a_mark_are_read(tmp_path: Path) -> None:
    for encoding in ("shift_jis", "euc-jp", "iso2022_jp", "gb18030", "utf-16-le"):
        path = tmp_path / "a.txt"
        path.write_bytes("日本\n語\n".encode(encoding))
        assert read(path, encoding) == ([(1, "日本"), (2, "語")], [])


def test_a_character_at_the_edge_of_what_is_read_at_once_is_whole(tmp_path: Path) -> None:
    line = "日本語" * 50 + "\n"
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" + (line * 8000).encode("shift_jis"))  # 2.4 MB
    found, errors = read(path, "shift_jis")
    assert errors == []
    assert found == [(1, "a"), *((i, line.rstrip()) for i in range(2, 8002))]


@pytest.mark.parametrize(
    ("encoding", "data", "good", "bad"),
    [
        ("cp1252", b"a\nb\x81\x8d\nc\n", [1, 3], [(2, "b\\x81\\x8d")]),
        ("ascii", b"a\ncaf\xc3\xa9\nc\n", [1, 3], [(2, "caf\\xc3\\xa9")]),  # valid UTF-8
        ("shift_jis", b"a\nb\x81\nc\n", [1, 3], [(2, "b\\x81")]),
        ("euc_kr", b"a\n\xa4\xd4\nbcdef\n", [1, 3], [(2, "\\xa4\\xd4")]),  # it would take 8 bytes
        ("utf-16-le", b"a\0\n\0\x0a\xd8\n\0c\0\n\0", [1, 3], [(2, "\\x0a\\xd8")]),
        ("utf-16-be", b"\0a\0\n\xd8\x0a\0\n\0c\0\n", [1, 3], [(2, "\\xd8\\x0a")]),
        ("utf-16-le", b"a\0\n\0b", [1], [(2, "\\x62")]),  # it ends within a character
        ("utf-8", b"a\ncaf\xe9\nc\n", [1, 3], [(2, "caf\\xe9")]),
    ],
)
def test_bytes_that_are_invalid_cost_their_row(
    tmp_path: Path, encoding: str, data: bytes, good: list[int], bad: list[tuple[int, str]]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    reason = f"invalid {encoding}: name another encoding, or fix the row"
    if encoding == "utf-8":
        reason = "invalid UTF-8: name the encoding of the file, such as latin-1"
    found, errors = read(path, encoding)
    assert [row for row, _ in found] == good
    assert errors == [(row, reason, text) for row, text in bad]


def test_a_header_that_is_not_utf8_names_the_repair(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text;größe\na;1\n".encode("latin-1"))
    with pytest.raises(InputError, match="name another by encoding, such as encoding='latin-1'"):
        read(path, "utf-8")
    assert read_schema(str(path), encoding="latin-1") == ["text", "größe"]


def test_utf16_without_an_order_mark_has_to_name_its_order(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("größer\n".encode("utf-16-le"))
    with pytest.raises(InputError, match=r"a\.txt: UTF-16 .* start with BOM; name utf-16-le, or"):
        read(path, "utf-16")


def test_parquet_has_its_own_encoding(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["é"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "utf-16") == ([(1, "é")], [])
    assert read_schema(str(tmp_path / "a.parquet"), encoding="utf-16") == ["text"]
    assert find_other_encoding(str(tmp_path / "a.parquet")) is None


@pytest.mark.parametrize(
    ("encoding", "repair"),
    [
        ("latn-1", "did you mean latin-1"),
        ("utf16le", "did you mean utf-16le"),
        ("shift-js", "did you mean shift-jis"),
        ("windows 1252 or so", "did you mean windows-1252"),
        ("?", "use latin-1, cp1252, utf-16 or another"),
        ("base64", "is unknown"),  # not of texts
        ("unicode_escape", "use latin-1"),  # would make newlines
        ("a\0b", "use latin-1"),
        (5, "is unknown"),
    ],
)
def test_an_unknown_encoding_is_refused_with_the_nearest(encoding: str, repair: str) -> None:
    with pytest.raises(InputError, match="is unknown") as refused:
        ReadOptions(encoding=encoding)
    assert repair in str(refused.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", None),
        (b"plain", None),
        ("größer".encode(), None),
        ("größer\n".encode() + b"a row with caf\xe9", None),  # one bad row
        (b"plain\n" * 11 + b"caf\xe9", None),  # of twelve
        (b"plain\n" * 9 + b"caf\xe9", (57, 0xE9, "latin-1")),  # of ten
        (b"caf\xe9", (3, 0xE9, "latin-1")),
        ("é\n".encode() + b"caf\xe9 caf\xe9", (6, 0xE9, "latin-1")),
        (b"\x93quoted\x94", (0, 0x93, "cp1252")),
        ("日本".encode("utf-16"), (0, 0xFF, "utf-16")),
        ("日本".encode("utf-32"), (0, 0xFF, "utf-32")),
    ],
)
def test_the_beginning_of_a_file_shows_its_encoding(
    data: bytes, found: tuple[int, int, str] | None
) -> None:
    other = other_encoding(data, True)
    assert (other and (other.offset, other.byte, other.likely)) == found


def test_a_character_that_is_cut_off_shows_nothing(tmp_path: Path) -> None:
    assert other_encoding("ä".encode()[:1], False) is None
    (tmp_path / "a.txt").write_bytes("ä".encode() * (1 << 20) + b"\n")
    (tmp_path / "b.txt").write_bytes(b"a" + "ä".encode() * (1 << 20) + b"\n")
    for name in ("a.txt", "b.txt"):
        assert find_other_encoding(str(tmp_path / name)) is None


def test_ids_and_rejects_of_a_corpus_have_the_row_numbers_of_its_files(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "\x81"}\n{"text": "\x80"}')
    (tmp_path / "b.csv").write_bytes(b"text;n\n\xfcber;1\n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"\n\x93x\x94\n"))
    options = ReadOptions(encoding="cp1252")
    with new_pipeline() as p:
        read = ReadCorpus(str(tmp_path / "*"), options=options)
        good, bad = p | read.with_exception_handling()
        texts = good | beam.FlatMap(lambda block: block.batch.select(["id", "text"]).to_pylist())
        expected = [
            {"id": "a.jsonl:1", "text": "café"},
            {"id": "a.jsonl:3", "text": "€"},
            {"id": "b.csv:1", "text": "über"},
            {"id": "c.txt.gz:2", "text": "“x”"},
        ]
        assert_that(texts, equal_to(expected), "Texts")
        contents = bad | "Bad" >> beam.FlatMap(lambda block: block.column("content").to_pylist())
        assert_that(contents, equal_to(['{"text": "\\x81"}']), "Contents")
