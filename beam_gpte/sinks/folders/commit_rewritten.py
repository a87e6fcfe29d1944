"""Commit new files together with files that were written again, in place of the old ones.

    staged files, `Rewritten`s --> new set, with a note of the files that it replaces

A set of no rows is one empty file: the state changes when the last file of a set appears, so there
has to be one.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from apache_beam.metrics import Metrics

from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.sinks.final_names import REWRITTEN, Destination, Pane, WrittenFile
from beam_gpte.sinks.folders.parquet_folder import LAYOUT, check_folder, match_folder
from beam_gpte.sinks.folders.rewrite_files import Place, Room, empty_file, without_rows
from beam_gpte.sinks.parquet_files import conform_files, unify_staged_schemas
from beam_gpte.sinks.runs.folder_state import Gone
from beam_gpte.sinks.runs.leftovers import remove_leftovers, remove_staged
from beam_gpte.sinks.runs.previous_state import remove_previous
from beam_gpte.sinks.runs.publish import (
    Replacement,
    finish_replacements,
    one_at_a_time,
    publish,
)
from beam_gpte.sinks.runs.same_rows import Digest
from beam_gpte.sinks.staging import StagedFile

KINDS = ("added", "changed", "removed", "unchanged", "kept")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Count rows by what happens to them.

    Attributes:
      added: with a new id.
      changed: in place of a row of the same id.
      removed: without a row of the same id.
      unchanged: that stay as they are.
      kept: that stay since a row of the input was rejected.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    kept: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*map(sum, zip(ours, theirs, strict=True)))


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """Report a file that was looked at.

    Attributes:
      path: of a file that counts, within the folder; or of a staged one.
      is_staged: which of the two it is.
      is_replaced: whether rows of it go, so that `new` takes its place.
      new: the file that was written, without rows if none of a file that counts is left; None if
        none of a staged file is left, or another file has the rows.
      digest: of all rows that a file that counts had.
      counts: of its rows.
    """

    path: str
    is_staged: bool = False
    is_replaced: bool = False
    new: StagedFile | None = None
    digest: Digest | None = None
    counts: Counts = Counts()


def without(folder: str, path: str, going: np.ndarray, room: Room, counts: Counts) -> Rewritten:
    """Write a file that counts again without some rows; if all of them go, as one without rows."""
    place = Place.within(folder, path)
    new = without_rows(place, going, room) or empty_file(place, room)
    return Rewritten(path, False, True, new, LAYOUT.digest(place.path, place.partition), counts)


def commit_rewritten(
    staged: list[StagedFile],
    rewritten: Iterable[Rewritten],
    destination: Destination,
    keep_previous: bool = False,
    partition_by: tuple[str, ...] | None = None,
    pane: Pane = REWRITTEN,
) -> list[WrittenFile]:
    """Publish staged files, as far as they were not written again, and what was written again.

    May be repeated. Call this within `one_at_a_time`.

    Args:
      staged: new files.
      rewritten: files that count, and staged ones.
      destination: the run.
      keep_previous: keep what is replaced.
      partition_by: the columns of the folders of new rows; None if there are none.
      pane: names the new set.

    Returns:
      The new files.

    Raises:
      InputError: the new rows do not fit those that stay.
    """
    looked_at = sorted(rewritten, key=lambda one: (one.is_staged, one.path))
    instead = {one.path: one.new for one in looked_at if one.is_staged and one.is_replaced}
    replaced = [one for one in looked_at if one.is_replaced and not one.is_staged]
    files = [_instead(file, instead) for file in staged] + [one.new for one in replaced]
    found = sorted((file for file in files if file is not None), key=lambda file: file.path)
    new = [file for file in found if file.rows] or found[:1]
    gone: Gone = {one.path: one.digest for one in replaced}
    written: list[WrittenFile] = []
    if new or gone:
        schema = unify_staged_schemas(new)
        # of others, rows stay
        empty = [one.path for one in replaced if one.new is None or not one.new.rows]
        check_folder(destination.folder, schema, empty)
        if partition_by is not None:
            schema = match_folder(destination.folder, schema, partition_by, empty)
        conform_files(new, schema)
        replacement = Replacement(gone, keep_previous)
        written = publish(new, destination, pane, LAYOUT, replacement)
    else:
        finish_replacements(destination, LAYOUT)
    remove_staged([*staged, *found], destination, finished=True)
    remove_leftovers(destination, exclusive=False)
    return written


def _instead(file: StagedFile, instead: dict[str, StagedFile | None]) -> StagedFile | None:
    """Return what was written in place of a staged file, for the same partition."""
    new = instead.get(file.path, file)
    return new and dataclasses.replace(new, partition=file.partition)


def commit_changes(
    rewritten: list[Rewritten], destination: Destination, keep_previous: bool
) -> list[WrittenFile]:
    """Publish what was written again, and nothing else; may be repeated."""
    with one_at_a_time(destination.folder):
        if not rewritten and not keep_previous:
            remove_previous(destination.folder, LAYOUT.prefix)
        written = commit_rewritten([], rewritten, destination, keep_previous)
    count_changes(sum((one.counts for one in rewritten), Counts()))
    return written


def count_changes(counts: Counts) -> None:
    """Count rows as counters of the job."""
    for kind in KINDS:
        Metrics.counter(NAMESPACE, f"rows_{kind}").inc(getattr(counts, kind))
