"""Define the errors of mistakes that a user can fix, and name the transform that the user wrote.

A check that several transforms share does not know which of them the user wrote. `naming` and
`InStep` add it where the transform is known, unless the message names it already.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_SHOWN = 200  # characters of an id or a value in a message
MAX_MESSAGE = 2000  # characters of a message, and of a reject's reason

# what a terminal obeys instead of showing it, and half characters: control characters, line and
# paragraph separators, changes of direction, surrogates
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Escape what a terminal would obey, such as ``\x1b``: one line of visible characters."""
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Escape as `printable` does, but for tabs and line breaks."""
    return _OBEYED.sub(lambda found: found[0] if found[0] in "\t\n" else _escaped(found), text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def shown(value: Any) -> str:
    """Write a value for a message: a string in quotes, escaped, at most `MAX_SHOWN` characters."""
    if isinstance(value, str | bytes):
        return repr(value[:MAX_SHOWN]) + ("..." if len(value) > MAX_SHOWN else "")
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def brief_message(text: str) -> str:
    """Cut the middle out of a message that is too long; the repair is at its end."""
    if len(text) <= MAX_MESSAGE:
        return text
    return f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 4 :]}"


class InputError(ValueError):
    """Report input that cannot be used; the message says how to fix it.

    The message is one line of visible characters, whatever names and values are in it. Programs
    print it and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(brief_message(printable(" ".join(message.splitlines()))))


class NothingWrittenError(InputError):
    """Report a run that writes nothing but its rejects: the previous output stays as it is.

    It read no row, rejected all, or more than it may.

    Programs print the message as one line and exit with code 3.
    """


class PassingInputError(InputError):
    """Report what may be gone at the next try, such as a full disk: engines try again."""


class ReplacedFileError(PassingInputError):
    """Report a file that was replaced after it was listed: another listing has what replaced it."""


@contextlib.contextmanager
def naming(step: str | None) -> Iterator[None]:
    """Begin the message of an `InputError` with the transform that the user wrote; None for none.

    Args:
      step: its name, which other words may follow in the message.
    """
    try:
        yield
    except InputError as error:
        if step is None or str(error).startswith(step):
            raise
        raise type(error)(f"{step}: {error}") from error


@contextlib.contextmanager
def naming_columns(hidden: Iterable[str], names: Iterable[str]) -> Iterator[None]:
    """Replace `hidden` columns in the message of an `InputError` by the user's they are read from.

    Args:
      hidden: their names.
      names: those of the user's columns, in the same order.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        for column, name in zip(hidden, names, strict=True):
            message = message.replace(repr(column), repr(name))
        raise type(error)(message) from error


@dataclasses.dataclass(frozen=True)
class InStep:
    """Call a function of a transform, which the errors that it raises name.

    `beam.FlatMap` gives further arguments to functions and methods alone: pass it `.__call__`.

    Attributes:
      step: the transform that the user wrote.
      function: may be a generator.
    """

    step: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function does."""
        with naming(self.step):
            found = self.function(*arguments)
        return self._items(found) if isinstance(found, Iterator) else found

    def _items(self, found: Iterator[Any]) -> Iterator[Any]:
        with naming(self.step):
            yield from found
