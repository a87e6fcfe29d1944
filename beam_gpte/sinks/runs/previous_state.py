"""Keep what a commit has replaced, until the next replacement: for a rollback, and late readers.

    <folder>/.beam-gpte-previous-<set>/<path>.kept

A reader that listed the folder before the commit finds the files there that it has not read yet.
"""

import glob
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import is_remote, remove_files, remove_folder
from beam_gpte.sinks.final_names import partitioned_folder

PREVIOUS = ".beam-gpte-previous-"
NOTHING = "nothing"  # a set that has replaced nothing can be rolled back too
KEPT = ".kept"  # not .parquet: Polars and DuckDB follow `**/*.parquet` into hidden folders


def keep_files(folder: str, name: str, paths: list[str]) -> None:
    """Move files that a set has replaced, where the previous attempt has not."""
    keep_nothing(folder, name)
    targets = {path: kept_file(folder, name, path) for path in paths}
    moves = [
        (source, target)
        for path, target in targets.items()
        if FileSystems.exists(source := FileSystems.join(folder, path))
    ]
    if not is_remote(folder):
        for _, target in moves:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
    if moves:
        FileSystems.rename([source for source, _ in moves], [target for _, target in moves])
    if not is_remote(folder):
        remove_files([source for source, _ in moves])  # no more than empty partitions


def keep_nothing(folder: str, name: str) -> None:
    """Begin to keep what a set replaces."""
    nothing = kept_file(folder, name, NOTHING)
    if not is_remote(folder):
        Path(nothing).parent.mkdir(parents=True, exist_ok=True)
    with FileSystems.create(nothing) as file:
        file.write(b"\n")  # Beam 2.77 cannot write an empty object to S3


def kept_sets(folder: str, prefix: str) -> dict[str, list[str]]:
    """List the paths that are kept, within the folder, by the set that has replaced them."""
    start = f"{PREVIOUS}{prefix}-"
    found: dict[str, list[str]] = {}
    if is_remote(folder):
        base = FileSystems.join(folder, "")
        pattern = FileSystems.join(glob.escape(folder), f"{start}*", "**")
        files = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
        paths = [path.removeprefix(base) for path in files]
    else:
        places = Path(folder).glob(f"{glob.escape(start)}*/**/*{KEPT}")
        paths = [str(path.relative_to(folder)) for path in places]
    for path in sorted(paths):
        name, _, inside = path.removeprefix(PREVIOUS).partition("/")
        known = found.setdefault(name, [])
        if inside != f"{NOTHING}{KEPT}":
            known.append(inside.removesuffix(KEPT))
    return found


def remove_previous(folder: str, prefix: str, keep: str | None = None) -> None:
    """Delete what is kept, but for what the set `keep` has replaced."""
    for name in kept_sets(folder, prefix).keys() - {keep}:
        remove_kept(folder, name)


def remove_kept(folder: str, name: str) -> None:
    """Delete what is kept of what a set has replaced."""
    place = FileSystems.join(folder, f"{PREVIOUS}{name}")
    if not is_remote(folder):
        remove_folder(place)
        return
    found = FileSystems.match([FileSystems.join(glob.escape(place), "**")])[0].metadata_list
    remove_files([file.path for file in found])


def find_kept(path: str) -> str | None:
    """Find what is kept of a file that is gone; None if it is not."""
    folder, name = partitioned_folder(path), path.rpartition("/")[2]
    inside = path[len(folder.rstrip("/")) + 1 :]
    for replaced_by, paths in kept_sets(folder, name.partition("-")[0]).items():
        if inside in paths:
            return kept_file(folder, replaced_by, inside)
    return None


def kept_file(folder: str, name: str, path: str) -> str:
    """Return where a file is that a set has replaced."""
    return FileSystems.join(folder, f"{PREVIOUS}{name}", f"{path}{KEPT}")
