"""Write a JSON file on any Beam file system, complete or not at all."""

import json
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import remove_files


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write `value` for people and machines; the file appears complete or not at all."""
    partial = f"{path}.partial"
    with FileSystems.create(partial, "application/json", compression_type="uncompressed") as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
    if FileSystems.exists(path):
        remove_files([path])
    FileSystems.rename([partial], [path])
