"""Find the files that paths and globs name, by the same rules for every reader and file system.

pattern --> a file of exactly this name, or: all files below its folder --> matching --> not hidden

Of the local file system, what matches and is not to be opened is found too: see `local_files`.
"""

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import PurePath

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.folders import file_name
from beam_gpte.sinks.final_names import PUBLISHED
from beam_gpte.sinks.runs.folder_state import LISTINGS, incomplete_files
from beam_gpte.sources.local_files import BadFile, Listed, list_below, look_at

WILDCARDS = re.compile(r"[*?\[]")
# of copies, temporary files and markers: ._x.jsonl, .x.jsonl.swp, _temporary/, _SUCCESS
HIDDEN_STARTS = (".", "_")

# The signs of a pattern, and what they match: `**/` any number of folders, others within a name.
_PLAIN_SIGNS = r"(?:^|(?<=/))\*\*/|\*\*|."
_BRACKETS = r"\[(?:!(?:\][^\]]*|[^\]]+)|(?:\]|[^\]!])[^\]]*)\]"
_SIGNS = re.compile(f"{_BRACKETS}|{_PLAIN_SIGNS}", re.DOTALL)
_SIGNS_WITHOUT_BRACKETS = re.compile(_PLAIN_SIGNS, re.DOTALL)
_TRANSLATED = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def match_files(
    patterns: str | Sequence[str], bad: list[BadFile] | None = None
) -> list[FileMetadata]:
    """Find the files that `patterns` match, each once, sorted by path; see `find_files`.

    Files of sinks whose set is incomplete are left out, with a warning. A folder with an extension,
    such as ``x.parquet``, stands for the files in it with this extension.

    Args:
      patterns: paths or globs.
      bad: gets what matches and cannot be read; None refuses it.

    Raises:
      InputError: a pattern matches no file, or none that counts, or a bucket cannot be used.
    """
    found: dict[str, FileMetadata] = {}
    for pattern in pattern_list(patterns):
        check_bucket(pattern)
        matches, problems = _settled(pattern)
        if problems and bad is None:
            raise InputError(
                f"{problems[0].shown}: {problems[0].reason}, or collect such files with "
                ".with_exception_handling() (error_handling in YAML)"
            )
        if bad is not None:
            bad += [problem for problem in problems if problem not in bad]
        found.update((match.path, match) for match in matches)
    return [found[path] for path in sorted(found)]


def _settled(pattern: str) -> tuple[list[FileMetadata], list[BadFile]]:
    """Find the usable files of one pattern, all of one state where a sink is committing to them.

    Raises:
      InputError: there are none.
    """
    matches, problems = _usable(pattern)
    for _ in range(LISTINGS):
        paths = [match.path for match in matches]
        partial = incomplete_files(paths)
        if not any(PUBLISHED.fullmatch(file_name(path)) for path in paths):
            break
        matches, problems = _usable(pattern)  # again, after the look at sets and notes
        if paths == [match.path for match in matches]:
            break
    return _finished(pattern, matches, partial), problems


def _usable(pattern: str) -> tuple[list[FileMetadata], list[BadFile]]:
    """Find the files of one pattern, and what matches it but cannot be read.

    Raises:
      InputError: there is neither.
    """
    try:
        is_folder = pattern.endswith("/") or os.path.isdir(pattern)
        inside = _files_inside(pattern) if is_folder else None
        if is_folder and not (inside and any(_visible(inside))):
            raise InputError(
                f"{pattern!r} is a folder; "
                f"name the files in it, such as {pattern.rstrip('/')}/*.parquet"
            )
        listed, hidden = _visible(inside or pattern)
    except (BeamIOError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot look for {pattern!r}: {error}; check the path") from error
    if not listed:
        raise InputError(f"no file matches {pattern!r}; {_repair(hidden)}")
    files = [file for file in listed if not isinstance(file, BadFile)]
    return files, [file for file in listed if isinstance(file, BadFile)]


def _files_inside(folder: str) -> str | None:
    """Return the pattern of the files that a folder with an extension stands for."""
    extension = PurePath(folder).suffix
    return f"{folder.rstrip('/')}/**/*{extension}" if extension else None


def _finished(pattern: str, matches: list[FileMetadata], partial: set[str]) -> list[FileMetadata]:
    """Leave out files of sets that a killed run left incomplete, or that appear now.

    Raises:
      InputError: there are no others.
    """
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


def find_files(pattern: str) -> list[Listed]:
    """Find the files that one absolute path or glob matches now, which may be none.

    A file of exactly this name is the only one that matches, whatever wildcards the name has; so is
    a local folder. Else ``*``, ``?`` and ``[...]`` match within a name, ``**`` across folders, and
    ``**/`` any number of folders; where files match with ``[`` as it is, it stands for itself, as a
    backslash always does. The name of a file or folder that begins with a period or an underscore
    matches only a name in the pattern that does so too; ``_key=value`` is a partition.

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


def _visible(pattern: str) -> tuple[list[Listed], list[Listed]]:
    """Find the files that match, and those that match but for a hidden name."""
    local = FileSystems.get_scheme(pattern) is None
    if local and os.path.lexists(pattern):
        file = look_at(pattern)
        return [] if file is None else [file], []
    if not local and FileSystems.exists(pattern):
        return [FileSystems.get_filesystem(pattern).metadata(pattern)], []
    folder, rest = _literal_folder(pattern, local)
    if not WILDCARDS.search(rest):
        return [], []
    found = _matching(folder, rest, local, brackets=False) if "[" in rest else []
    found = found or _matching(folder, rest, local, brackets=True)
    visible: list[Listed] = []
    hidden: list[Listed] = []
    for file in found:
        (hidden if _is_hidden(file.path, folder, rest) else visible).append(file)
    return visible, hidden


def _literal_folder(pattern: str, local: bool) -> tuple[str, str]:
    """Split off the folder whose name is to be taken as it is, with its slash.

    It has no wildcards, but for those of local folders that have them in their names.
    """
    start = WILDCARDS.split(pattern, maxsplit=1)[0]
    folder = start[: start.rfind("/") + 1]
    names = pattern.removeprefix(folder).split("/")
    while local and len(names) > 1 and os.path.isdir(f"{folder}{names[0]}"):
        folder = f"{folder}{names.pop(0)}/"
    return folder, "/".join(names)


def _matching(folder: str, rest: str, local: bool, brackets: bool) -> list[Listed]:
    """Find all files below `folder` that match, hidden ones too."""

    def matches(name: str, part: str) -> bool:
        return _expression(part, brackets).fullmatch(name) is not None

    if not local:
        start = WILDCARDS.split(f"{folder}{rest}", maxsplit=1)[0]
        # not a folder of Cloud Storage, as its console makes them
        below = FileSystems.match([f"{start}**"])[0].metadata_list
        return [
            file
            for file in below
            if not file.path.endswith("/") and matches(file.path.removeprefix(folder), rest)
        ]
    return [
        file
        for file in list_below(folder, rest.split("/"), matches)
        if file.path.endswith("/") or matches(file.path.removeprefix(folder), rest)
    ]


@functools.lru_cache(256)
def _expression(pattern: str, brackets: bool) -> re.Pattern[str]:
    """Translate a pattern below a folder; without `brackets`, ``[`` stands for itself."""
    signs = (_SIGNS if brackets else _SIGNS_WITHOUT_BRACKETS).findall(pattern)
    try:
        return re.compile("".join(map(_translated, signs)), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a pattern ({error})") from error


def _translated(sign: str) -> str:
    """Translate one sign of a pattern; ``!`` in brackets means all but these, and no slash."""
    if len(sign) < 3 or sign[0] != "[":
        return _TRANSLATED.get(sign) or re.escape(sign)
    others = sign[1] == "!"
    inside = (c if c == "-" or c.isalnum() else f"\\{c}" for c in sign[1 + others : -1])
    return f"(?!/)[{'^' if others else ''}{''.join(inside)}]"


def _is_hidden(path: str, folder: str, rest: str) -> bool:
    """Check for a hidden name in a path below `folder` that no name of the pattern asks for."""
    asked = [name for name in rest.split("/") if name.startswith(HIDDEN_STARTS)]
    return any(
        is_hidden_name(name) and not any(_matches_name(name, given) for given in asked)
        for name in path.removeprefix(folder).split("/")
    )


def is_hidden_name(name: str) -> bool:
    """Check for the name of a file or folder that no glob or folder includes by itself."""
    return name.startswith(HIDDEN_STARTS) and not (name.startswith("_") and "=" in name)


def _matches_name(name: str, pattern: str) -> bool:
    return name == pattern or bool(_expression(pattern, True).fullmatch(name))


def _repair(hidden: list[Listed]) -> str:
    if not hidden:
        return "check the path"
    first = hidden[0].path.rsplit("/", 1)[-1]
    return (
        f"{len(hidden)} with a hidden name are left out, such as {first}; "
        "write the period or underscore into the pattern to read them"
    )
