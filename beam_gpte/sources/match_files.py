"""Find the files that paths and globs name, by the same rules for every reader and file system.

pattern --> a file of exactly this name, or: all files below its folder --> matching --> not hidden
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.cloud import check_bucket
from beam_gpte.sinks.final_names import incomplete_files

WILDCARDS = re.compile(r"[*?\[]")
# of copies, temporary files and markers: ._x.jsonl, .x.jsonl.swp, _temporary/, _SUCCESS
HIDDEN_STARTS = (".", "_")
_ANY_FOLDERS = re.compile(r"(?<=/)\*\*/")


def match_files(patterns: str | Sequence[str]) -> list[FileMetadata]:
    """Find the files that `patterns` match, each once, sorted by path; see `find_files`.

    Files of sinks whose set is incomplete are left out, with a warning.

    Raises:
      InputError: a pattern matches no file, or none that counts, or a bucket cannot be used.
    """
    found: dict[str, FileMetadata] = {}
    for pattern in pattern_list(patterns):
        check_bucket(pattern)
        if pattern.endswith("/") or Path(pattern).is_dir():  # which Beam matches as a file
            raise InputError(
                f"{pattern!r} is a folder; "
                f"name the files in it, such as {pattern.rstrip('/')}/*.parquet"
            )
        try:
            matches, hidden = _visible(pattern)
        except (BeamIOError, ValueError, OSError) as error:
            raise InputError(f"cannot look for {pattern!r}: {error}; check the path") from error
        if not matches:
            raise InputError(f"no file matches {pattern!r}; {_repair(hidden)}")
        found.update((match.path, match) for match in _finished(pattern, matches))
    return [found[path] for path in sorted(found)]


def _finished(pattern: str, matches: list[FileMetadata]) -> list[FileMetadata]:
    """Leave out files of sets that a killed run left incomplete, or that appear now.

    Raises:
      InputError: there are no others.
    """
    partial = incomplete_files([match.path for match in matches])
    if not partial:
        return matches
    problem = (
        f"{pattern}: {len(partial)} files are of incomplete sets, as a killed run leaves them, "
        f"such as {min(partial)}"
    )
    if len(partial) == len(matches):
        raise InputError(
            f"{problem}; repeat that run, or rename the files to read them as they are"
        )
    logging.getLogger(__name__).warning("%s; they are left out", problem)
    return [match for match in matches if match.path not in partial]


def find_files(pattern: str) -> list[FileMetadata]:
    """Find the files that one absolute path or glob matches now, which may be none.

    A file of exactly this name is the only one that matches, whatever wildcards the name has. Else
    ``*``, ``?`` and ``[...]`` match within a name, ``**`` across folders, and ``**/`` any number of
    folders; where files match with ``[`` as it is, it stands for itself. The name of a file or
    folder that begins with a period or an underscore matches only a name in the pattern that does
    so too; ``_key=value`` is a partition.

    Raises:
      BeamIOError, ValueError or OSError: the file system does not answer.
    """
    return _visible(pattern)[0]


def pattern_list(patterns: str | Sequence[str]) -> list[str]:
    """Return all patterns, local ones absolute.

    So a worker in another working directory finds the same files.

    Raises:
      InputError: there is none.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise InputError(f"no file pattern in {patterns!r}; give a path or glob, or a list of them")
    return [
        pattern if FileSystems.get_scheme(pattern) else _from_root(pattern) for pattern in given
    ]


def _from_root(path: str) -> str:
    return os.path.abspath(path)  # Path.resolve() would follow links, to files without an extension


def _visible(pattern: str) -> tuple[list[FileMetadata], list[FileMetadata]]:
    """Find the files that match, and those that match but for a hidden name."""
    if FileSystems.exists(pattern):
        is_folder = Path(pattern).is_dir()
        return [] if is_folder else [FileSystems.get_filesystem(pattern).metadata(pattern)], []
    start = WILDCARDS.split(pattern, maxsplit=1)[0]
    if start == pattern:
        return [], []
    below = [
        file
        for file in FileSystems.match([f"{start}**"])[0].metadata_list
        if not file.path.endswith("/")  # a folder of Cloud Storage, as its console creates them
    ]
    found = _matching(below, pattern, brackets=False) or _matching(below, pattern, brackets=True)
    visible: list[FileMetadata] = []
    hidden: list[FileMetadata] = []
    for file in found:
        (hidden if _is_hidden(file.path, pattern) else visible).append(file)
    return visible, hidden


def _matching(files: list[FileMetadata], pattern: str, brackets: bool) -> list[FileMetadata]:
    def shown(text: str) -> str:
        return text if brackets else text.replace("[", "\0")

    if not brackets and "[" not in pattern:
        return []
    pieces = [
        FileSystem.translate_pattern(piece).removeprefix("(?ms)").removesuffix(r"\Z")
        for piece in _ANY_FOLDERS.split(shown(pattern))
    ]
    expression = re.compile("(?:.*/)?".join(pieces), re.DOTALL)
    return [file for file in files if expression.fullmatch(shown(file.path))]


def _is_hidden(path: str, pattern: str) -> bool:
    """Check for a hidden name in a path that no name of the pattern asks for."""
    known = WILDCARDS.split(pattern, maxsplit=1)[0].rpartition("/")[0] + "/"
    names = pattern.removeprefix(known).split("/")
    asked = [name for name in names if name.startswith(HIDDEN_STARTS)]
    return any(
        is_hidden_name(name) and not any(_matches_name(name, given) for given in asked)
        for name in path.removeprefix(known).split("/")
    )


def is_hidden_name(name: str) -> bool:
    """Check for the name of a file or folder that no glob or folder includes by itself."""
    return name.startswith(HIDDEN_STARTS) and not (name.startswith("_") and "=" in name)


def _matches_name(name: str, pattern: str) -> bool:
    return name == pattern or bool(re.match(FileSystem.translate_pattern(pattern), name))


def _repair(hidden: list[FileMetadata]) -> str:
    if not hidden:
        return "check the path"
    first = hidden[0].path.rsplit("/", 1)[-1]
    return (
        f"{len(hidden)} with a hidden name are left out, such as {first}; "
        "write the period or underscore into the pattern to read them"
    )
