"""Test that a program without usable rows keeps its previous output, and says so by exit code 3."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_gpte.sinks.runs.leftovers import VECTORS
from tests.cli.test_programs import flags, one_line, write_jsonl
from tests.programs import run

GOOD = [{"id": f"r{i}", "text": f"the text number {i * i} of some"} for i in range(4)]
BAD = [{"id": "a", "text": None}, {"id": "b", "text": None}]


def state(folder: Path, *left_out: str) -> dict[str, bytes]:
    """Read all files of an output, but for vectors that a slow model has left for the next run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix != VECTORS
        and path.relative_to(folder).parts[0] not in left_out
    }


def embed(rows: Path, output: Path, model: str) -> tuple:
    return "embed_corpus.py", *flags(input=rows, id_column="id", output=output, model=model)


def deduplicate(rows: Path, output: Path, _: str) -> tuple:
    arguments = flags(input=rows, id_column="id", output=output, by="exact,lexical")
    return "deduplicate_corpus.py", *arguments


def mine(rows: Path, output: Path, model: str) -> tuple:
    others = [{**row, "text": f"{row['text']} texts"} for row in GOOD]
    source = write_jsonl(rows.with_name("source.jsonl"), others)
    arguments = flags(source=source, target=rows, id_column="id", output=output, model=model)
    return "mine_bitext.py", *arguments


@pytest.mark.parametrize("program", [embed, deduplicate, mine])
def test_the_previous_output_stays_where_no_row_is_usable(
    tmp_path: Path, minilm: str, program: Callable[[Path, Path, str], tuple]
) -> None:
    output = tmp_path / "out[1]*"
    good, bad, empty = (tmp_path / f"{name}.jsonl" for name in ("good", "bad", "empty"))
    run(*program(write_jsonl(good, GOOD), output, minilm))
    before = state(output)
    assert any(name.endswith(".parquet") for name in before)
    done = run(*program(write_jsonl(empty, []), output, minilm), expect=3)
    assert "no row in --" in done.stderr
    assert one_line(done.stderr)
    assert state(output) == before
    done = run(*program(write_jsonl(bad, BAD), output, minilm), expect=3)
    assert "row is usable: 2 were rejected, see their reasons" in done.stderr
    assert one_line(done.stderr)
    assert state(output, "rejects") == before
    assert len(list(output.glob("rejects/*.jsonl"))) > 0


def test_rows_that_were_all_removed_are_an_empty_result(tmp_path: Path) -> None:
    rows, output = write_jsonl(tmp_path / "rows.jsonl", GOOD), tmp_path / "out"
    run(*deduplicate(rows, output, ""))
    assert list(output.glob("kept/*.parquet"))
    known = [{**row, "id": f"known-{row['id']}"} for row in GOOD]
    reference = write_jsonl(tmp_path / "known.jsonl", known)
    run(*deduplicate(rows, output, ""), "--reference", reference)
    assert not list(output.glob("kept/*.parquet"))
    assert list(output.glob("removed/*.parquet"))
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["kept"], summary["removed"]) == (0, 4)


def test_a_previous_output_is_a_reference_as_it_is_though_its_ids_were_generated(
    tmp_path: Path,
) -> None:
    """The ids of both runs are those of a file of one name: `rows.jsonl:1`."""
    for name, texts in (("old", ["a", "b"]), ("new", ["c", "b", "c"])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "rows.jsonl", [{"text": text} for text in texts])
        again = () if name == "old" else ("--reference", tmp_path / "clean of old")
        arguments = ("--input", tmp_path / name / "rows.jsonl", "--by", "exact", *again)
        run("deduplicate_corpus.py", *arguments, "--output", tmp_path / f"clean of {name}")
    kept, removed = (
        pq.read_table(tmp_path / "clean of new" / name) for name in ("kept", "removed")
    )
    assert kept["text"].to_pylist() == ["c"]
    assert sorted(
        zip(removed["id"].to_pylist(), removed["duplicate_of"].to_pylist(), strict=True)
    ) == [
        ("rows.jsonl:2", "rows.jsonl:2"),
        ("rows.jsonl:3", "rows.jsonl:1"),
    ]


def test_an_empty_first_file_does_not_stop_a_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [])
    write_jsonl(tmp_path / "b.jsonl", GOOD)
    run(*deduplicate(tmp_path / "*.jsonl", tmp_path / "out", ""))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["kept"] == 4
