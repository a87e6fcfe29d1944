"""Publish staged files under final names, complete, such that a retried commit changes nothing.

    earlier commits of this run and pane: the same files? go on; the same rows? nothing to do;
    other rows? refused --> note what is replaced --> move --> remove what is replaced, and the note

A commit may stop after any step. Until the last file is moved, the previous set counts; from then
on the new one does, for whoever reads the note: `ReadVectors`, `ReadCorpus` and the next commit,
which removes what is left. Other readers may see a part of the new set, or both, for as long.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_gpte.core.errors import InputError, PassingInputError
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import file_name, is_remote, list_partitioned, remove_files
from beam_gpte.sinks.final_names import (
    REPLACES,
    Destination,
    Pane,
    WrittenFile,
    is_complete,
    is_same_launch,
    match_name,
    note_of,
    read_note,
    run_of,
    set_of_note,
    sets_among,
)
from beam_gpte.sinks.runs.leftovers import live_runs, remove_leftovers, remove_staged
from beam_gpte.sinks.runs.same_rows import Digest, DigestFile
from beam_gpte.sinks.staging import StagedFile, waiting_files

REPEATED, REFUSED = "commits_repeated", "commits_refused"  # counters
Sets = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Describe the files of a sink.

    Attributes:
      prefix: begins every name.
      extension: ends every name.
      owns: whether a file of such a name, at a path within a folder, is of the folder's data set,
        not of another below it.
      digest: the rows of a file.
    """

    prefix: str
    extension: str
    owns: Callable[[str, str], bool]
    digest: DigestFile


@contextlib.contextmanager
def one_at_a_time(folder: str) -> Iterator[None]:
    """Lock a local folder against other processes that publish; the lock ends with the process."""
    if is_remote(folder) or not Path(folder).is_dir():  # without a folder nothing was staged
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def publish(
    staged: list[StagedFile], destination: Destination, pane: Pane, layout: Layout, replace: bool
) -> list[WrittenFile]:
    """Move the staged files of one pane to their final names; may be repeated.

    A staged file that is missing was moved by the previous attempt, to the same name, because
    `staged` is in the same order. Call this within `one_at_a_time`.

    Args:
      staged: the files.
      destination: where to publish them.
      pane: the part of the run that they hold.
      layout: of the sink's files.
      replace: remove all other files that a run has published here afterwards.

    Returns:
      The files; none if a previous launch of the same name has committed this pane.

    Raises:
      InputError: a run of the same name has committed other rows, a staged file is neither in the
        temporary folder nor under its final name, or a link is where a folder should be.
    """
    folder = destination.folder
    _finish_replacements(destination, layout)
    sets = sets_among(list_partitioned(folder), layout.prefix, layout.extension)
    name = destination.set_name(layout.prefix, pane, [file.path for file in staged])
    earlier = {
        other: files
        for other, files in sets.items()
        if match_name(files[0])["pane"] == destination.pane_name(layout.prefix, pane)
    }
    name = next((other for other in earlier if other[-8:] == name[-8:]), name)
    earlier = {other: earlier[other] for other in earlier if destination.is_same_run(name, other)}
    waiting = waiting_files(staged)
    repeated = None
    if name not in sets and all(file_name(file.path) in waiting for file in staged):
        repeated = _find_repeated(staged, destination, earlier, layout)
    outdated = {other: files for other, files in sets.items() if other not in (name, repeated)}
    if not replace:
        outdated = _dead(outdated, earlier, destination)
    outdated = _removable(folder, outdated, layout)
    if repeated is None:
        if replace:
            _check_folders(folder, staged)
            _note(folder, name, outdated)
        written = _move(staged, name, layout, destination, waiting, sets.get(name, []))
    elif is_same_launch(name, repeated):
        written = _report(sets[repeated], destination, layout)
    else:
        written = []
    remove_files([FileSystems.join(folder, path) for files in outdated.values() for path in files])
    _remove_note(folder, note_of(name))
    remove_staged(staged, destination, finished=pane.is_whole)
    remove_leftovers(destination, exclusive=replace)
    return written


def _find_repeated(
    staged: list[StagedFile], destination: Destination, earlier: Sets, layout: Layout
) -> str | None:
    """Find the set of the same rows that an earlier try of this run has committed.

    Raises:
      InputError: the run has a name, and has committed other rows.
    """
    complete = {other: files for other, files in earlier.items() if is_complete(files)}
    if not complete:
        return None
    here = sum((layout.digest(file.path, file.partition) for file in staged), Digest())
    for other, files in complete.items():
        there = sum(_digests(files, destination, layout), Digest())
        if here == there:
            count_commit(REPEATED)
            return other
        if destination.run is not None:
            raise other_rows(destination.run, destination.folder, there.rows, here.rows)
    return None


def other_rows(run: str, place: str, there: int, here: int) -> InputError:
    """Describe two jobs with one name of a run; counts the refusal."""
    count_commit(REFUSED)
    return InputError(
        f"run {run!r} has written {there} rows to {place}, and these {here} are not the same; "
        "name another run, or none"
    )


def count_commit(counter: str) -> None:
    """Count a commit that wrote nothing."""
    Metrics.counter(NAMESPACE, counter).inc()


def _report(files: list[str], destination: Destination, layout: Layout) -> list[WrittenFile]:
    """Report the files of this launch that an earlier try has written."""
    paths = [FileSystems.join(destination.folder, path) for path in files]
    digests = _digests(files, destination, layout)
    return [WrittenFile(path, found.rows) for path, found in zip(paths, digests, strict=True)]


def _digests(files: list[str], destination: Destination, layout: Layout) -> list[Digest]:
    return [
        layout.digest(
            FileSystems.join(destination.folder, path), path.removesuffix(file_name(path))
        )
        for path in files
    ]


def _dead(sets: Sets, earlier: Sets, destination: Destination) -> Sets:
    """Select incomplete sets that no run completes: of killed ones, and of earlier tries."""
    alive = live_runs(destination)
    return {
        name: files
        for name, files in sets.items()
        if not is_complete(files) and (name in earlier or run_of(files[0]) not in alive)
    }


def _removable(folder: str, sets: Sets, layout: Layout) -> Sets:
    """Leave out what another data set below the folder wrote, or what is behind a link."""
    return {
        name: files
        for name, files in sets.items()
        if not any(_through_link(folder, path) for path in files)
        and all(layout.owns(folder, path) for path in _samples(files))
    }


def _samples(files: list[str]) -> list[str]:
    """Return one file where all are of one commit, as a name with its hash shows."""
    return files[:1] if match_name(files[0])["commit"] else files


def _through_link(folder: str, path: str) -> bool:
    if is_remote(folder):
        return False
    parts = path.split("/")
    return any(Path(folder, *parts[: i + 1]).is_symlink() for i in range(len(parts)))


def _check_folders(folder: str, staged: list[StagedFile]) -> None:
    for partition in sorted({file.partition for file in staged}):
        if partition and _through_link(folder, partition.rstrip("/")):
            raise InputError(
                f"{FileSystems.join(folder, partition)} is behind a symbolic link, and nothing is "
                'replaced there; make it a folder, write to another place, or pass mode="append"'
            )


def _note(folder: str, name: str, outdated: Sets) -> None:
    """Write down what a set replaces, before it is complete."""
    paths = sorted(path for files in outdated.values() for path in files)
    if paths:
        target = FileSystems.join(folder, note_of(name))
        with FileSystems.create(target, compression_type=CompressionTypes.UNCOMPRESSED) as note:
            note.write(json.dumps(paths).encode())


def _remove_note(folder: str, note: str) -> None:
    path = FileSystems.join(folder, note)
    if FileSystems.exists(path):
        remove_files([path])


def _finish_replacements(destination: Destination, layout: Layout) -> None:
    """Remove what complete sets replace, where a kill came between, and notes of dead runs."""
    folder = destination.folder
    paths = list_partitioned(folder)
    notes = [path for path in paths if path.startswith(f"{REPLACES}{layout.prefix}-")]
    if not notes:
        return
    sets = sets_among(paths, layout.prefix, layout.extension)
    alive = live_runs(destination) - {destination.run_hash}
    for note in notes:
        files = sets.get(set_of_note(note), [])
        if files and is_complete(files):
            known = set(read_note(folder, note))
            replaced = {name: each for name, each in sets.items() if known.issuperset(each)}
            outdated = _removable(folder, replaced, layout).values()
            remove_files([FileSystems.join(folder, path) for each in outdated for path in each])
        elif set_of_note(note).split("-")[1] in alive:
            continue
        _remove_note(folder, note)


def _move(
    staged: list[StagedFile],
    name: str,
    layout: Layout,
    destination: Destination,
    waiting: set[str],
    present: list[str],
) -> list[WrittenFile]:
    """Move files to the names of a set, where the previous attempt has not."""
    folder, count, there = destination.folder, f"{len(staged):05d}", set(present)
    moves, written = [], []
    for i, file in enumerate(staged):
        path = f"{file.partition}{name}-{i:05d}-of-{count}{layout.extension}"
        target = FileSystems.join(folder, path)
        written.append(WrittenFile(target, file.rows))
        if file_name(file.path) in waiting:
            moves.append((file.path, target))
        elif path not in there:
            raise PassingInputError(
                f"{file.path}: staged file is missing; "
                f"let only one run at a time write to {FileSystems.split(target)[0]}, "
                "and run again"
            )
    for parent in {FileSystems.split(target)[0] for _, target in moves}:
        if not is_remote(parent):
            Path(parent).mkdir(parents=True, exist_ok=True)
    if moves:
        FileSystems.rename([source for source, _ in moves], [target for _, target in moves])
    return written
