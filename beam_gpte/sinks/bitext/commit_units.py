"""Write all units to files that appear complete: `write_units(step, pairs, columns, target)`.

    pairs --> StageFiles: sorted units --> commit: merge, write, rename

The files are written in the temporary folder of the run, and renamed when all are complete.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, PassingInputError, naming
from beam_gpte.elements.rows import as_blocks
from beam_gpte.files.folders import file_name, is_remote, output_path, remove_files
from beam_gpte.sinks.bitext.units import MAX_BYTES, Unit, UnitColumns, UnitWriter, open_units
from beam_gpte.sinks.commit import stage_and_commit
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.runs.leftovers import remove_leftovers, remove_staged
from beam_gpte.sinks.runs.outputs import FILE, Output, place_key
from beam_gpte.sinks.runs.processes import at_work
from beam_gpte.sinks.staging import StagedFile, StageFiles, waiting_files

# Writes units to streams, one for each file; returns how many there were.
WriteUnits = Callable[[Iterator[Unit], list[BinaryIO]], int]
PARTIAL = ".partial"  # ends the names of files that are being written


def write_units(
    step: str,
    pairs: beam.PCollection,
    columns: UnitColumns,
    kind: str,
    paths: list[str],
    write: WriteUnits,
    commit_after: beam.PCollection | None,
) -> beam.PCollection[WrittenFile]:
    """Write the units of pairs to files in one folder.

    Args:
      step: the transform that the user wrote.
      pairs: rows of any kind.
      columns: that are read.
      kind: of the files, a word.
      paths: of the files.
      write: writes their content.
      commit_after: what they wait for.

    Raises:
      InputError: the pairs are a stream or windowed.
    """
    blocks = as_blocks(pairs, step=step)
    if not is_whole(blocks):
        raise InputError(
            f"{step}: a stream or windowed collection has no end, and the file is written once; "
            "use WriteVectorsToParquet with mode='append'"
        )
    with naming(step):
        targets = [output_path(path) for path in paths]
        folder = FileSystems.split(targets[0])[0]
        name = hashlib.sha256(file_name(targets[0]).encode()).hexdigest()[:8]
        destination = Destination.new(folder, f"{kind}{name}")
    open_writer = functools.partial(UnitWriter, columns)
    stage = StageFiles(step, destination.temporary, open_writer, MAX_BYTES)
    commit = functools.partial(commit_units, destination=destination, targets=targets, write=write)
    place = f"file {paths[0]}", place_key(FILE, paths[0])
    output = Output(*place, None, True, commit_after, destination.temporary)
    return stage_and_commit(step, blocks, stage, commit, output)


def commit_units(
    staged: list[StagedFile],
    _: Pane,
    destination: Destination,
    targets: list[str],
    write: WriteUnits,
) -> list[WrittenFile]:
    """Merge the staged units to the final files; may be repeated.

    Of several files the previous ones are removed first: a kill between two renames leaves files
    out, but never files of two runs beside each other.

    Raises:
      InputError: a staged file is missing, and the files are not there.
    """
    waiting = waiting_files(staged)
    missing = [file.path for file in staged if file_name(file.path) not in waiting]
    units = sum(file.rows for file in staged)
    if not missing:
        folder = at_work(destination.temporary)
        partial = [FileSystems.join(folder, file_name(target) + PARTIAL) for target in targets]
        units = _write([file.path for file in staged], partial, write)
        if len(targets) > 1 or is_remote(targets[0]):
            remove_files([target for target in targets if FileSystems.exists(target)])
        FileSystems.rename(partial, targets)
    elif not all(map(FileSystems.exists, targets)):
        raise PassingInputError(
            f"{missing[0]}: staged file is missing; let only one run at a time write to "
            f"{targets[0]}, and run again"
        )
    remove_staged(staged, destination, finished=True)
    remove_leftovers(destination, exclusive=True)
    return [WrittenFile(target, units) for target in targets]


def _write(staged: list[str], paths: list[str], write: WriteUnits) -> int:
    with contextlib.ExitStack() as stack, open_units(staged) as units:
        plain = CompressionTypes.UNCOMPRESSED
        files = [
            stack.enter_context(FileSystems.create(path, compression_type=plain)) for path in paths
        ]
        return write(units, files)
