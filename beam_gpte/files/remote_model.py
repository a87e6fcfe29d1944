"""Copy models from any Beam file system to the worker's disk, once per worker.

    objects --> names are checked --> a private folder, not complete --> renamed --> the model

The folder is this user's alone: another user of the machine can neither read a model there nor put
other weights, or code, in its place.
"""

import errno
import functools
import glob
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.scratch import ScratchFolder, user_folder

FOLDER = "beam-gpte-models"
PARTIAL = "partial-"
# What a complete model holds: sizes by name. Programs that clear /tmp delete single files.
COMPLETE = ".complete.json"

# A name is too long, or also that of a folder.
_NAME_ERRORS = (errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)


def is_remote_model(model: str) -> bool:
    """Check whether the name of a model is a URI."""
    return "://" in model


def check_remote_model(model: str) -> None:
    """Check that there is a model at a URI.

    Raises:
      InputError: there is none, or it has an object whose name leads out of its folder.
    """
    _list_files(model)


def fetch_model(model: str) -> Path | None:
    """Copy a model from a URI such as ``gs://bucket/model`` to a local folder.

    The folder is named by the files' names, sizes and times, so a changed model is fetched anew. It
    is filled under another name first, so that several processes may fetch at once; if fetching
    fails nothing stays.

    Returns:
      The folder; None for a name that is not a URI.

    Raises:
      InputError: there is no model, or it has an object whose name leads out of its folder.
    """
    if not is_remote_model(model):
        return None
    files = _list_files(model)
    listing = "\n".join(
        f"{name} {file.size_in_bytes} {file.last_updated_in_seconds}"
        for name, file in files.items()
    )
    key = hashlib.sha256(f"{model}\n{listing}".encode(errors="surrogateescape")).hexdigest()[:24]
    target = _models() / key
    if _is_complete(target):
        return target
    partial = ScratchFolder(target.parent, PARTIAL)
    try:
        _copy(model, files, partial.path)
        if target.exists() and not _is_complete(target):
            shutil.rmtree(target, ignore_errors=True)
        os.rename(partial.path, target)
    except OSError:
        if not _is_complete(target):  # else another process was first
            raise
    finally:
        partial.close()
    return target


def _models() -> Path:
    """Return the folder of this user's models, or one of this process if that cannot be trusted."""
    return user_folder(FOLDER) or _own_folder()


@functools.cache
def _own_folder() -> Path:
    folder = ScratchFolder().path
    logging.getLogger(__name__).warning(
        "%s-%s among the temporary files is not a private folder of this user; it is not used, "
        "and each process fetches its models anew: remove it",
        FOLDER,
        os.getuid(),
    )
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _copy(model: str, files: dict[str, FileMetadata], folder: Path) -> None:
    """Copy the files into a new folder, and mark it as complete."""
    sizes = {}
    for name, file in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (
                FileSystems.open(file.path, compression_type="uncompressed") as source,
                path.open("xb") as sink,  # no file is written twice, and no link is followed
            ):
                shutil.copyfileobj(source, sink, 1 << 24)
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            problem = f"cannot be stored under its name ({error.strerror})"
            raise _refused(model, file.path, problem) from error
        sizes[name] = path.stat().st_size
        if sizes[name] != file.size_in_bytes:
            raise _refused(model, file.path, "changed while it was copied")
    (folder / COMPLETE).write_text(json.dumps(sizes), encoding="utf-8")


def _list_files(model: str) -> dict[str, FileMetadata]:
    """List the objects of a model by their names within it, sorted."""
    check_bucket(model)
    root = model.rstrip("/")
    found = FileSystems.match([f"{glob.escape(root)}/**"])[0].metadata_list
    files = {}
    for file in sorted(found, key=lambda file: file.path):
        name = file.path.removeprefix(f"{root}/")
        if name.endswith("/") and not file.size_in_bytes:
            continue  # a folder, as the console of Cloud Storage creates them
        if name == file.path or not is_name_inside(name):
            raise _refused(model, file.path, "has a name that leads out of the model's folder")
        files[name] = file
    if not files.keys() & {"modules.json", "config.json", "adapter_config.json"}:
        raise InputError(
            f"model {model!r}: neither modules.json nor config.json there; name the model's folder"
        )
    return files


def is_name_inside(name: str) -> bool:
    """Check that a relative path stays in its folder on any system, and means one file."""
    parts = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and not name.startswith("~")
    return is_plain and COMPLETE not in parts and not any(part in ("", ".", "..") for part in parts)


def _refused(model: str, path: str, problem: str) -> InputError:
    return InputError(f"model {model!r}: object {path!r} {problem}; remove or rename it there")
