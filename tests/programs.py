"""Run programs as a person does, each in its own process with its arguments, output and exit code.

The processes are forked from one that has imported what all of them import, which takes longer than
most of them run. Shell scripts profit too where the command that `python_command` makes is their
`python`, and so do the worker processes of Beam's runner after `fork_workers`.
"""

import dataclasses
import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from multiprocessing.process import BaseProcess
from pathlib import Path

from apache_beam.transforms.environments import SubprocessSDKEnvironment
from huggingface_hub import constants

from tests import graphs

ROOT = Path(__file__).resolve().parents[1]
# no program: its options would be required of every pipeline; nothing that starts threads when it
# is imported; no element types of the tests, which a worker has to find by itself
PRELOAD = [
    "apache_beam.ml.inference.base",
    "apache_beam.yaml.main",
    "beam_gpte.cli.runtime",
    "beam_gpte.embedding.handlers.text_handler",
    "beam_gpte.interop.yaml_transforms",
    "beam_gpte.sources.committed_rows",
    "duckdb",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.tokenization_utils_tokenizers",
]
TIMEOUT = 300


@dataclasses.dataclass(frozen=True)
class Done:
    """Hold the exit code of a program, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(program: str, *arguments: object, expect: int = 0) -> Done:
    """Run a program of `pipelines/` to its end, and check its exit code."""
    done = finish([str(ROOT / "pipelines" / program), *map(str, arguments)])
    assert done.returncode == expect, done.stderr
    return done


def finish(
    command: list[str],
    folder: str = ".",
    environment: dict[str, str] | None = None,
    seconds: float = TIMEOUT,
    started: Callable[[int | None], None] | None = None,
) -> Done:
    """Run a command to its end.

    Args:
      command: a program, `-m` and a module, or `-c` and code; then arguments.
      folder: the working directory.
      environment: variables to set.
      seconds: until it is killed.
      started: is called with the number of its process.

    Raises:
      TimeoutError: it was.
    """
    with tempfile.TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        process = _fork(command, out, err, folder, environment)
        if started is not None:
            started(process.pid)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{command[0]} did not end")
        return Done(
            process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        )


def start(
    program: str,
    *arguments: object,
    out: Path,
    err: Path,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """Start a program of `pipelines/` that prints to files."""
    command = [str(ROOT / "pipelines" / program), *map(str, arguments)]
    return _fork(command, out, err, environment=environment)


def _fork(
    command: list[str],
    out: Path,
    err: Path,
    folder: str = ".",
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(
        target=_run, args=(command, str(out), str(err), os.path.abspath(folder), environment)
    )
    process.start()
    return process


def _run(
    command: list[str], out: str, err: str, folder: str, environment: dict[str, str] | None
) -> None:
    gc.freeze()  # what was imported before is never garbage
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    os.environ.update(environment or {}, HF_HUB_OFFLINE="1")
    # these two are read when the server imports huggingface_hub, which is once
    constants.HF_HUB_OFFLINE = True
    constants.HF_HUB_CACHE = os.environ.get("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    os.chdir(folder)
    graphs.check_all()
    code = 0
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        elif command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            exec(command[1], {"__name__": "__main__"})
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.exit(code)


CLIENT = """#!{python} -IS
import os, signal, sys
from multiprocessing.connection import Client

program = " ".join(sys.argv[1:3])
starts = ("-m beam_gpte", "-c ", "-m apache_beam.yaml.main", "-m apache_beam.runners.worker")
if not program.startswith(starts):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with Client({address!r}) as server:
    server.send((sys.argv[1:], os.getcwd(), dict(os.environ)))
    pid = server.recv()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code, out, err = server.recv()
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def fork_workers(folder: Path) -> None:
    """Fork the workers of `--direct_running_mode=multi_processing` from now on.

    Args:
      folder: for their command.
    """
    python_command(folder)
    of_command = SubprocessSDKEnvironment.from_command_string

    def forked(command_string: str) -> SubprocessSDKEnvironment:
        return of_command(command_string.replace(sys.executable, str(folder / "python")))

    SubprocessSDKEnvironment.from_command_string = staticmethod(forked)  # type: ignore[method-assign, assignment]


def python_command(folder: Path) -> None:
    """Make the command `folder`/python, an interpreter with a head start, and `folder`/beam-gpte.

    This process forks their runs of programs, Beam YAML and Beam's workers.
    """
    address = str(folder / "socket")
    listener = Listener(address)

    def answer(client: Connection) -> None:
        with client:
            done = finish(*client.recv(), started=client.send)
            client.send((done.returncode, done.stdout, done.stderr))

    def listen() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    command = folder / "python"
    command.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    ours = folder / "beam-gpte"
    ours.write_text(f'#!/bin/sh\nexec {command} -m beam_gpte "$@"\n', encoding="utf-8")
    for made in (command, ours):
        made.chmod(0o755)
