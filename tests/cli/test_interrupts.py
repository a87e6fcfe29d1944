"""Ctrl-C ends a program within seconds, in one line, with exit code 130."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_gpte import WriteVectorsToParquet
from tests.programs import start
from tests.sinks.test_write_parquet import embedded, write

LINE = (
    "interrupted; what was committed is kept, and vectors that were computed; "
    "the same command goes on with them"
)


def write_texts(folder: Path, rows: int) -> str:
    text = "a text of some length that takes its time " * 20
    lines = [json.dumps({"id": str(i), "text": f"{i} {text}"}) for i in range(rows)]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "texts.jsonl")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", ["embed", "dedup"])
@pytest.mark.parametrize("moment", ["early", "late"])
def test_it_ends_within_seconds_in_one_line(
    tmp_path: Path, minilm: str, command: str, moment: str
) -> None:
    out, err, output = tmp_path / "out.txt", tmp_path / "err.txt", tmp_path / "output"
    output.mkdir()
    (output / "mine.txt").write_text("kept")
    flags = ["--input", write_texts(tmp_path, 3000), "--id_column", "id", "--model", minilm]
    program = {"embed": "embed_corpus.py", "dedup": "deduplicate_corpus.py"}[command]
    process = start(program, *flags, "--output", output, out=out, err=err)
    assert process.pid is not None
    deadline = time.monotonic() + 60
    began = list  # until it has begun to write, or at once
    while moment == "late" and time.monotonic() < deadline and not began(output.glob(".beam*")):
        time.sleep(0.1)
    time.sleep(2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    asked = time.monotonic()
    process.join(30)
    assert process.exitcode == 130
    assert time.monotonic() - asked < 15  # 5 seconds on a quiet machine
    name = {"embed": "embed_corpus.py", "dedup": "deduplicate_corpus.py"}[command]
    *progress, last = err.read_text().strip().splitlines()
    assert last == f"{name}: {LINE}"
    assert all(not line or line.startswith(f"{command}: step ") for line in progress)
    assert not list(output.rglob("*.parquet"))
    assert (output / "mine.txt").read_text() == "kept"


def test_a_second_signal_ends_it_at_once(tmp_path: Path, minilm: str) -> None:
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    flags = ["--input", write_texts(tmp_path, 3000), "--id_column", "id", "--model", minilm]
    process = start("embed_corpus.py", *flags, "--output", tmp_path / "o", out=out, err=err)
    assert process.pid is not None
    time.sleep(5)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
    process.join(30)
    assert process.exitcode == 130
    assert len(err.read_text().strip().splitlines()) <= 1


def test_a_reader_that_has_seen_enough_ends_a_program_without_a_word(tmp_path: Path) -> None:
    write([embedded(0, 3)], WriteVectorsToParquet(str(tmp_path / "vectors")))
    program = f"{sys.executable} -m beam_gpte inspect {tmp_path / 'vectors'}"
    shell = ["bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
