"""Put the previous state of a folder back, where it was kept.

kept files --> copies --> one commit, in place of the files that had replaced them
"""

from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.folders import copy_file, is_remote, remove_folder
from beam_gpte.sinks.final_names import (
    ROLLED_BACK,
    Destination,
    WrittenFile,
    is_rolled_back,
    run_of,
)
from beam_gpte.sinks.folders.commit_rewritten import Rewritten, commit_rewritten
from beam_gpte.sinks.folders.parquet_folder import LAYOUT, PREFIX
from beam_gpte.sinks.folders.rewrite_files import Place, Room, empty_file, read_schema
from beam_gpte.sinks.runs.folder_state import FolderState
from beam_gpte.sinks.runs.leftovers import unfinished_folders
from beam_gpte.sinks.runs.previous_state import kept_file, kept_sets
from beam_gpte.sinks.runs.publish import finish_replacements, one_at_a_time
from beam_gpte.sinks.staging import StagedFile


def roll_back(path: str, keep_previous: bool = False) -> list[WrittenFile]:
    """Put back what the last replacement of a folder has replaced; what was added since stays.

    Readers see the rows before or after. It may be repeated after a kill, and undone with
    `keep_previous`.

    Args:
      path: the folder, local or on any Beam file system.
      keep_previous: keep what is replaced now.

    Returns:
      The files that were put back.

    Raises:
      InputError: nothing is kept there.
    """
    destination = Destination.new(path, "parquet")
    folder = destination.folder
    with one_at_a_time(folder):
        state = finish_replacements(destination, LAYOUT)
        done = _unfinished(destination, state)
        if done is not None:
            return done
        kept = kept_sets(folder, PREFIX)
        name = _last(kept, state)
        if name is None:
            raise InputError(
                f"{folder}: no previous state is kept; write with keep_previous to have one"
            )
        _begin(destination)
        copies = [_copy(folder, name, path, destination) for path in kept[name]]
        replaced = [_replaced(folder, path, destination) for path in state.counting[name]]
        return commit_rewritten(copies, replaced, destination, keep_previous, pane=ROLLED_BACK)


def _unfinished(destination: Destination, state: FolderState) -> list[WrittenFile] | None:
    """Find what a rollback has committed that was killed before its end; this ends it."""
    folders = unfinished_folders(destination)
    for name, files in state.counting.items():
        run = run_of(files[0])
        if is_rolled_back(name) and run in folders:
            remove_folder(folders[run])
            places = [Place.within(destination.folder, path) for path in files]
            return [
                WrittenFile(place.path, LAYOUT.digest(place.path, place.partition).rows)
                for place in places
            ]
    return None


def _begin(destination: Destination) -> None:
    """Keep the temporary folder until the end; in an object store that takes a file, which stays.

    The commit moves others, and in the last of them the rows may be that count from then on.
    """
    if is_remote(destination.folder):
        path = Room(destination.temporary, destination.launch.token).new_path()
        with FileSystems.create(path) as file:
            file.write(b"\n")  # Beam 2.77 cannot write an empty object to S3


def _last(kept: dict[str, list[str]], state: FolderState) -> str | None:
    """Find the set that has kept what it has replaced, if its rows are still there."""
    return next((name for name in kept if name in state.counting), None)


def _replaced(folder: str, path: str, destination: Destination) -> Rewritten:
    """Say that a file goes; what is left of it, if nothing is put back, is a file without rows."""
    place = Place.within(folder, path)
    new = empty_file(place, Room(destination.temporary, destination.launch.token))
    return Rewritten(path, False, True, new, LAYOUT.digest(place.path, place.partition))


def _copy(folder: str, name: str, path: str, destination: Destination) -> StagedFile:
    """Copy a file that is kept, to be committed again."""
    source, partition = kept_file(folder, name, path), Place.within(folder, path).partition
    room = Room(destination.temporary, destination.launch.token)
    target, schema = room.new_path(), read_schema(source)
    if not is_remote(folder):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    copy_file(source, target)
    digest = LAYOUT.digest(source, partition)
    return StagedFile(target, partition, digest.rows, 0, schema.serialize().to_pybytes())
