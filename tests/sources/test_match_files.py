"""Which files a path or glob names: one rule for all readers and file systems."""

import json
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import InputError, ReadCorpus
from beam_gpte.sources.match_files import find_files, match_files
from beam_gpte.sources.read_vectors import read_vectors

FILES = (
    "top.jsonl",
    "v[1].jsonl",
    "v1.jsonl",
    "a*.jsonl",
    "ab.jsonl",
    "._top.jsonl",
    ".top.jsonl.swp",
    "_SUCCESS",
    "_draft.jsonl",
    "sub/deep.jsonl",
    "sub/low/deeper.jsonl",
    "_temporary/0/part.jsonl",
    ".cache/part.jsonl",
    "_day=1/part.jsonl",
    "k[2]/in.jsonl",
    "k2/in.jsonl",
    "k3/in.jsonl",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", "a*.jsonl ab.jsonl top.jsonl v1.jsonl v[1].jsonl"),
        ("t*.jsonl", "top.jsonl"),
        ("top.jsonl", "top.jsonl"),
        ("sub/**/*.jsonl", "sub/deep.jsonl sub/low/deeper.jsonl"),
        ("sub/**.jsonl", "sub/deep.jsonl sub/low/deeper.jsonl"),
        ("**/deep*.jsonl", "sub/deep.jsonl sub/low/deeper.jsonl"),
        ("**/t*.jsonl", "top.jsonl"),
        ("*/**/deeper.jsonl", "sub/low/deeper.jsonl"),
        ("*/low/*", "sub/low/deeper.jsonl"),
        ("v[1].jsonl", "v[1].jsonl"),
        ("v[1-9].jsonl", "v1.jsonl"),
        ("a*.jsonl", "a*.jsonl"),
        ("a?.jsonl", "a*.jsonl ab.jsonl"),
        ("k[2]/*.jsonl", "k[2]/in.jsonl"),
        ("k[23]/*.jsonl", "k2/in.jsonl k3/in.jsonl"),
        ("k[!2]/*.jsonl", "k3/in.jsonl"),
        ("_SUCCESS", "_SUCCESS"),
        ("._top.jsonl", "._top.jsonl"),
        ("._*", "._top.jsonl"),
        ("_*.jsonl", "_draft.jsonl"),
        ("_temporary/*/*.jsonl", "_temporary/0/part.jsonl"),
        ("_temp*/**/*.jsonl", "_temporary/0/part.jsonl"),
        (".c*/*", ".cache/part.jsonl"),
        ("**/part.jsonl", "_day=1/part.jsonl"),
        ("none*", ""),
        ("none[1].jsonl", ""),
    ],
)
def test_a_pattern_names_these_files(folder: Path, pattern: str, names: str) -> None:
    found = sorted(file.path for file in find_files(f"{folder}/{pattern}"))
    assert found == sorted(f"{folder}/{name}" for name in names.split())


def test_folders_above_a_pattern_may_be_hidden(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.jsonl").touch()
    assert len(find_files(f"{tmp_path}/.data/*.jsonl")) == 1
    assert len(find_files(f"{tmp_path}/.data/**/*.jsonl")) == 1


def test_only_hidden_files_are_named_in_the_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"1 with a hidden name are left out, such as part\.jsonl"):
        match_files(f"{folder}/*/0/part.jsonl")
    with pytest.raises(InputError, match="is a folder; name the files in it, such as .*/sub/\\*"):
        match_files(f"{folder}/sub")


def test_a_corpus_has_the_top_folder_and_no_hidden_files(folder: Path) -> None:
    expected = [
        name
        for name in FILES
        if not name.startswith((".", "_S", "_dr", "_t")) and name != "a*.jsonl"
    ]
    with beam.Pipeline("FnApiRunner") as pipeline:
        blocks = pipeline | ReadCorpus(f"{folder}/**/*.jsonl")
        texts = blocks | beam.FlatMap(lambda block: block.column("text").to_pylist())
        assert_that(texts, equal_to([*expected, "a*.jsonl"]))


def test_vectors_beside_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "v[1]"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a"]}), folder / "x.parquet")
    (folder / "._x.parquet").write_bytes(b"Mac OS X")
    for path in (folder, folder / "*.parquet", folder / "x.parquet"):
        assert [block.column("id").to_pylist() for block in read_vectors(str(path))] == [["a"]]


def test_a_set_of_a_sink_that_is_incomplete_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def touch(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [
            match.path.removeprefix(f"{tmp_path}/")
            for match in match_files(f"{tmp_path}/{pattern}")
        ]

    whole, cut = "part-0123456789ab", "part-ba9876543210"
    touch(f"{whole}-00000-of-00002.parquet", f"{whole}-00001-of-00002.parquet", "mine.parquet")
    touch(f"{cut}-00001-of-00002.parquet", f".beam-gpte-tmp-parquet-{cut}/0.staged")
    files = ["mine.parquet", f"{whole}-00000-of-00002.parquet", f"{whole}-00001-of-00002.parquet"]
    assert found("*.parquet") == files
    assert "1 files are of incomplete sets, as a killed run leaves them, such as" in caplog.text
    assert found("*-00001-*") == files[2:]  # of a complete set, files may be chosen
    with pytest.raises(InputError, match="1 files are of incomplete sets.*; repeat that run"):
        found("part-b*")
    # a set spans the partitions of a folder
    touch(*(f"b/lang={lang}/{whole}-0000{i}-of-00002.jsonl" for i, lang in enumerate(("de", "en"))))
    assert found("b/lang=de/*") == [f"b/lang=de/{whole}-00000-of-00002.jsonl"]
    (tmp_path / f"b/lang=en/{whole}-00001-of-00002.jsonl").unlink()
    with pytest.raises(InputError, match="1 files are of incomplete sets"):
        found("b/lang=de/*")
