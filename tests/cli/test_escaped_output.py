"""What a program prints is shown by a terminal, not obeyed."""

import io
import sys

import pytest

from beam_gpte.cli.escaped_output import EscapedOutput, printable
from beam_gpte.cli.runtime import print_summary, run_program
from beam_gpte.core.errors import InputError

HOSTILE = "\x1b]0;title\x07 \x1b[2J \x9b31m \r \b \x7f \ud800"
SHOWN = r"\x1b]0;title\x07 \x1b[2J \x9b31m \r \x08 \x7f \ud800"


@pytest.mark.parametrize("text", ["Größe, 東京 🙂", "a\tb\nc", "\u00a0\u200b", "\\u001b"])
def test_texts_are_shown_as_they_are(text: str) -> None:
    stream = io.StringIO()
    EscapedOutput(stream).write(text)  # type: ignore[arg-type]
    assert stream.getvalue() == text


def test_control_characters_are_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    stream = io.StringIO()
    print(HOSTILE, file=EscapedOutput(stream))  # type: ignore[arg-type]
    assert stream.getvalue() == f"{SHOWN}\n"


def test_a_program_prints_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(_: list[str]) -> None:
        print_summary({HOSTILE: {HOSTILE: 1}, "path": HOSTILE})
        raise InputError(f"no column {HOSTILE}")

    monkeypatch.setattr(sys, "argv", ["program.py"])
    monkeypatch.setattr("beam_gpte.cli.runtime.claim_process", lambda: None)
    with pytest.raises(SystemExit):
        run_program(main)
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 2
    assert r"program.py: no column \x1b]0;title\x07" in err
    assert not set("\x1b\x9b\x07\r") & set(out + err)
