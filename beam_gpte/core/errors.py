"""Define the errors of mistakes that a user can fix, and name the transform that the user wrote.

A check that several transforms share does not know which of them the user wrote. `naming` and
`InStep` add it where the transform is known, unless the message names it already.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class InputError(ValueError):
    """Report input that cannot be used; the message says how to fix it.

    Programs print the message as one line and exit with code 2.
    """


class NoRowsError(InputError):
    """Report a run that read no row, or rejected all: its previous output stays as it is.

    Programs print the message as one line and exit with code 3.
    """


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
