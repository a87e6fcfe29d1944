"""Write and read fitted heads: a folder with `head.safetensors`, which is all, and `head.json`."""

import uuid

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.head import Head
from beam_gpte.files.folders import check_writable, is_remote, remove_files
from beam_gpte.files.json_values import write_json

WEIGHTS = "head.safetensors"
ABOUT = "head.json"  # for people: what the header of the other file has


def save_head(head: Head, folder: str) -> Head:
    """Write a head to a folder, on any Beam file system; it is there as a whole, or not at all."""
    check_writable(folder)
    path = FileSystems.join(folder, WEIGHTS)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with FileSystems.create(partial, compression_type="uncompressed") as file:
        file.write(head.to_bytes())
    if is_remote(path) and FileSystems.exists(path):
        remove_files([path])
    FileSystems.rename([partial], [path])
    write_json(FileSystems.join(folder, ABOUT), head.description())
    return head


def load_head(folder: str) -> Head:
    """Read what `FitHead` wrote to a folder, on any Beam file system.

    Raises:
      InputError: there is no head, or it is damaged.
    """
    path = FileSystems.join(folder, WEIGHTS)
    try:
        with FileSystems.open(path, compression_type="uncompressed") as file:
            data = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read; give the folder that FitHead wrote to") from error
    try:
        return Head.from_bytes(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
