"""What a person sees while a program runs: how far it is, and what was committed."""

import io
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import DeduplicateExact, EmbedText, ReadCorpus
from beam_gpte.cli import progress
from beam_gpte.cli.progress import shown_commits, shown_progress, work_of
from beam_gpte.files.meter import (
    BYTES,
    FOLDER,
    ROWS,
    TEXTS,
    amount,
    commits,
    report,
    report_commit,
)
from tests.examples import WordEncoder
from tests.programs import finish

PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write_texts(folder: Path, rows: int) -> str:
    lines = [json.dumps({"id": str(i), "text": f"text {i}"}) for i in range(rows)]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "texts.jsonl")


def test_figures_of_threads_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(ROWS, 5)  # nobody watches
    monkeypatch.setenv(FOLDER, str(tmp_path))
    threads = [threading.Thread(target=report, args=(ROWS, i)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report_commit([("out/a.parquet", 3)])
    report_commit([])
    assert amount(str(tmp_path), ROWS) == sum(range(40))
    assert amount(str(tmp_path), TEXTS) == 0
    assert commits(str(tmp_path)) == [[["out/a.parquet", 3]]]
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    report(ROWS, 5)


def test_how_much_there_is_comes_from_metadata_and_sizes(tmp_path: Path) -> None:
    texts = write_texts(tmp_path, 9)
    size = Path(texts).stat().st_size
    assert work_of([texts]) == progress.Work(size, None)
    for i in range(2):
        pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / f"{i}.parquet")
    assert work_of([f"{tmp_path}/*.parquet"]).rows == 6
    assert work_of([f"{tmp_path}/*.parquet", texts]).rows is None
    (tmp_path / "2.parquet").write_bytes(b"nothing that it should be")
    assert work_of([f"{tmp_path}/*.parquet"]).rows is None


def shown_while(
    folder: Path, out: io.StringIO, monkeypatch: pytest.MonkeyPatch, flags: Sequence[str] = ()
) -> list[str]:
    """What is shown while a corpus is embedded and deduplicated."""
    for name in ("REFRESH_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(progress, name, 0.01)
    texts = write_texts(folder, 500)
    with shown_progress(True, "embed", [texts], out) as runner:
        pipeline = beam.Pipeline(runner, beam.options.pipeline_options.PipelineOptions(flags))
        rows = pipeline | ReadCorpus(texts, id_column="id", rows_per_block=10)
        _ = rows | EmbedText(WordEncoder()) | DeduplicateExact()
        pipeline.run().wait_until_finish()
    return re.split(r"[\r\n]", out.getvalue())


@pytest.mark.parametrize("flags", [[], PROCESSES], ids=["threads", "processes"])
def test_a_terminal_has_a_bar_of_texts_which_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    lines = shown_while(tmp_path, Terminal(), monkeypatch, flags)
    assert any(re.search(r"500/500 \[.*texts/s", line) for line in lines), lines[-3:]
    assert any(re.search(r"step \d+ of \d+: DeduplicateExact", line) for line in lines)
    assert not lines[-2].strip()
    assert lines[-1] == ""


def test_elsewhere_there_are_lines_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_while(tmp_path, io.StringIO(), monkeypatch)
    assert {line.split(":")[0] for line in lines} == {"embed", ""}
    (steps,) = {int(n) for line in lines for n in re.findall(r"step [1-9]\d* of (\d+)", line)}
    assert steps > 5
    assert any("500/500" in line for line in lines)


def test_where_nothing_is_shown_the_runner_is_the_one_that_is_named() -> None:
    with shown_progress(False, "embed", ["nothing"]) as runner:
        assert runner is None


def test_a_stream_has_a_line_per_commit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    with shown_commits(True, ["out", "out/removed", "v.duckdb"]):
        report_commit([("out/part-1.parquet", 3), ("out/part-2.parquet", 4)])
        report_commit([("out/removed/part-1.parquet", 2)])
        report_commit([("v.duckdb", 7)])
        report_commit([("out/part-3.parquet", 1)])
    lines = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "7 rows to out, 7 in all",
        "2 rows to out/removed, 2 in all",
        "7 rows to v.duckdb, 7 in all",
        "1 rows to out, 8 in all",
    ]


def test_a_program_shows_nothing_of_a_run_of_seconds(tmp_path: Path) -> None:
    texts = write_texts(tmp_path, 20)
    command = ["-m", "beam_gpte", "dedup", "--input", texts, "--by", "exact"]
    done = finish([*command, "--output", str(tmp_path / "out")])
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(Path(tmp_path).rglob(f"*{BYTES}"))
