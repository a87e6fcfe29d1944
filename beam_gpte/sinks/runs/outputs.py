"""Remember the sinks of a pipeline, and refuse two of which one would lose the other's rows.

The rows of one sink are lost to another of the same place if both have the same run, or if one
replaces what is there, unless the other waits for it. Nor can one path be a file and a folder, or
two kinds of file.
"""

import dataclasses
import os

import apache_beam as beam

from beam_gpte.core.errors import InputError
from beam_gpte.files.folders import is_remote


@dataclasses.dataclass(frozen=True)
class Output:
    """Describe what one sink of a pipeline writes.

    Attributes:
      place: in words, as "folder out".
      key: the same for all names of the place.
      run: its name, if the user gave one.
      replaces: whether it removes what others have written there.
      commit_after: what it waits for.
      temporary: the folder of its staged files, if it has any.
      is_whole: whether it commits once, all rows.
    """

    place: str
    key: tuple[str, ...]
    run: str | None
    replaces: bool
    commit_after: beam.PCollection | None
    temporary: str | None = None
    is_whole: bool = False


_ATTRIBUTE = "_beam_gpte_outputs"  # of a pipeline, with which the list goes


DATABASE, FILE = "duckdb", "file"  # kinds of places that are one file; others are folders


def place_key(kind: str, path: str, *parts: str) -> tuple[str, ...]:
    """Return what is the same for all names of a place: ``out``, ``./out/`` and links to it."""
    return (kind, path.rstrip("/") if is_remote(path) else os.path.realpath(path), *parts)


def check_outputs(pipeline: beam.Pipeline, output: Output) -> None:
    """Compare a sink that is built with those that the pipeline has.

    Raises:
      InputError: rows of one of them would be lost.
    """
    for other, written in _outputs(pipeline):
        if _is_in_a_file(other.key, output.key) or _is_in_a_file(output.key, other.key):
            raise InputError(
                f"another sink of this pipeline writes to {other.place}, where {output.place} "
                "cannot be; write to two places"
            )
        if other.key != output.key:
            continue
        if output.run is not None and output.run == other.run:
            raise InputError(
                f"another sink of this pipeline writes to {output.place} with run "
                f"{output.run!r}, and the rows of one would be lost; name another run, or "
                "beam.Flatten() the collections before one sink"
            )
        if output.replaces or (other.replaces and not _waits(output.commit_after, written)):
            raise InputError(
                f"another sink of this pipeline writes to {output.place}, and one of them "
                "removes the rows of the other; write to two places, or beam.Flatten() the "
                "collections before one sink"
            )


def _is_in_a_file(key: tuple[str, ...], file: tuple[str, ...]) -> bool:
    """Return whether a place is at or below the path of a file of another kind."""
    kind, path = file[:2]
    return kind in (DATABASE, FILE) and kind != key[0] and f"{key[1]}/".startswith(f"{path}/")


def add_output(pipeline: beam.Pipeline, output: Output, written: beam.PCollection) -> None:
    """Remember a sink that was built, and the files or rows that it gives."""
    _outputs(pipeline).append((output, written))


def temporary_folders(pipeline: beam.Pipeline) -> list[str]:
    """List the folders in which the sinks of a pipeline stage files."""
    return [output.temporary for output, _ in _outputs(pipeline) if output.temporary]


def whole_outputs_of(collection: beam.PCollection) -> list[str]:
    """List the temporary folders of those sinks that commit once, and write what this gives."""
    return [
        output.temporary
        for output, written in _outputs(collection.pipeline)
        if output.temporary and output.is_whole and _waits(written, collection)
    ]


def _outputs(pipeline: beam.Pipeline) -> list[tuple[Output, beam.PCollection]]:
    return vars(pipeline).setdefault(_ATTRIBUTE, [])


def _waits(commit_after: beam.PCollection | None, written: beam.PCollection) -> bool:
    """Return whether a collection is computed from another, so that it completes later."""
    waiting = [] if commit_after is None else [commit_after]
    seen: set[beam.PCollection] = set()
    while waiting:
        collection = waiting.pop()
        if collection is written:
            return True
        producer = collection.producer
        if collection not in seen and producer is not None:
            seen.add(collection)
            waiting += [
                each for each in producer.main_inputs.values() if isinstance(each, beam.PCollection)
            ]
            waiting += [view.pvalue for view in producer.side_inputs]
    return False
