"""Which files a path or glob names: one rule for all readers and file systems."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import InputError, ReadCorpus
from beam_gpte.sources.corpus_files import read_schema
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
        ("[]ab]*.jsonl", "a*.jsonl ab.jsonl"),
        ("[!]a-u]*.jsonl", "v1.jsonl v[1].jsonl"),
        ("[]", ""),
        ("[!]", ""),
        ("[!]*.jsonl", ""),
        ("sub?deep.jsonl", ""),
        ("sub[!x]deep.jsonl", ""),
        ("none*", ""),
        ("none[1].jsonl", ""),
    ],
)
def test_a_pattern_names_these_files(folder: Path, pattern: str, names: str) -> None:
    found = sorted(file.path for file in find_files(f"{folder}/{pattern}"))
    assert found == sorted(f"{folder}/{name}" for name in names.split())


def test_a_pattern_that_means_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'\[z-a\]\*' is not a pattern \(bad character range"):
        match_files(f"{folder}/[z-a]*")


def test_a_backslash_stands_for_itself(tmp_path: Path) -> None:
    names = ["a\\b.jsonl", "c\\d/e.jsonl", "a.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        paths = [file.path for file in match_files(f"{tmp_path}/{pattern}")]
        return [path.removeprefix(f"{tmp_path}/") for path in paths]

    assert found("*.jsonl") == ["a.jsonl", "a\\b.jsonl"]
    assert found("a\\*.jsonl") == ["a\\b.jsonl"]
    assert found("*\\d/*") == ["c\\d/e.jsonl"]
    assert found("c\\d/*.jsonl") == ["c\\d/e.jsonl"]
    assert found("**/*.jsonl") == sorted(names)


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A good file, and what nobody should open."""
    (tmp_path / "good.jsonl").write_text('{"text": "good"}\n')
    (tmp_path / os.fsdecode(b"name\xff.jsonl")).write_text('{"text": "bad"}\n')
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "nothing.jsonl").symlink_to("nowhere")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        server.bind("socket.jsonl")
        os.chdir(here)
        yield tmp_path


BAD = {
    "fifo": "it is a FIFO, not a file; move it elsewhere",
    "loop": "it is a link to itself; remove it",
    "name\\xff": "its name is not valid UTF-8; rename it",
    "nothing": "it is a link to nothing; remove it",
    "socket": "it is a socket, not a file; move it elsewhere",
    "zero": "it is a device, not a file; move it elsewhere",
}


def test_what_is_never_opened_is_one_reject_each(odd: Path) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        corpus = ReadCorpus(f"{odd}/*.jsonl").with_exception_handling()
        good, bad = pipeline | corpus
        rows = good | beam.FlatMap(lambda block: block.column("text").to_pylist())
        columns = ["file", "row", "reject_reason"]
        reasons = bad | "Bad" >> beam.FlatMap(
            lambda block: [tuple(row[name] for name in columns) for row in block.batch.to_pylist()]
        )
        expected = [
            (f"{odd}/{name}.jsonl", None, f"file cannot be read: {reason}")
            for name, reason in BAD.items()
        ]
        assert_that(rows, equal_to(["good"]), label="good")
        assert_that(reasons, equal_to(expected), label="bad")


@pytest.mark.parametrize("name", BAD)
def test_what_is_never_opened_is_named_without_exception_handling(odd: Path, name: str) -> None:
    path = os.fsdecode(f"{odd}/{name}.jsonl".encode().replace(b"\\xff", b"\xff"))
    for pattern in (path, f"{odd}/{name[:4]}*"):
        with pytest.raises(InputError) as error:
            match_files(pattern)
        assert str(error.value).startswith(f"{odd}/{name}.jsonl: {BAD[name]}, or collect such")


def test_a_file_that_becomes_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "late.jsonl")
    with pytest.raises(InputError, match="late.jsonl: it is a FIFO, not a file; move it"):
        read_schema(str(tmp_path / "late.jsonl"))


def test_a_folder_that_may_not_be_listed_is_named(
    folder: Path, refuse_folder: Callable[[str], None]
) -> None:
    refuse_folder("sub")
    assert match_files(f"{folder}/*.jsonl")  # which has no need of it
    assert match_files(f"{folder}/k*/*.jsonl")
    message = "/sub/: the folder cannot be listed: Permission denied; change its permissions"
    for pattern in ("**/*.jsonl", "*/*.jsonl", "s*/*.jsonl"):
        with pytest.raises(InputError, match=message):
            match_files(f"{folder}/{pattern}")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["x.parquet", "a*b", "v[1]", "q?", "b\\c", "**", "x.db"])
def test_a_folder_that_a_sink_wrote_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    for folder in (name, "axb", "v1", "qq"):  # of which the name must not be a pattern
        path = tmp_path / folder
        path.mkdir()
        pq.write_table(pa.table({"id": [folder], "text": ["t"]}), path / "y.parquet")
    of_vectors = [f"{tmp_path}/{name}", f"{tmp_path}/{name}/", f"{tmp_path}/{name}/*.parquet"]
    for pattern in of_vectors:
        (block,) = read_vectors(pattern)
        assert block.column("id").to_pylist() == [name]
    of_corpus = of_vectors[2:] if name != "x.parquet" else of_vectors
    for pattern in of_corpus:
        with beam.Pipeline("FnApiRunner") as pipeline:
            blocks = pipeline | ReadCorpus(pattern, id_column="id")
            ids = blocks | beam.FlatMap(lambda block: block.column("id").to_pylist())
            assert_that(ids, equal_to([name]))


def test_vectors_that_cannot_be_read_are_not_missed(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
    (tmp_path / "._y.parquet").symlink_to("nowhere")  # a hidden name
    (tmp_path / "z.txt").symlink_to("nowhere")
    assert len(list(read_vectors(str(tmp_path)))) == 1
    (tmp_path / "day=1" / "y.parquet").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "**/*.parquet"):
        with pytest.raises(InputError, match=r"day=1/y\.parquet: it is a link to nothing"):
            list(read_vectors(str(path)))


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
