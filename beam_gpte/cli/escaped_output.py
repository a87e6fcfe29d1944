"""Print texts and names, which come from anywhere, so that no terminal obeys them.

All that a program prints goes through `EscapedOutput`, which leaves the program's own tabs and line
breaks; `one_line` escapes those of a value.
"""

from typing import Any, TextIO, cast

from beam_gpte.core.errors import printable_lines


class EscapedOutput:
    """Write to a stream, escaped; everything else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(printable_lines(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escaped(stream: TextIO) -> TextIO:
    """Return a stream whose texts are escaped."""
    return cast(TextIO, EscapedOutput(stream))


def one_line(value: Any) -> str:
    """Write a value or name that stays on its line."""
    return str(value).replace("\t", r"\t").replace("\n", r"\n")
