"""Print texts and names, which come from anywhere, so that no terminal obeys them."""

import re
from typing import Any, TextIO

# Control characters but for tab and newline, and halves of characters, which have no UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape what a terminal obeys, or cannot show, as JSON does."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class EscapedOutput:
    """Write to a stream, escaped; everything else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
