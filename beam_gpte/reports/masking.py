"""Mask secrets in what a page shows of a run: options, addresses, and the command line."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

NOT_SHOWN = "(not shown)"
NOTHING = "–"  # how a page shows None
_SECRETS = "secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|account)_?key|token"
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:{_SECRETS}|key|sig(?:nature)?)$", re.IGNORECASE)
# https://user:password@host, and in what follows a question mark or an ampersand
_USER = re.compile(r"//[^/@\s]+@")
_SECRET_FIELD = re.compile(
    rf"([?&;][\w-]*(?:{_SECRETS}|key|sig(?:nature)?)=)[^&;\s]+", re.IGNORECASE
)
_FLAG = re.compile(r"(--?)([A-Za-z][\w-]*)(?:(=)(.*))?", re.DOTALL)


def without_secrets(name: str, value: str) -> str:
    """Hide the value of an option that is named like a secret, and secrets in addresses."""
    if _SECRET_NAME.search(name) and value != NOTHING:
        return NOT_SHOWN
    return _SECRET_FIELD.sub(rf"\1{NOT_SHOWN}", _USER.sub(f"//{NOT_SHOWN}@", value))


def masked_command(command: Sequence[str], options: Mapping[str, Any]) -> str:
    """Write a command line without its secrets, as one line for a shell.

    A value is shown only after a flag that is one of `options` by its full name, and whose value is
    not hidden there; all that follows another flag is hidden up to the next one.

    Args:
      command: the program and its arguments.
      options: whose values may be shown, by name; `NOT_SHOWN` for those that may not.
    """
    shown = [_quoted(part) for part in command[:1]]
    name, is_hidden = "", False
    for part in command[1:]:
        flag = _FLAG.fullmatch(part) if part.startswith("-") else None
        if flag is None and not part.startswith("-"):
            shown.append(NOT_SHOWN if is_hidden else _quoted(without_secrets(name, part)))
            continue
        dashes, spelled, equals, value = flag.groups() if flag else ("", "", None, None)
        name = spelled.replace("-", "_")
        is_hidden = options.get(name, NOT_SHOWN) == NOT_SHOWN
        if not spelled or (is_hidden and dashes == "-"):  # a value may stand right behind it
            shown.append(NOT_SHOWN)
        elif equals is None:
            shown.append(part)
        else:
            known = NOT_SHOWN if is_hidden else _quoted(without_secrets(name, value or ""))
            shown.append(f"{dashes}{spelled}={known}")
    return " ".join(shown)


def _quoted(part: str) -> str:
    """Quote for a shell, but for what a mask has put in place of a value."""
    return part if part == NOT_SHOWN else shlex.quote(part)
