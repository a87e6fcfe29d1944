"""Keep what a commit has replaced, until the next replacement: for a rollback, and late readers.

    <folder>/.beam-gpte-previous-<set>/begun.kept
                                      /<path>.kept

A reader that listed the folder before the commit finds the files there that it has not read yet.
"""

import glob
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_gpte.files.folders import is_remote, remove_files, remove_folder
from beam_gpte.sinks.final_names import partitioned_folder

PREVIOUS = ".beam-gpte-previous-"
KEPT = ".kept"  # not .parquet: Polars and DuckDB follow `**/*.parquet` into hidden folders
BEGUN = f"begun{KEPT}"  # there until what is kept goes; alone where nothing was replaced


def keep_files(folder: str, name: str, paths: list[str]) -> None:
    """Move files that a set has replaced, where the previous attempt has not."""
    begin_to_keep(folder, name)
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


def begin_to_keep(folder: str, name: str) -> None:
    """Begin to keep what a set replaces, which may be nothing."""
    begun = FileSystems.join(folder, f"{PREVIOUS}{name}", BEGUN)
    if not is_remote(folder):
        Path(begun).parent.mkdir(parents=True, exist_ok=True)
    with FileSystems.create(begun) as file:
        file.write(b"\n")  # Beam 2.77 cannot write an empty object to S3


def kept_sets(folder: str, prefix: str) -> dict[str, list[str]]:
    """List the paths that are kept, within the folder, by the set that has replaced them."""
    return {
        name: [path.removesuffix(KEPT) for path in paths if path != BEGUN]
        for name, paths in _kept_files(folder, prefix).items()
        if BEGUN in paths
    }


def _kept_files(folder: str, prefix: str) -> dict[str, list[str]]:
    """List the folders of what is kept, by their sets, with all files in each."""
    start = f"{PREVIOUS}{prefix}-"
    found: dict[str, list[str]] = {}
    if is_remote(folder):
        base = FileSystems.join(folder, "")
        pattern = FileSystems.join(glob.escape(folder), f"{start}*", "**")
        files = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
        for path in sorted(files):
            name, _, inside = path.removeprefix(base).removeprefix(PREVIOUS).partition("/")
            found.setdefault(name, []).append(inside)
        return found
    for place in sorted(Path(folder).glob(f"{glob.escape(start)}*")):
        inside = sorted(str(path.relative_to(place)) for path in place.glob(f"**/*{KEPT}"))
        found[place.name.removeprefix(PREVIOUS)] = inside
    return found


def remove_previous(folder: str, prefix: str, keep: str | None = None) -> None:
    """Delete what is kept, but for what the set `keep` has replaced."""
    for name in _kept_files(folder, prefix).keys() - {keep}:
        remove_kept(folder, name)


def remove_kept(folder: str, name: str) -> None:
    """Delete what is kept of what a set has replaced; what a kill leaves of it is not kept."""
    place = FileSystems.join(folder, f"{PREVIOUS}{name}")
    if not is_remote(folder):
        Path(place, BEGUN).unlink(missing_ok=True)
        remove_folder(place)
        return
    found = FileSystems.match([FileSystems.join(glob.escape(place), "**")])[0].metadata_list
    remove_files(sorted((file.path for file in found), key=lambda path: not path.endswith(BEGUN)))


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
