"""Put many small files of a folder together in few: `pipeline | CompactVectors("vectors")`.

    files that count --> Plan --> groups of small files --> Together --> Commit: new files, and a
                                                                         note of the old ones

What meets in Plan: nothing, it spreads groups of files over the workers.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import check_visible
from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.shuffle.spread_parts import ReadParts, SpreadParts
from beam_gpte.sinks.commit import commit_once
from beam_gpte.sinks.final_names import Destination, WrittenFile
from beam_gpte.sinks.folders.commit_rewritten import Rewritten, commit_changes
from beam_gpte.sinks.folders.parquet_folder import LAYOUT, PREFIX, own_files
from beam_gpte.sinks.folders.rewrite_files import (
    Place,
    Room,
    empty_file,
    read_schema,
    together,
)
from beam_gpte.sinks.runs.launch import Stager
from beam_gpte.sinks.runs.outputs import Output, place_key
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE

LOOKING = 16  # files that are looked at at a time

Group = tuple[str, ...]  # paths within the folder


@dataclasses.dataclass(eq=False)
class CompactVectors(beam.PTransform):
    """Put small files of a folder of `WriteVectorsToParquet` together in few; give the new ones.

    Files of one partition and one schema are put together, in the order of their names, with their
    rows in order. Nothing is lost or seen twice if it is killed; readers see the old files or the
    new ones; a stream may append meanwhile, and whatever it has committed is known to be. A reader
    that listed the old files and has not opened them fails, unless they are kept.

    Attributes:
      path: the folder, local or on any Beam file system.
      max_bytes_per_file: on the disk. Files of more than half of it stay as they are.
      keep_previous: the old files stay in a hidden folder until the next replacement.

    Raises, while the job runs:
      InputError: another run replaces files at the same time.
    """

    path: str
    max_bytes_per_file: int = MAX_BYTES_PER_FILE
    keep_previous: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to compact")
        if self.max_bytes_per_file < 1:
            raise InputError(
                f"max_bytes_per_file is {self.max_bytes_per_file}; "
                "give a number of bytes, 1 or more"
            )

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[WrittenFile]:
        """Plan groups of files, write each as one, and commit them all."""
        step = type(self).__name__
        with naming(step):
            destination = Destination.new(self.path, "parquet")
        plan = functools.partial(plan_groups, destination.folder, self.max_bytes_per_file)
        combine = beam.ParDo(_Together(step, destination.folder, destination.temporary))
        changes = (
            root
            | "Plan" >> SpreadParts(InStep(step, plan), Group)
            | "Together" >> combine.with_output_types(Rewritten)
        )
        commit = functools.partial(
            commit_changes, destination=destination, keep_previous=self.keep_previous
        )
        place = f"folder {self.path}", place_key(PREFIX, self.path)
        output = Output(*place, None, True, None, destination.temporary)
        return commit_once(step, changes, commit, output)


def plan_groups(folder: str, max_bytes: int) -> list[Group]:
    """Choose the files to put together: those of one partition and schema, in order."""
    files = own_files(folder)
    places = [Place.within(folder, path) for path in files]
    paths = [place.path for place in places]
    with concurrent.futures.ThreadPoolExecutor(LOOKING) as looking:
        sizes = list(looking.map(_size, paths))
        schemas = list(looking.map(read_schema, paths))
    check_visible({name for schema in schemas for name in schema.names})
    small = [i for i, size in enumerate(sizes) if size <= max_bytes / 2]
    kinds = {i: (places[i].partition, schemas[i].serialize().to_pybytes()) for i in small}
    small.sort(key=lambda i: (kinds[i], files[i]))
    groups: list[Group] = []
    for _, some in itertools.groupby(small, key=lambda i: kinds[i]):
        groups += _fill([(files[i], sizes[i]) for i in some], max_bytes)
    return [group for group in groups if len(group) > 1]


@dataclasses.dataclass(frozen=True)
class Size:
    """Say how many files of a folder count, and their bytes on the disk."""

    files: int
    bytes: int


def size_of(folder: str) -> Size:
    """Look at the files of a folder that count now."""
    paths = [FileSystems.join(folder, path) for path in own_files(folder)]
    with concurrent.futures.ThreadPoolExecutor(LOOKING) as looking:
        return Size(len(paths), sum(looking.map(_size, paths)))


def _fill(files: list[tuple[str, int]], max_bytes: int) -> Iterator[Group]:
    group: list[str] = []
    total = 0
    for path, size in files:
        if group and total + size > max_bytes:
            yield tuple(group)
            group, total = [], 0
        group.append(path)
        total += size
    yield tuple(group)


def _size(path: str) -> int:
    return int(FileSystems.match([path])[0].metadata_list[0].size_in_bytes)


class _Together(ReadParts):
    """Write each group of files as one."""

    def __init__(self, step: str, folder: str, temporary: str) -> None:
        self._step = step
        self._folder = folder
        self._temporary = temporary
        self._stager = Stager()

    def read(self, part: Group) -> Iterator[Rewritten]:
        """Report each file of a group; the first with what takes the place of all."""
        places = [Place.within(self._folder, path) for path in part]
        room = Room(self._temporary, self._stager.token)
        with naming(self._step):
            new = together(places, room) or empty_file(places[0], room)
        digests = [LAYOUT.digest(place.path, place.partition) for place in places]
        for number, (path, digest) in enumerate(zip(part, digests, strict=True)):
            yield Rewritten(path, False, True, new if number == 0 else None, digest)
