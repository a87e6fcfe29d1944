"""Read keys from the environment when a request is sent, and keep them out of everything else."""

import os
import re
from collections.abc import Mapping

from beam_gpte.core.errors import InputError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header, by RFC 9110
_VALUE = re.compile(r"[\x20-\x7e]*")
# Headers that hold keys: their values come from the environment, after a scheme such as Bearer.
_SECRET = re.compile(r"auth|key|token|secret|passw|credential|cookie|signature", re.IGNORECASE)
_FROM_ENVIRONMENT = re.compile(r"(?:[A-Za-z]+ )?" + _VARIABLE.pattern)
HIDDEN = "***"
_MIN_HIDDEN = 4  # characters: a shorter value hides nothing, and is part of many words


def check_headers(headers: object) -> None:
    """Refuse headers that cannot be sent, and keys that are written out.

    Raises:
      InputError: there is one; never shows its value.
    """
    if not isinstance(headers, Mapping):
        raise InputError(f"headers is of type {type(headers).__qualname__}; give a mapping")
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"headers: {name!r} is not the name of a header; use letters and -")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InputError(f"headers: {name} is not a line of ASCII; give a string")
        if _VARIABLE.sub("", value).count("${"):
            raise InputError(f"headers: {name} has '${{' without a name; write ${{NAME}}")
        if _SECRET.search(name) and not _FROM_ENVIRONMENT.fullmatch(value):
            raise InputError(
                f"headers: {name} may hold a key, which would be in pickles and logs; put it into "
                "an environment variable of the workers and write '${NAME}' or 'Bearer ${NAME}'"
            )


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that may be shown: with names of variables, without other values."""
    return {
        name: value if _FROM_ENVIRONMENT.fullmatch(value) else HIDDEN
        for name, value in headers.items()
    }


def variables(headers: Mapping[str, str]) -> list[str]:
    """List the environment variables that headers name."""
    return [name for value in headers.values() for name in _VARIABLE.findall(value)]


def expanded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to send; whoever calls this keeps them no longer than a request.

    Raises:
      InputError: a variable is missing, or cannot be sent.
    """
    return {name: _expanded(name, value) for name, value in headers.items()}


def without_keys(text: str, headers: Mapping[str, str]) -> str:
    """Replace the values of the variables in a text, such as the answer of a server."""
    values = {os.environ.get(name, "").strip() for name in variables(headers)}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _MIN_HIDDEN:
            text = text.replace(value, HIDDEN)
    return text


def _expanded(header: str, value: str) -> str:
    return _VARIABLE.sub(lambda found: _value(header, found[1]), value)


def _value(header: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InputError(
            f"headers: {header} needs the environment variable {variable}, which this worker "
            "lacks; set it on the workers"
        )
    if not _VALUE.fullmatch(value):
        raise InputError(
            f"headers: {header}: the environment variable {variable} is not a line of ASCII; set "
            "it to the key alone"
        )
    return value
