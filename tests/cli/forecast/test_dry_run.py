"""A dry run predicts what the run does, refuses what it refuses, and writes nothing."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.test_mistakes import ALL, MISTAKES, here, state
from tests.programs import Done, finish

__all__ = ["here"]  # a fixture

PROGRAMS = ("embed", "dedup", "mine", "stream")
FLAGS = ("is not an option", ALL)  # refused before the program looks at its options
LATER = "--max_rejects"  # what a run finds out at its end
REFUSED = [
    (command, code, line)
    for command, code, line in MISTAKES
    if command.startswith(tuple(f"{name} " for name in PROGRAMS))
    and LATER not in command
    and not any(part in line for part in FLAGS)
]
END = "nothing was written; without --dry_run the job runs"


def beam_gpte(*parts: object, folder: Path) -> Done:
    return finish(["-m", "beam_gpte", *map(str, parts)], str(folder))


def figures(done: Done) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == END
    return dict(re.findall(r"^ *(\S.*?)  (.+)$", done.stdout, re.MULTILINE))


def number(text: str) -> float:
    return float(re.sub("[^0-9.]", "", text))


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows: three have more tokens than the model takes, two are bad, ten are repeated."""
    folder = tmp_path_factory.mktemp("corpus")
    words = ["stone", "river", "paper", "cloud", "glass", "table", "horse"]
    texts = [f"{words[i % 7]} {words[i % 5]} number {i} of a row" for i in range(290)]
    texts += texts[:10]
    texts[40], texts[41], texts[42] = (" ".join(words * n) for n in (50, 60, 70))
    rows = [{"id": f"r{i}", "text": text, "n": i} for i, text in enumerate(texts)]
    rows[7]["text"] = rows[8]["text"] = None
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [{**row, "text": row["text"] and f"a {row['text']}"} for row in rows]
    (folder / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others[:50]))
    again = [{**row, "text": row["text"] and f"{row['text']} again"} for row in rows]
    (folder / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:50]))
    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["rows.jsonl", "few.jsonl"])
def test_what_is_counted_and_written_is_what_a_run_counts_and_writes(
    corpus: Path, tmp_path: Path, minilm: str, name: str
) -> None:
    command = ["embed", "--input", corpus / name, "--output", "a/b/out", "--model", minilm]
    command += ["--duckdb", "c/v.duckdb", "--report", "d/page.html"]
    predicted = figures(beam_gpte(*command, "--dry_run", folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
    beam_gpte(*command[:-2], folder=tmp_path)
    summary = json.loads((tmp_path / "a/b/out/summary.json").read_text())
    rows = summary["texts"] + summary["rejected"]
    assert (predicted["sample"], predicted["rows"]) == ("all rows", f"{rows}")
    assert predicted["tokens"] == f"{summary['tokens']:,}"
    assert predicted["truncated"] == str(summary["truncated"])
    assert predicted["rejected"] == str(summary["rejected"]) == "2"
    assert number(predicted["written"]) == pytest.approx(megabytes(tmp_path), rel=0.3)
    assert {"seconds", "CPU seconds", "memory"} <= predicted.keys()


def test_a_larger_input_is_predicted_from_a_sample(tmp_path: Path, minilm: str) -> None:
    rows = [{"id": f"r{i}", "text": f"number {i}"} for i in range(5_000)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["embed", "--input", path, "--output", tmp_path / "out", "--model", minilm]
    predicted = figures(beam_gpte(*command, "--dry_run", folder=tmp_path))
    assert (predicted["sample"], predicted["rows"]) == ("4,096 rows", "5,000")
    assert number(predicted["tokens"]) == pytest.approx(25_000, rel=0.2)  # [CLS] number 1 ##2 [SEP]
    beam_gpte(*command, folder=tmp_path)
    assert number(predicted["written"]) == pytest.approx(megabytes(tmp_path / "out"), rel=0.3)


def write_rows(path: Path, numbers: range, more: str = "") -> Path:
    rows = [{"id": f"r{i}", "text": f"number {i}{more}"} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_that_a_previous_run_has_are_not_embedded(tmp_path: Path, minilm: str) -> None:
    """Of 600 texts 30 are new: about two of the 64 that are run with the model."""
    known = write_rows(tmp_path / "known.jsonl", range(570))
    every = write_rows(tmp_path / "all.jsonl", range(600))
    before, out = tmp_path / "before", tmp_path / "out"
    command = ["embed", "--model", minilm, "--input"]
    beam_gpte(*command, known, "--output", before, folder=tmp_path)
    again = [*command, every, "--reuse", before, "--output", out]
    predicted = figures(beam_gpte(*again, "--dry_run", folder=tmp_path))
    beam_gpte(*again, folder=tmp_path)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["reused"] == 570
    assert number(predicted["tokens"]) == pytest.approx(summary["tokens"], rel=0.2)
    other = [*again, "--prompt", "a ", "--dry_run"]  # whose vectors are others
    assert number(figures(beam_gpte(*other, folder=tmp_path))["tokens"]) > 2000


def test_a_sync_writes_nothing_where_nothing_has_changed(tmp_path: Path, minilm: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", range(300))
    command = ["embed", "--mode", "sync", "--input", path, "--output", "out", "--model", minilm]
    beam_gpte(*command, folder=tmp_path)
    whole = megabytes(tmp_path / "out")
    predicted = figures(beam_gpte(*command, "--dry_run", folder=tmp_path))
    assert number(predicted["written"]) == 0
    write_rows(path, range(330))
    predicted = figures(beam_gpte(*command, "--dry_run", folder=tmp_path))
    assert number(predicted["written"]) == pytest.approx(0.1 * whole, rel=0.3)
    write_rows(path, range(300), " again")
    predicted = figures(beam_gpte(*command, "--dry_run", folder=tmp_path))
    assert number(predicted["written"]) == pytest.approx(whole, rel=0.3)


DEDUP = "dedup --input rows.jsonl --output out --model {model}"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "command",
    [
        DEDUP,
        "dedup --input rows.jsonl --output out --by exact,lexical",
        "mine --source few.jsonl --target others.jsonl --output out --tsv --model {model}",
    ],
)
def test_bytes_of_results_are_predicted(corpus: Path, minilm: str, command: str) -> None:
    parts, before = shlex.split(command.replace("{model}", minilm)), sorted(corpus.rglob("*"))
    predicted = figures(beam_gpte(*parts, "--dry_run", folder=corpus))
    assert sorted(corpus.rglob("*")) == before
    assert number(predicted["rows"]) == (100 if "mine" in command else 300)
    assert beam_gpte(*parts, folder=corpus).returncode == 0
    written = megabytes(corpus / "out")
    for path in sorted((corpus / "out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert number(predicted["written"]) == pytest.approx(written, rel=0.3)


def test_sides_that_are_nearly_the_same_are_predicted(corpus: Path, minilm: str) -> None:
    command = f"mine --source rows.jsonl --target again.jsonl --output new --model {minilm}"
    predicted = figures(beam_gpte(*shlex.split(command), "--dry_run", folder=corpus))
    assert predicted["rows"] == "600"
    assert not (corpus / "new").exists()


def test_a_reference_counts(corpus: Path, minilm: str) -> None:
    predicted = figures(
        beam_gpte(
            *shlex.split("dedup --input few.jsonl --reference rows.jsonl --output new --by exact"),
            "--dry_run",
            folder=corpus,
        )
    )
    assert predicted["rows"] == "350"
    assert "tokens" not in predicted
    assert not (corpus / "new").exists()


def test_seconds_and_memory_are_those_of_this_process_only(corpus: Path, minilm: str) -> None:
    command = f"embed --input few.jsonl --output new --model {minilm} --runner FlinkRunner"
    done = beam_gpte(*shlex.split(command), "--dry_run", folder=corpus)
    predicted = figures(done)
    assert "seconds and memory are predicted only for a run within this process" in done.stdout
    assert {"rows", "tokens", "written"} <= predicted.keys()
    assert not {"seconds", "CPU seconds", "memory"} & predicted.keys()
    assert not (corpus / "new").exists()


def test_a_stream_is_not_started(corpus: Path, minilm: str) -> None:
    command = f"stream --input '[fr]*.jsonl' --id_column id --output new --model {minilm}"
    predicted = figures(beam_gpte(*shlex.split(command), "--dry_run", folder=corpus))
    assert predicted["rows"] == "350"
    assert number(predicted["rows per second"]) > 0
    command = f"stream --input 'later/*.jsonl' --output new --model {minilm}"
    done = beam_gpte(*shlex.split(command), "--dry_run", folder=corpus)
    assert done.stdout.splitlines() == ["no file matches later/*.jsonl now", END]
    assert not (corpus / "new").exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("command", "code", "line"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_the_run_refuses_is_refused(
    here: Path, minilm: str, command: str, code: int, line: str
) -> None:
    before, paths = state(here), sorted(here.rglob("*"))
    parts = shlex.split(command.replace("{model}", minilm))
    done = beam_gpte(*parts, "--dry_run", folder=here)
    expected = line.replace("{here}", str(here)).replace("{model}", minilm)
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1] == f"beam-gpte {parts[0]}: {expected}"
    assert state(here) == before
    assert sorted(here.rglob("*")) == paths
