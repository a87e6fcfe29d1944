"""Keep the temporary folders of runs: who owns one, which are left over, and how they go.

    <folder>/.beam-gpte-tmp-<sink>-<run>-<machine>-<process>-<token>/<stager><file>.staged
                                                                    /<file>.vectors

The process is the one that built the pipeline, as long as the workers are below it: then the job
ends with it. Else (a cluster, a template) nothing is known of the job's end, and the folder stays
until it is old. Vectors stay until a run has committed; see `computed_vectors`.
"""

import contextlib
import glob
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import (
    TEMPORARY,
    file_name,
    is_remote,
    list_files,
    remove_files,
    remove_folder,
)
from beam_gpte.sinks.final_names import Destination
from beam_gpte.sinks.runs.processes import elsewhere, is_running, machine
from beam_gpte.sinks.staging import STAGER_DIGITS, StagedFile

# A temporary folder of an unknown process is removed when nothing has changed in it for so long.
ABANDONED_SECONDS = 7 * 86400

VECTORS = ".vectors"  # ends the names of files with what the model has computed


def remove_staged(staged: list[StagedFile], destination: Destination, finished: bool) -> None:
    """Delete the staged files of a commit, and their folders if these are then empty.

    Args:
      staged: the files; those that were moved are fine.
      destination: of this run.
      finished: all files of the run are in place: also delete what failed bundles of its stagers
        left.
    """
    stagers: dict[str, set[str]] = defaultdict(set)
    committed = {file_name(file.path) for file in staged}
    for file in staged:
        folder = FileSystems.split(file.path)[0]
        # of a process that is known, all with this token are of this launch; a template has others
        digits = STAGER_DIGITS if folder == destination.temporary else 2 * STAGER_DIGITS
        stagers[folder].add(file_name(file.path)[:digits])
    for folder, known in stagers.items():
        done = [
            name
            for name in list_files(folder)
            if name in committed or (finished and name.startswith(tuple(known)))
        ]
        remove_files([FileSystems.join(folder, name) for name in done])
    if finished:
        for folder in (destination.temporary, elsewhere(destination.temporary)):
            _remove_vectors(folder)
    others = {elsewhere(destination.temporary), *stagers} - {destination.temporary}
    for folder in (*others, destination.temporary):  # as long as it is there, this has not ended
        _remove_if_empty(folder)


def _remove_vectors(folder: str) -> bool:
    """Delete vectors that were kept; return whether there were any."""
    names = [name for name in list_files(folder) if name.endswith(VECTORS)]
    remove_files([FileSystems.join(folder, name) for name in names])
    return bool(names)


def _remove_if_empty(folder: str) -> None:
    if not is_remote(folder):
        with contextlib.suppress(OSError):  # it has files, or is gone
            Path(folder).rmdir()


def remove_leftovers(destination: Destination, exclusive: bool) -> None:
    """Delete what killed runs of this sink left in temporary folders.

    Of a run that nothing is known of, and that may still work, only the vectors: it does without.

    Args:
      destination: of this run.
      exclusive: no other run of this process writes here, so its temporary folders are leftovers.
    """
    for name, changed in _temporary_folders(destination).items():
        folder = FileSystems.join(destination.folder, name)
        if _token(name) == destination.token:
            continue
        if not _may_be_alive(name, changed, exclusive):
            remove_folder(folder)
        elif not _is_here(name) and _remove_vectors(folder):
            _remove_if_empty(folder)


def remove_run(temporary: str) -> bool:
    """Delete what a job that has ended left of a sink, in the folder of its owner and elsewhere.

    Vectors stay, for the next job.

    Returns:
      Whether there was anything.
    """
    removed = [_remove_rows(folder) for folder in (temporary, elsewhere(temporary))]
    return any(removed)


def _remove_rows(folder: str) -> bool:
    names = list_files(folder)
    if not any(name.endswith(VECTORS) for name in names):
        return remove_folder(folder)
    staged = [name for name in names if not name.endswith(VECTORS)]
    remove_files([FileSystems.join(folder, name) for name in staged])
    return bool(staged)


def kept_vectors(folders: Iterable[str]) -> list[str]:
    """List the files with vectors that runs have left in folders, also those that still work."""
    found: list[str] = []
    for folder in folders:
        if is_remote(folder):
            pattern = FileSystems.join(glob.escape(folder), f"{TEMPORARY}*", f"*{VECTORS}")
            found += [file.path for file in FileSystems.match([pattern])[0].metadata_list]
        else:
            found += map(str, Path(folder).glob(f"{TEMPORARY}*/*{VECTORS}"))
    return sorted(found)


def live_runs(destination: Destination) -> set[str]:
    """List the runs that may be working in this folder, by the hash in their files' names."""
    alive = [
        name
        for name, changed in _temporary_folders(destination).items()
        if _may_be_alive(name, changed, exclusive=False)
    ]
    return {destination.run_hash, *(name.split("-")[-4] for name in alive if name.count("-") >= 4)}


def unfinished_folders(destination: Destination) -> dict[str, str]:
    """List the temporary folders of other runs that are over, by the hash in their files' names.

    Call this where no other run of this process commits.
    """
    return {
        name.split("-")[-4]: FileSystems.join(destination.folder, name)
        for name, changed in _temporary_folders(destination).items()
        if name.count("-") >= 4 and not _may_be_alive(name, changed, exclusive=True)
    }


def _may_be_alive(name: str, changed: float, exclusive: bool) -> bool:
    """Return whether the run that made a temporary folder may still be working.

    On this machine, its process shows that; with `exclusive`, a run of this process is over.
    """
    if _is_here(name):
        process = int(name.split("-")[-2])
        return not exclusive if process == os.getpid() else is_running(process)
    return time.time() - changed < ABANDONED_SECONDS


def _is_here(name: str) -> bool:
    """Return whether the process that made a temporary folder is, or was, on this machine."""
    where, process = ["", *name.split("-")][-3:-1]
    return where == machine() and process.isdigit()


def _token(name: str) -> str:
    return name.rpartition("-")[2]


def _temporary_folders(destination: Destination) -> dict[str, float]:
    """List the temporary folders of this sink, with the time of the last change."""
    folder, start = destination.folder, f"{TEMPORARY}{destination.sink}-"
    found: dict[str, float] = {}
    if is_remote(folder):
        pattern = FileSystems.join(glob.escape(folder), f"{start}*", "*")
        for file in FileSystems.match([pattern])[0].metadata_list:
            name = file_name(FileSystems.split(file.path)[0])
            found[name] = max(found.get(name, 0), file.last_updated_in_seconds or 0)
    elif Path(folder).is_dir():
        for entry in sorted(Path(folder).iterdir()):
            if entry.name.startswith(start) and not entry.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = entry.stat().st_mtime
    return found
