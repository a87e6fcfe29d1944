"""What a program prints is shown by a terminal, not obeyed."""

import io

import pytest

from beam_gpte.cli.arguments import Program
from beam_gpte.cli.escaped_output import EscapedOutput, escaped, one_line
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
    stream = io.StringIO()
    print(HOSTILE, one_line("a\tb\nc"), file=escaped(stream))
    assert stream.getvalue() == rf"{SHOWN} a\tb\nc" + "\n"


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [(InputError, 2, "program.py: "), (ValueError, 1, "Traceback (most recent call last):\n")],
)
def test_a_program_prints_no_control_characters(
    kind: type[Exception],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def main(*_: object) -> None:
        print_summary({HOSTILE: {HOSTILE: 1}, "path": f"{HOSTILE}\n9 rows"})
        raise kind(f"no column {HOSTILE}")

    for name in ("begin_program", "Interrupts"):  # this process is not the program's
        monkeypatch.setattr(f"beam_gpte.cli.runtime.{name}", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_program(Program("program", "", lambda _: None, main), [], "program.py")
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 2
    assert out.splitlines()[-1].endswith(r"\n9 rows")
    assert err.startswith(said)
    assert r"no column \x1b]0;title\x07" in err
    assert not set("\x1b\x9b\x07\r") & set(out + err)
