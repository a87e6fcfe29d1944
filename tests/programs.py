"""Programs as a person runs them, each a process of its own with its own arguments, output and exit code.

The processes are forked from one that has imported what all of them import, which takes longer than most of them do.
"""

import dataclasses
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# no program: its options would be required of every pipeline; and nothing that starts threads when it is imported
PRELOAD = ["apache_beam.ml.inference.base", "beam_gpte.model_handler", "beam_gpte.ledger", "beam_gpte.program", "torch"]
PRELOAD += ["transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "duckdb"]
PRELOAD += ["transformers.models.bert.modeling_bert", "transformers.tokenization_utils_tokenizers", "tests.elements"]
TIMEOUT = 300


@dataclasses.dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(program: str, *arguments: object, expect: int = 0) -> Done:
    """Run a program of `pipelines/` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(program, *arguments, out=out, err=err)
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{program} did not end")
        done = Done(process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
    assert done.returncode == expect, done.stderr
    return done


def start(program: str, *arguments: object, out: Path, err: Path) -> BaseProcess:
    """Start a program of `pipelines/`; what it prints goes to files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    command = [str(ROOT / "pipelines" / program), *map(str, arguments)]
    process = context.Process(target=_run, args=(command, str(out), str(err)))
    process.start()
    return process


def _run(command: list[str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.argv = command
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)
