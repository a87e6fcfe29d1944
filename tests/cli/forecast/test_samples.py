"""Samples are spread over all rows, whatever the format, and their files read like the corpus's."""

import gzip
import json
import lzma
import random
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte.cli.forecast import samples
from beam_gpte.cli.forecast.samples import draw
from beam_gpte.cli.forecast.texts import usable_texts
from beam_gpte.sources.corpus_files import CODECS
from beam_gpte.sources.formats.rows import ColumnSelection


def lines(count: int, start: int = 0) -> bytes:
    rows = range(start, start + count)
    return "".join(json.dumps({"id": i, "text": f"text {i}"}) + "\n" for i in rows).encode()


def write(path: Path, data: bytes) -> None:
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(data))
    elif path.suffix == ".jsonl":
        path.write_bytes(data)
    else:
        with pa.CompressedOutputStream(str(path), CODECS[path.suffix]) as file:
            file.write(data)


def texts(paths: list[str]) -> list[str]:
    return list(usable_texts(paths, ColumnSelection((), "id", "text")))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.parquet", *(f"a.jsonl.{end}" for end in ("gz", "bz2", "xz", "zst"))]
)
def test_a_sample_is_spread_over_all_rows(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / name, lines(20_000)
    if name.endswith(".parquet"):
        table = pa.table({"id": range(20_000), "text": [f"text {i}" for i in range(20_000)]})
        pq.write_table(table, path, row_group_size=6000)
    else:
        write(path, data)
    sample = draw([str(path)], 1000)
    assert (sample.rows, sample.is_exact) == (20_000, True)
    assert 1000 <= sample.drawn <= 2000
    (written,) = sample.write(str(tmp_path / "sample"), 100)
    assert Path(written).name == name  # generated ids are made from it
    found = [int(text.removeprefix("text ")) for text in texts([written])]
    assert len(found) == 100
    tenths = Counter(i // 2000 for i in found)
    assert all(8 <= tenths[i] <= 12 for i in range(10))
    assert 20 < sum(i % 2 for i in found) < 80


def test_all_rows_of_a_small_corpus_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_bytes(lines(30))
    (tmp_path / "b" / "b.jsonl").write_bytes(b"\n" + lines(10, 30))
    sample = draw([f"{tmp_path}/**/*.jsonl"], 100)
    assert (sample.rows, sample.drawn, sample.is_exact) == (40, 40, True)
    paths = sample.write(str(tmp_path / "sample"), 40)
    assert [str(Path(path).relative_to(tmp_path / "sample")) for path in paths] == [
        "a.jsonl",
        "b/b.jsonl",
    ]
    assert texts(paths) == [f"text {i}" for i in range(40)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_rows_of_a_large_file_are_predicted_from_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    chance = random.Random(0)
    texts_of = (f"{i:06} {chance.randbytes(i // 1000).hex()}" for i in range(100_000))
    rows = [{"id": i, "text": text} for i, text in enumerate(texts_of)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / f"sorted.jsonl{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix else data)
    monkeypatch.setattr(samples, "READ_BYTES", path.stat().st_size // 8)
    sample = draw([str(path)], 1000)
    assert not sample.is_exact
    if suffix:  # from its beginning, where rows are shorter
        assert 80_000 < sample.rows < 400_000
    else:
        assert sample.rows == pytest.approx(100_000, rel=0.1)
        found = [int(text[:6]) for text in texts(sample.write(str(tmp_path / "sample"), 1000))]
        assert min(found) < 10_000
        assert max(found) > 90_000


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_rows_of_another_encoding_are_written_as_utf_8(tmp_path: Path, encoding: str) -> None:
    rows = "text\n" + "".join(f"caf\xe9 {i}\n" for i in range(5))
    (tmp_path / "rows.tsv").write_bytes(rows.encode(encoding))
    sample = draw([str(tmp_path / "rows.tsv")], encoding=encoding)
    (path,) = sample.write(str(tmp_path / "sample"), 5)
    assert (sample.rows, sample.is_exact) == (5, True)
    assert Path(path).read_bytes() == rows.encode()


def test_a_row_of_csv_with_line_breaks_stays_whole(tmp_path: Path) -> None:
    rows = "".join(f'{i},"one ""{i}"",\ntwo"\n' for i in range(500))
    path = tmp_path / "a.csv"
    path.write_text(f"id,text\n{rows}")
    sample = draw([str(path)], 100)
    assert (sample.rows, sample.is_exact) == (500, True)
    (written,) = sample.write(str(tmp_path / "sample"), 10)
    found = texts([written])
    assert len(found) == 10
    assert all(re.fullmatch(r'one "\d+",\ntwo', text) for text in found)


def test_vectors_keep_their_metadata(tmp_path: Path) -> None:
    kind = pa.list_(pa.float32(), 2)
    field = pa.field("embedding", kind, metadata={"beam_gpte": "{}"})
    vectors = pa.array([[0.0, 1.0]] * 3, kind)
    schema = pa.schema([pa.field("id", pa.int64()), field])
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table([[1, 2, 3], vectors], schema=schema), path)
    (written,) = draw([str(path)]).write(str(tmp_path / "sample"), 3)
    assert pq.read_schema(written).field("embedding").metadata[b"beam_gpte"] == b"{}"
    assert pq.read_table(written).equals(pq.read_table(path))


def test_rows_of_one_number_are_drawn_of_two_corpora_of_one_size(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(20_000))
        sample = draw([f"{tmp_path}/{name}.jsonl"], 1000)
        found.append(texts(sample.write(f"{tmp_path}/{name}", 100)))
    assert found[0] == found[1]


def test_two_files_are_drawn_at_one_rate(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(9000))
    (tmp_path / "b.jsonl").write_bytes(lines(1000, 9000))
    sample = draw([f"{tmp_path}/*.jsonl"], 1000)
    first, second = (len(part.rows) for part in sample.parts)
    assert first == pytest.approx(9 * second, rel=0.02)
