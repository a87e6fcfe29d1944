"""Write what was fitted as a file of safetensors, and read it: whole or not there, no code in it.

    fitted_bytes("head", tensors, description) --> bytes --> read_fitted("head", data, restore, ...)

The description is JSON in the header; the version of the format is added to it.
"""

import json
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.format_version import FORMAT, check_format

T = TypeVar("T")
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error)


def fitted_bytes(key: str, tensors: dict[str, np.ndarray], description: dict[str, Any]) -> bytes:
    """Return the content of a ``.safetensors`` file.

    Args:
      key: of the description in the header.
      tensors: are stored as float32.
      description: anything that JSON holds.
    """
    from safetensors.numpy import save

    stored = {name: np.ascontiguousarray(part, np.float32) for name, part in tensors.items()}
    return save(stored, {key: json.dumps({"format": FORMAT, **description}, ensure_ascii=False)})


def read_fitted(
    key: str,
    data: bytes,
    restore: Callable[[dict[str, np.ndarray], dict[str, Any]], T],
    what: str,
    repair: str,
) -> T:
    """Restore what `fitted_bytes` gave.

    Args:
      key: of the description in the header.
      data: the content of the file.
      restore: makes the result of tensors and description; errors of any kind mean damage.
      what: the file should be, for the error, as in "a head that FitHead wrote".
      repair: for the error.

    Raises:
      InputError: the file is something else, or of a later format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        (size,) = struct.unpack("<Q", data[:8])
        found = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][key])
        check_format(found.get("format"), f"the {key.replace('_', ' ')}")
        return restore(tensors, found)
    except InputError:
        raise
    except (*_DAMAGED, SafetensorError) as error:
        raise InputError(f"not {what} ({shown(str(error))}); {repair}") from error
