"""Find what a server says about a failure, in the forms that servers use."""

import contextlib
import json
from typing import Any

from beam_gpte.core.errors import printable

_KEYS = ("message", "error", "detail", "error_message", "msg")


def server_message(content: bytes) -> str:
    """Return the message of an error as one line, still with what keys it may repeat."""
    text = content[: 1 << 16].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        text = _found(json.loads(text)) or text
    return printable(" ".join(text.split()))


def _found(value: Any) -> str:
    """Find the message in an answer, whose shape is not known."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_found, value[:3])))
    if isinstance(value, dict):
        return next(filter(None, (_found(value[key]) for key in _KEYS if key in value)), "")
    return ""
