"""A message is one line of bounded length that no terminal obeys, whatever names and values say."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte import InputError
from beam_gpte.core.errors import MAX_MESSAGE, MAX_SHOWN, naming, printable, shown


@given(st.text())
def test_what_a_terminal_obeys_is_escaped_and_the_rest_stays(text: str) -> None:
    seen = printable(text)
    assert len(seen.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in seen)
    assert printable(seen) == seen
    seen.encode()


def test_escapes_are_readable_and_letters_of_any_script_stay() -> None:
    assert printable("a\x1b[31mred\x9b") == "a\\x1b[31mred\\x9b"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    assert printable("Größe 大 👩\u200d🔬") == "Größe 大 👩\u200d🔬"


def test_a_value_is_cut_and_says_so() -> None:
    assert shown("ab") == "'ab'"
    assert shown("a" * 10**6) == repr("a" * MAX_SHOWN) + "..."
    assert len(shown(["a" * 10**6])) == MAX_SHOWN + 3
    assert shown(7) == "7"


@given(st.text(max_size=50), st.integers(0, 4 * MAX_MESSAGE))
def test_an_error_is_one_short_line_in_every_process(name: str, size: int) -> None:
    error = InputError(f"no column {name} among {'x' * size}; name another")
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) <= MAX_MESSAGE
    assert str(error).endswith("; name another")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_name_in_front_keeps_it_one_line() -> None:
    with pytest.raises(InputError, match="^EmbedText: a b$"), naming("EmbedText"):
        raise InputError("a\nb")
