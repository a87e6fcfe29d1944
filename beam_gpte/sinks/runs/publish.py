"""Publish staged files under final names, complete, such that a retried commit changes nothing.

    earlier commits of this run and pane: the same files? go on; the same rows? nothing to do;
    other rows? refused --> note what is replaced --> move --> remove or keep what is replaced

A commit may stop after any step. Until the last file is moved, the previous set counts; from then
on the new one does, for whoever reads the note: `ReadVectors`, `ReadCorpus` and the next commit,
which removes what is left. Other readers may see a part of the new set, or both, for as long.
"""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_gpte.core.errors import InputError, PassingInputError
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import file_name, is_remote, remove_files
from beam_gpte.sinks.final_names import (
    Destination,
    Pane,
    WrittenFile,
    is_rewritten,
    is_same_launch,
    match_name,
    run_of,
)
from beam_gpte.sinks.runs.folder_state import (
    FolderState,
    Gone,
    Note,
    Sets,
    note_of,
    read_state,
    set_of,
    write_note,
)
from beam_gpte.sinks.runs.leftovers import live_runs, remove_leftovers, remove_staged
from beam_gpte.sinks.runs.previous_state import (
    begin_to_keep,
    keep_files,
    remove_kept,
    remove_previous,
)
from beam_gpte.sinks.runs.same_rows import Digest, DigestFile
from beam_gpte.sinks.staging import StagedFile, waiting_files

REPEATED, REFUSED = "commits_repeated", "commits_refused"  # counters


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


@dataclasses.dataclass(frozen=True)
class Replacement:
    """Say what a commit replaces.

    Attributes:
      gone: paths within the folder, with the digests of their rows; None for all that other commits
        have published there.
      keep: keep these files, as the previous state of the folder, until the next replacement.
    """

    gone: Gone | None = None
    keep: bool = False


def publish(
    staged: list[StagedFile],
    destination: Destination,
    pane: Pane,
    layout: Layout,
    replacement: Replacement | None,
) -> list[WrittenFile]:
    """Move the staged files of one pane to their final names; may be repeated.

    A staged file that is missing was moved by the previous attempt, to the same name, because
    `staged` is in the same order. Call this within `one_at_a_time`.

    Args:
      staged: the files.
      destination: where to publish them.
      pane: the part of the run that they hold.
      layout: of the sink's files.
      replacement: what they replace; None adds them to what is there.

    Returns:
      The files; none if a previous launch of the same name has committed this pane.

    Raises:
      InputError: a run of the same name has committed other rows, a staged file is neither in the
        temporary folder nor under its final name, a file to be replaced is not there, or a link is
        where a folder should be.
    """
    folder = destination.folder
    state = finish_replacements(destination, layout)
    known = {*state.sets, *state.gone_sets}
    pane_name = destination.pane_name(layout.prefix, pane)
    earlier = sorted(
        other for other in known if match_name(state.any_path(other))["pane"] == pane_name
    )
    name = destination.set_name(layout.prefix, pane, [file.path for file in staged])
    name = next((other for other in earlier if other[-8:] == name[-8:]), name)
    earlier = [other for other in earlier if destination.is_same_run(name, other)]
    waiting = waiting_files(staged)
    repeated = name if name not in state.sets and state.was_committed(name) else None
    is_new = name not in known and all(file_name(file.path) in waiting for file in staged)
    if is_new:
        repeated = _find_repeated(staged, destination, earlier, layout, state)
    gone = _gone(state, replacement, layout, {name, repeated})
    if repeated is None:
        if replacement is not None:
            _check_folders(folder, staged)
            _note(state, name, replacement, gone)
        written = _move(staged, name, layout, destination, waiting, state)
    elif is_same_launch(name, repeated):
        written = _report(state.sets.get(repeated, []), destination, layout)
    else:
        written = []
    dead = _dead(state, {*earlier} - {name, repeated}, destination, layout)
    if replacement is not None:
        if replacement.gone is None and repeated not in state.gone_sets:
            _put_away(state, repeated or name, gone, replacement.keep)
            remove_previous(folder, layout.prefix, keep=repeated or name)
        finish_replacements(destination, layout)
    remove_files([FileSystems.join(folder, path) for path in dead if path not in gone])
    remove_staged(staged, destination, finished=pane.is_whole)
    remove_leftovers(destination, exclusive=replacement is not None and replacement.gone is None)
    return written


def _gone(
    state: FolderState, replacement: Replacement | None, layout: Layout, but: set[str | None]
) -> Gone:
    """Return what a commit replaces."""
    if replacement is None:
        return {}
    if replacement.gone is not None:
        return dict(replacement.gone)
    others = {name: files for name, files in state.sets.items() if name not in but}
    removable = own_sets(state.folder, others, layout)
    return {path: None for files in removable.values() for path in files}


def _put_away(state: FolderState, name: str, gone: Gone, keep: bool) -> None:
    """Remove what a set has replaced, or keep what counted as the previous state."""
    kept = sorted(path for path in gone if state.has_counted(path)) if keep else []
    if keep:
        keep_files(state.folder, name, kept)
    others = sorted(gone.keys() - set(kept))
    remove_files([FileSystems.join(state.folder, path) for path in others])


def _find_repeated(
    staged: list[StagedFile],
    destination: Destination,
    earlier: list[str],
    layout: Layout,
    state: FolderState,
) -> str | None:
    """Find the set of the same rows that an earlier try of this run has committed.

    Raises:
      InputError: the run has a name, and has committed other rows.
    """
    complete = [other for other in earlier if state.was_committed(other)]
    if not complete:
        return None
    here = sum((layout.digest(file.path, file.partition) for file in staged), Digest())
    for other in complete:
        gone = state.gone_sets.get(other, {})
        files = [path for path in state.sets.get(other, []) if path not in gone]
        digests = [*_digests(files, destination, layout), *filter(None, gone.values())]
        there = sum(digests, Digest())
        if here.is_like(there):
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


def _dead(
    state: FolderState, earlier: AbstractSet[str | None], destination: Destination, layout: Layout
) -> list[str]:
    """List files of incomplete sets that no run completes: of killed ones, and of earlier tries."""
    alive = live_runs(destination)
    dead = {
        name: files
        for name, files in state.sets.items()
        if not state.was_committed(name) and (name in earlier or run_of(files[0]) not in alive)
    }
    return [path for files in own_sets(state.folder, dead, layout).values() for path in files]


def own_sets(folder: str, sets: Sets, layout: Layout) -> Sets:
    """Leave out sets that another data set below the folder wrote, or that are behind a link."""
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


def _note(state: FolderState, name: str, replacement: Replacement, gone: Gone) -> None:
    """Write down what a set replaces, before it is complete.

    Raises:
      InputError: a file that is to be replaced is not there any more.
    """
    if state.was_committed(name):  # by an earlier attempt
        return
    if replacement.gone is not None:
        current = {path for files in state.counting.values() for path in files}
        if changed := sorted(gone.keys() - current):
            raise PassingInputError(
                f"{FileSystems.join(state.folder, changed[0])} was replaced by another run "
                "meanwhile; nothing was changed, run again"
            )
        gone = {**_ledger(state), **gone}
    if gone or replacement.gone is not None:
        write_note(state.folder, name, Note(gone, replacement.keep, state.next_number))
        if replacement.keep:
            begin_to_keep(state.folder, name)


def _ledger(state: FolderState) -> Gone:
    """Return what is gone of sets that are still there in part, or that a run may repeat."""
    return {
        path: digest
        for name, paths in state.gone_sets.items()
        if name in state.sets or not is_rewritten(name)
        for path, digest in paths.items()
        if digest is not None
    }


def _remove_note(folder: str, name: str) -> None:
    path = FileSystems.join(folder, note_of(name))
    if FileSystems.exists(path):
        remove_files([path])


def finish_replacements(destination: Destination, layout: Layout) -> FolderState:
    """Remove what complete sets replace, where a kill came between, and notes of dead runs.

    Of several notes that have a say, the last one has all that the others say, unless two runs
    have replaced files at the same time, which no lock prevents on an object store: then both stay.
    """
    state = read_state(destination.folder, layout.prefix, layout.extension)
    if not state.notes:
        return state
    replaced = [name for name in state.notes if state.has_replaced(name)]
    for name in replaced:
        _put_away_left(state, name, layout)
    last = state.last
    if last is not None:
        remove_previous(state.folder, layout.prefix, keep=last if state.notes[last].keep else None)
    alive = live_runs(destination) - {destination.run_hash}
    left = read_state(destination.folder, layout.prefix, layout.extension)
    done = set()
    for name, note in state.notes.items():
        if name in replaced:
            if not note.is_ledger or (
                name != last and last and _is_in(note, state.notes[last], left)
            ):
                done.add(name)
        elif name.split("-")[1] not in alive:
            remove_kept(state.folder, name)
            done.add(name)
    for name in done:
        _remove_note(state.folder, name)
    stays = {name: note for name, note in left.notes.items() if name not in done}
    return dataclasses.replace(left, notes=stays)


def _is_in(note: Note, last: Note, state: FolderState) -> bool:
    """Return whether the last note says all of another that a ledger needs."""
    missing = {set_of(path) for path in note.gone.keys() - last.gone.keys()}
    return all(name not in state.sets and is_rewritten(name) for name in missing)


def _put_away_left(state: FolderState, name: str, layout: Layout) -> None:
    """Remove or keep those files that a set has replaced and that are still there."""
    note = state.notes[name]
    there = {
        other: [path for path in files if path in note.gone] for other, files in state.sets.items()
    }
    removable = own_sets(state.folder, {k: v for k, v in there.items() if v}, layout)
    left: Gone = {path: None for files in removable.values() for path in files}
    if left:
        _put_away(state, name, left, note.keep)


def _move(
    staged: list[StagedFile],
    name: str,
    layout: Layout,
    destination: Destination,
    waiting: set[str],
    state: FolderState,
) -> list[WrittenFile]:
    """Move files to the names of a set, where the previous attempt has not."""
    folder, count = destination.folder, f"{len(staged):05d}"
    there = {*state.sets.get(name, []), *state.gone_sets.get(name, {})}
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
