"""Write the page of each program from its parser: `python -m tests.manuals`.

docs/programs/NAME.md has what `beam-gpte NAME --help` prints; `tests/cli/test_manuals.py` holds
them together.
"""

import argparse
import re
from pathlib import Path

from beam_gpte.cli.arguments import BEAM, Program, make_parser
from beam_gpte.cli.main import COMMANDS, program_of
from beam_gpte.cli.option_parser import OptionHelp
from tests.programs import ROOT

FOLDER = ROOT / "docs" / "programs"


def page_of(program: Program) -> str:
    """Make the page of a program."""
    parser = make_parser(program)
    groups = [group for group in parser._action_groups if _shown(group)]
    parts = [f"# beam-gpte {program.name}", _prose(program.about), *map(_group, groups)]
    if program.is_job:
        parts.append(f"## Beam\n\n{_prose(BEAM)}")
    return "\n\n".join(parts) + "\n"


def file_of(program: Program) -> Path:
    """Name the file of a program's page."""
    return FOLDER / f"{program.name.replace(' ', '-')}.md"


def index_line(name: str) -> str:
    """Make the line of a command in the list of all."""
    return f"| [`beam-gpte {name}`]({file_of(program_of(name)).name}) | {COMMANDS[name][1]} |"


def _shown(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    return [action for action in group._group_actions if action.dest != "help"]


def _group(group: argparse._ArgumentGroup) -> str:
    title = (group.title or "").capitalize()
    return f"## {title}\n\n" + "\n\n".join(map(_option, _shown(group)))


def _option(action: argparse.Action) -> str:
    form = OptionHelp("")
    return f"`{form._format_action_invocation(action)}`\n: {_escaped(form._expand_help(action))}"


def _prose(text: str) -> str:
    """Turn the indented commands of a docstring into blocks of code."""
    parts = []
    for part in text.strip().split("\n\n"):
        if part.startswith("    "):
            code = re.sub(r"^    ", "", part, flags=re.MULTILINE)
            parts.append(f"```{{code-block}} bash\n{code}\n```")
        else:
            parts.append(_escaped(part))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Write what Markdown would take for markup, outside of code, with backslashes."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([<>*_$\[\]])", r"\\\1", piece)
        for piece in pieces
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in COMMANDS:
        program = program_of(name)
        file_of(program).write_text(page_of(program), encoding="utf-8")


if __name__ == "__main__":
    main()
