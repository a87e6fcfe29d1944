"""`embed --mode sync`: the output becomes what the input is, at the cost of what has changed."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from beam_gpte import InputError
from tests.cli.test_programs import flags, one_line
from tests.embedding.edits import rows_of
from tests.programs import run, start

ROWS = {f"d{i}": f"text number {i} about the cat that sat on the mat" for i in range(12)}
SECONDS = 240  # until rows have to have followed


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[[dict[str, str | None]], Path]:
    def write(rows: dict[str, str | None]) -> Path:
        path = tmp_path / "texts" / "rows.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"id": name, "text": text}) + "\n" for name, text in rows.items()]
        path.with_suffix(".new").write_text("".join(lines))
        os.replace(path.with_suffix(".new"), path)
        return path

    return write


def changes(summary: Path) -> dict[str, int]:
    names = ("added", "changed", "removed", "unchanged", "kept")
    found = json.loads(summary.read_text())
    return {name: found[name] for name in names if found[name]}


def test_an_output_becomes_what_the_input_is(
    tmp_path: Path, minilm: str, corpus: Callable[[dict[str, str | None]], Path]
) -> None:
    out, database = tmp_path / "out", tmp_path / "out.duckdb"
    arguments = flags(input=corpus({**ROWS}), output=out, duckdb=database, model=minilm)
    arguments += flags(mode="sync")
    run("embed_corpus.py", *arguments)
    assert changes(out / "summary.json") == {"added": 12}
    before = {path.name: path.stat().st_ino for path in out.glob("part-*")}
    run("embed_corpus.py", *arguments)
    assert changes(out / "summary.json") == {"unchanged": 12}
    assert {path.name: path.stat().st_ino for path in out.glob("part-*")} == before

    rows: dict[str, str | None] = {**ROWS, "new": "a new text", "d3": "another text", "d9": ""}
    del rows["d7"]
    corpus(rows)
    expected = {"added": 1, "changed": 1, "removed": 1, "unchanged": 9, "kept": 1}
    printed = run("embed_corpus.py", *arguments, "--dry_run").stdout
    for name, count in expected.items():
        assert f"{name:>16}  {count}\n" in printed
    assert {path.name: path.stat().st_ino for path in out.glob("part-*")} == before
    run("embed_corpus.py", *arguments, "--keep_previous")
    summary = json.loads((out / "summary.json").read_text())
    assert changes(out / "summary.json") == expected
    assert (summary["reused"], summary["texts"], summary["rejected"]) == (9, 11, 1)
    assert "added_in_duckdb" not in summary  # it is the same
    wanted = {**rows, "d9": ROWS["d9"]}
    for place in (out, database):
        assert dict(rows_of(place).select("id", "text").iter_rows()) == wanted
    vectors = (rows_of(place)["embedding"].to_numpy() for place in (out, database))
    np.testing.assert_array_equal(*vectors)


def test_chunks_and_codes_are_synced(
    tmp_path: Path, minilm: str, corpus: Callable[[dict[str, str | None]], Path]
) -> None:
    out = tmp_path / "out"
    arguments = flags(input=corpus({**ROWS}), output=out, model=minilm, mode="sync")
    arguments += flags(long_text="chunks", chunk_tokens=5, quantize="int8")
    run("embed_corpus.py", *arguments)
    first = rows_of(out)
    corpus({**ROWS, "d3": "short", "d5": ""})
    run("embed_corpus.py", *arguments)
    summary = json.loads((out / "summary.json").read_text())
    chunks = first.filter(pl.col("parent_id") == "d3").height
    assert (summary["changed"], summary["removed"]) == (1, chunks - 1)
    assert (summary["kept"], summary["reused"], summary["not_reused"]) == (chunks, 10, {})
    same = pl.col("parent_id") != "d3"
    assert rows_of(out).filter(same).equals(first.filter(same))
    assert rows_of(out).filter(~same)["text"].to_list() == ["short"]


def test_an_input_without_rows_removes_nothing_unless_it_may(
    tmp_path: Path, minilm: str, corpus: Callable[[dict[str, str | None]], Path]
) -> None:
    out, database = tmp_path / "out", tmp_path / "out.duckdb"
    arguments = flags(input=corpus({"a": "one", "b": "two"}), output=out, model=minilm)
    arguments += flags(duckdb=database, id_column="id", mode="sync")
    run("embed_corpus.py", *arguments)
    for rows in ({}, {"a": "", "b": None}):
        corpus(rows)
        assert one_line(run("embed_corpus.py", *arguments, expect=3).stderr)
        assert len(rows_of(out)) == len(rows_of(database)) == 2
    corpus({"a": ""})
    run("embed_corpus.py", *arguments, "--allow_empty")
    assert changes(out / "summary.json") == {"removed": 1, "kept": 1}
    corpus({})
    run("embed_corpus.py", *arguments, "--allow_empty")
    assert len(rows_of(out)) == len(rows_of(database)) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--allow_empty"], "--allow_empty is for --mode sync"),
        (["--every", "5"], "--every is for --mode sync"),
        (["--mode", "sync", "--every", "0"], "use seconds, above 0"),
        (["--mode", "sync", "--every", "5", "--dry_run"], "leave one of them out"),
        (["--mode", "append"], "invalid choice: 'append'"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, given: list[str], words: str, corpus: Callable[[dict[str, str | None]], Path]
) -> None:
    arguments = flags(input=corpus({"a": "one"}), output=tmp_path / "out", model="none")
    done = run("embed_corpus.py", *arguments, *given, expect=2)
    assert words in done.stderr
    assert one_line(done.stderr)
    assert not (tmp_path / "out").exists()


def test_rows_follow_files_that_are_rewritten_and_deleted_until_a_signal(
    tmp_path: Path, minilm: str, corpus: Callable[[dict[str, str | None]], Path]
) -> None:
    out, path = tmp_path / "out", corpus({"a": "one", "b": "two"})
    other = path.with_name("other.jsonl")
    other.write_text(json.dumps({"id": "c", "text": "three"}) + "\n")
    arguments = flags(input=path.parent / "*.jsonl", output=out, model=minilm, mode="sync")
    files = {name: tmp_path / f"{name}.txt" for name in ("out", "err")}
    process = start("embed_corpus.py", *arguments, *flags(every=0.2), **files)

    def wait_for(wanted: dict[str, str]) -> None:
        until = time.monotonic() + SECONDS
        found: dict[str, str] = {}
        while found != wanted and time.monotonic() < until and process.is_alive():
            time.sleep(0.1)
            with contextlib.suppress(InputError):  # nothing yet, or replaced at this moment
                found = dict(rows_of(out).select("id", "text").iter_rows())
        assert found == wanted

    wait_for({"a": "one", "b": "two", "c": "three"})
    corpus({"b": "zwei", "d": "four"})
    wait_for({"b": "zwei", "c": "three", "d": "four"})
    other.unlink()
    wait_for({"b": "zwei", "d": "four"})
    path.write_text("{not JSON")  # a run that fails does not end it
    time.sleep(0.5)
    corpus({"e": "five"})
    wait_for({"e": "five"})
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(SECONDS)
    assert process.exitcode == 0, files["err"].read_text()
