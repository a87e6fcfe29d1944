"""Print texts and names, which come from anywhere, so that no terminal obeys them."""

import re
from typing import Any, TextIO

from beam_gpte.core.errors import printable

_LAYOUT = re.compile("([\t\n])")  # of what a program prints itself


class EscapedOutput:
    """Write to a stream, escaped; everything else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        parts = _LAYOUT.split(text)
        return self._stream.write("".join(p if p in "\t\n" else printable(p) for p in parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
