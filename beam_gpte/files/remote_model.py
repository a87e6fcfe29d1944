"""Copy models from any Beam file system to the worker's disk, once per worker."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.cloud import check_bucket


def is_remote_model(model: str) -> bool:
    """Check whether the name of a model is a URI."""
    return "://" in model


def check_remote_model(model: str) -> None:
    """Check that there is a model at a URI.

    Raises:
      InputError: there is none.
    """
    _list_files(model)


def fetch_model(model: str) -> Path | None:
    """Copy a model from a URI such as ``gs://bucket/model`` to a local folder.

    The folder is named by the files' names, sizes and times, so a changed model is fetched anew. It
    is filled under another name first, so that several processes may fetch at once.

    Returns:
      The folder; None for a name that is not a URI.
    """
    if not is_remote_model(model):
        return None
    files = _list_files(model)
    key = hashlib.sha256(
        "\n".join(f"{f.path} {f.size_in_bytes} {f.last_updated_in_seconds}" for f in files).encode()
    )
    target = Path(tempfile.gettempdir()) / "beam_gpte_models" / key.hexdigest()[:24]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent))
    root = model.rstrip("/") + "/"
    for file in files:
        path = partial / file.path.removeprefix(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileSystems.open(file.path, compression_type="uncompressed") as source,
            path.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 24)
    try:
        os.rename(partial, target)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return target


def _list_files(model: str) -> list:
    check_bucket(model)
    root = model.rstrip("/")
    found = FileSystems.match([f"{root}/**"])[0].metadata_list
    if not any(file.path in (f"{root}/modules.json", f"{root}/config.json") for file in found):
        raise InputError(
            f"model {model!r}: neither modules.json nor config.json there; name the model's folder"
        )
    return sorted(found, key=lambda file: file.path)
