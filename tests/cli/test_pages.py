"""The pages in `pipelines/`: their pipelines give what the programs give, and run them."""

import json
import runpy
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte.cli.main import COMMANDS, program_of
from tests.programs import ROOT, finish

TEXTS = [
    "How do I open a file?",
    "how do I open a  file?",
    "How can I open a file?",
    "Stock prices fell.",
    "Wie öffne ich eine Datei?",
    None,
]


def page(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "pipelines" / f"{name}.py"))


@pytest.fixture
def texts(tmp_path: Path) -> str:
    rows = [json.dumps({"text": text, "n": i}) for i, text in enumerate(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("\n".join([*rows, "no JSON"]), encoding="utf-8")
    return str(tmp_path / "texts.jsonl")


def rows_of(folder: Path) -> dict[str, list]:
    """All rows by folder, and all rejects; not what a program adds: its summary and index."""
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        place = found.setdefault(path.parent.relative_to(folder).as_posix(), [])
        place += pq.read_table(path).to_pylist()
    for path in sorted(folder.rglob("*.jsonl")):
        rejects = found.setdefault("rejects", [])
        rejects += [json.loads(line) for line in path.open(encoding="utf-8")]
    return {name: sorted(rows, key=json.dumps) for name, rows in found.items()}


def run_program(name: str, *arguments: object) -> None:
    done = finish([str(ROOT / "pipelines" / f"{name}.py"), *map(str, arguments)])
    assert done.returncode == 0, done.stderr


def test_a_corpus_is_embedded(tmp_path: Path, texts: str, minilm: str) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    with beam.Pipeline("FnApiRunner") as pipeline:
        page("embed_corpus")["embed_corpus"](pipeline, texts, minilm, str(here))
    duckdb = ["--duckdb", tmp_path / "there.duckdb"]
    run_program("embed_corpus", "--input", texts, "--model", minilm, "--output", there, *duckdb)
    assert rows_of(here) == rows_of(there)
    assert len(rows_of(here)["."]) == 5
    assert len(rows_of(here)["rejects"]) == 2


def test_a_corpus_is_deduplicated(tmp_path: Path, texts: str, minilm: str) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    with beam.Pipeline("FnApiRunner") as pipeline:
        page("deduplicate_corpus")["deduplicate_corpus"](pipeline, texts, minilm, str(here))
    run_program("deduplicate_corpus", "--input", texts, "--model", minilm, "--output", there)
    assert {name: len(rows) for name, rows in rows_of(here).items()} == {
        name: len(rows) for name, rows in rows_of(there).items()
    }
    assert rows_of(here)["kept"] == rows_of(there)["kept"]
    assert rows_of(here)["pairs"] == rows_of(there)["pairs"] != []


def test_a_bitext_is_mined(tmp_path: Path, texts: str, minilm: str) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    others = str(tmp_path / "others.jsonl")
    rows = [json.dumps({"text": f"{text} Please."}) for text in TEXTS if text]
    Path(others).write_text("\n".join(rows), encoding="utf-8")
    with beam.Pipeline("FnApiRunner") as pipeline:
        page("mine_bitext")["mine_bitext"](pipeline, texts, others, minilm, str(here))
    sides = "--source", texts, "--target", others
    run_program("mine_bitext", *sides, "--model", minilm, "--output", there)
    assert rows_of(here) == rows_of(there)
    assert rows_of(here)["bitext"] != []


def test_a_stream_is_embedded(tmp_path: Path, texts: str, minilm: str) -> None:
    there, here, stop = tmp_path / "there", tmp_path / "here", tmp_path / "stop"
    stop.touch()
    pipeline = beam.Pipeline("BundleBasedDirectRunner", PipelineOptions(["--streaming"]))
    page("embed_stream")["embed_stream"](pipeline, texts, minilm, str(here), str(stop))
    pipeline.run().wait_until_finish()
    run_program("embed_corpus", "--input", texts, "--model", minilm, "--output", there)
    found, expected = rows_of(here), rows_of(there)
    # a stream keeps the columns that are asked for
    assert [(row["id"], row["embedding"]) for row in found["."]] == [
        (row["id"], row["embedding"]) for row in expected["."]
    ]
    assert len(found["rejects"]) == len(expected["rejects"]) == 2


def test_a_question_is_answered(tmp_path: Path, texts: str, minilm: str) -> None:
    database = tmp_path / "v.duckdb"
    out = tmp_path / "out"
    run_program(
        "embed_corpus", "--input", texts, "--model", minilm, "--output", out, "--duckdb", database
    )
    hits = page("search_vectors")["search_vectors"](str(database), "open a file", minilm, 2)
    printed = finish(
        ["-m", "beam_gpte", "search", str(database), "open a file", "--model", minilm, "-k", "2"]
    ).stdout
    for cosine, id_, text in hits:
        assert f"{cosine:.3f}  {id_}" in printed
        assert text in printed


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.stem)
def test_a_page_runs_a_program_with_its_flags(path: Path) -> None:
    done = finish([str(path), "--hlep"])
    assert done.returncode == 2
    assert done.stderr == f"{path.name}: --hlep is not an option; did you mean --help?\n"
    assert f"usage: {path.name} " in finish([str(path), "--help"]).stdout
    (named,) = [name for name in COMMANDS if f'run_page("{name}"' in path.read_text("utf-8")]
    assert program_of(named).about
