"""Write and read what was fitted: a folder with a file of safetensors, which is all, and JSON."""

import uuid
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT
from beam_gpte.files.folders import check_writable, is_remote, remove_files
from beam_gpte.files.json_values import write_json


class Fitted(Protocol):
    """Define what is written."""

    def to_bytes(self) -> bytes:
        """Return the content of the file."""

    def description(self) -> dict[str, Any]:
        """Return what the JSON beside it says, for people."""


F = TypeVar("F", bound=Fitted)


def weights_of(folder: str, name: str) -> str:
    """Name the file in a folder of what is called `name`, such as ``head``."""
    return FileSystems.join(folder, f"{name}.safetensors")


def save_fitted(fitted: F, folder: str, name: str) -> F:
    """Write to a folder, on any Beam file system; the file is there as a whole, or not at all."""
    check_writable(folder)
    path = weights_of(folder, name)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with FileSystems.create(partial, compression_type="uncompressed") as file:
        file.write(fitted.to_bytes())
    if is_remote(path) and FileSystems.exists(path):
        remove_files([path])
    FileSystems.rename([partial], [path])
    about = FileSystems.join(folder, f"{name}.json")
    write_json(about, {"format": FORMAT, **fitted.description()})
    return fitted


def load_fitted(folder: str, name: str, restore: Callable[[bytes], F], writer: str) -> F:
    """Read what `writer` wrote to a folder, on any Beam file system.

    Raises:
      InputError: it is not there, or it is damaged.
    """
    path = weights_of(folder, name)
    try:
        with FileSystems.open(path, compression_type="uncompressed") as file:
            data = file.read()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read; give the folder that {writer} wrote to"
        ) from error
    try:
        return restore(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
