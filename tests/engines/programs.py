"""Say which programs every engine runs, on which input.

The texts are docstrings of Python's standard library, so they are real, and on every machine.
"""

import json
import sysconfig
from itertools import islice
from pathlib import Path

from beam_gpte.cli.programs.extract_docstrings import docstrings
from tests.engines.outputs import contents
from tests.programs import ROOT, Done, finish

TEXTS = 150
SECONDS = 900  # that a job may take beside other work
MAX_CHARACTERS = 2000  # characters: a few long ones would take most of the time
BAD = ['{"id": "null", "text": null}', '{"id": "empty", "text": " "}', '{"id": "broken"']
REPORT = ("--report", "out/page.html")
PROGRAMS = {
    "embed": (
        ["embed_corpus.py", "--input", "{texts}/*.jsonl", "--id_column", "id", "--output", "out"],
        ["--duckdb", "out/vectors.duckdb", *REPORT],
    ),
    "deduplicate": (
        ["deduplicate_corpus.py", "--input", "{texts}/*.jsonl", "--id_column", "id"],
        ["--output", "out", "--threshold", "0.8", *REPORT],
    ),
    "mine": (
        ["mine_bitext.py", "--source", "{texts}/a.jsonl", "--target", "{texts}/b.jsonl"],
        ["--id_column", "id", "--output", "out", "--tsv", *REPORT],
    ),
}


def write_corpus(folder: Path) -> None:
    """Write `a.jsonl` and `b.jsonl`: texts, near copies of them, and bad lines."""
    found = docstrings(Path(sysconfig.get_path("stdlib")))
    rows = list(islice((row for row in found if len(row["text"]) < MAX_CHARACTERS), TEXTS))
    for name, end, bad in (("a", "", BAD), ("b", " It is so.", [])):
        lines = [json.dumps({"id": f"{name}.{r['id']}", "text": r["text"] + end}) for r in rows]
        (folder / f"{name}.jsonl").write_text("\n".join([*lines, *bad]), encoding="utf-8")


def command_of(name: str, texts: Path, model: str, flags: list[str]) -> list[str]:
    """Make the command of a program, without `python`; see `run_program`."""
    (program, *first), second = PROGRAMS[name]
    given = [part.format(texts=texts) for part in (*first, *second)]
    return [str(ROOT / "pipelines" / program), *given, "--model", model, *flags]


def run_program(
    name: str,
    texts: Path,
    folder: Path,
    model: str,
    flags: list[str],
    seconds: float = SECONDS,
) -> tuple[Done, dict]:
    """Run a program in a folder; return what it printed and what it wrote.

    Args:
      name: of `PROGRAMS`.
      texts: the folder of `write_corpus`, the same in all runs because rejects name their files.
      folder: for the output.
      model: the folder of a model.
      flags: of the runner.
      seconds: until it is killed.
    """
    command = command_of(name, texts, model, flags)
    done = finish(command, folder=str(folder), seconds=seconds)
    return done, contents(folder / "out") if done.returncode == 0 else {}
