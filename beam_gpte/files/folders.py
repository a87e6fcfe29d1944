"""List, copy and remove files in folders, local or on any Beam file system."""

import contextlib
import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, shown
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.scratch import temporary_folder

TEMPORARY = ".beam-gpte-tmp-"
MAX_NAME, MAX_PATH = 200, 3500  # bytes; Linux has 255 and 4,095, with what sinks add to both


def is_remote(path: str) -> bool:
    """Check whether a path is on another file system than the local one."""
    return FileSystems.get_scheme(path) is not None


def absolute(path: str) -> str:
    """Return a path that a worker in another working directory takes for the same place."""
    return path if is_remote(path) else os.path.join(os.getcwd(), path)


def output_path(path: str) -> str:
    """Return the absolute path of an output, as `absolute` does.

    Raises:
      InputError: a local file system takes no name as long as one of it, or as the path.
    """
    path = absolute(path)
    longest = max(len(os.fsencode(name)) for name in path.split("/"))
    if not is_remote(path) and (longest > MAX_NAME or len(os.fsencode(path)) > MAX_PATH):
        raise InputError(
            f"the output's path is too long: {shown(path)}; use at most {MAX_NAME} bytes for each "
            f"of its names, and {MAX_PATH} for all"
        )
    return path


def file_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rsplit("/", 1)[-1]


def list_files(folder: str) -> list[str]:
    """List the names of the files directly in `folder`, sorted; none if there is no such folder."""
    check_bucket(folder)
    if is_remote(folder):
        found = FileSystems.match([FileSystems.join(glob.escape(folder), "*")])[0].metadata_list
        return sorted(file_name(file.path) for file in found)
    if not os.path.isdir(folder):
        return []
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.is_file())


def list_partitioned(folder: str) -> list[str]:
    """List the files of a folder and of hive partitions below it (``name=value/...``).

    Returns:
      Paths within `folder`, sorted.
    """
    check_bucket(folder)
    if is_remote(folder):
        start = FileSystems.join(folder, "")
        there = glob.escape(folder)
        found = FileSystems.match([FileSystems.join(there, "*"), FileSystems.join(there, "**")])
        paths = sorted(
            {file.path.removeprefix(start) for match in found for file in match.metadata_list}
        )
        return [path for path in paths if all("=" in part for part in path.split("/")[:-1])]
    return _list_below(folder, frozenset())


def _list_below(folder: str, above: frozenset[str]) -> list[str]:
    here = os.path.realpath(folder)
    if here in above or not os.path.isdir(folder):  # a link may lead back up
        return []
    names = list_files(folder)
    for entry in sorted(Path(folder).iterdir()):
        if "=" in entry.name and entry.is_dir():
            below = _list_below(str(entry), above | {here})
            names += [f"{entry.name}/{path}" for path in below]
    return names


def remove_files(paths: list[str]) -> None:
    """Delete files, and partitions that are then empty; a missing local file is fine."""
    for path in paths:
        if is_remote(path):
            # of Cloud Storage alone, Beam deletes what a pattern matches
            FileSystems.delete([glob.escape(path) if path.startswith("gs://") else path])
            continue
        file = Path(path)
        file.unlink(missing_ok=True)
        for parent in file.parents:
            if "=" not in parent.name or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


@contextlib.contextmanager
def copied_here(path: str) -> Iterator[str]:
    """Provide a local path of a file, that of a temporary copy if it is remote."""
    if not is_remote(path):
        yield path
        return
    with temporary_folder() as folder:
        local = str(Path(folder, file_name(path)))
        copy_file(path, local)
        yield local


def copy_file(source: str, target: str) -> None:
    """Copy a file, byte by byte."""
    plain = CompressionTypes.UNCOMPRESSED
    with (
        FileSystems.open(source, compression_type=plain) as old,
        FileSystems.create(target, compression_type=plain) as new,
    ):
        shutil.copyfileobj(old, new, 16 << 20)


def remove_folder(path: str) -> bool:
    """Delete a folder and its files; return whether it was there."""
    if is_remote(path):
        names = list_files(path)
        remove_files([FileSystems.join(path, name) for name in names])
        return bool(names)
    was_there = os.path.exists(path)
    shutil.rmtree(path, ignore_errors=True)  # another process may delete it at the same time
    return was_there


def check_writable(folder: str) -> None:
    """Create `folder` if need be and try to write to it; for programs, before the work begins.

    Raises:
      InputError: it cannot be created or written.
    """
    check_bucket(folder)
    try:
        if is_remote(folder):
            trial = FileSystems.join(folder, f"{TEMPORARY}trial-{uuid.uuid4().hex}")
            with FileSystems.create(trial) as file:
                file.write(b"\n")  # Beam 2.77 cannot write an empty object to S3
            remove_files([trial])
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder or ".").close()
    except Exception as error:  # each file system raises its own; to the user all mean the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{folder}: cannot write to this folder ({reason}); choose another output folder"
        ) from error
