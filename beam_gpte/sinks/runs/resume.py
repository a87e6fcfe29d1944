"""Let a step that computes vectors know, once the pipeline is submitted, which sinks write them.

    EmbedText is built --> the sinks are built --> run() pickles EmbedText, with their folders
                                                                                 |
                                      workers: `ComputedVectors` beside the sinks <

A step is built before the sinks, and Beam pickles it when it is built and again when it is
submitted. A `ResumePoint` is pickled as its number, by which this process finds the same object
again, and as the folders that are known by then.
"""

import threading
import uuid
import weakref

import apache_beam as beam

from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.sinks.runs.computed_vectors import ComputedVectors
from beam_gpte.sinks.runs.outputs import whole_outputs_of

Folders = tuple[str, ...]

_points: "weakref.WeakValueDictionary[str, ResumePoint]" = weakref.WeakValueDictionary()
_shared: weakref.WeakValueDictionary[tuple[Folders, str], ComputedVectors] = (
    weakref.WeakValueDictionary()
)
_lock = threading.Lock()


class ResumePoint:
    """Give a step the vectors that a killed run of the same outputs has left."""

    def __init__(self, number: str = "", folders: Folders = ()) -> None:
        self._number = number or uuid.uuid4().hex
        self._known = folders
        self._gives: weakref.ref[beam.PCollection] | None = None
        self._vectors: dict[str, ComputedVectors | None] = {}
        _points[self._number] = self

    def watch(self, gives: beam.PCollection) -> None:
        """Remember what the step gives."""
        self._gives = weakref.ref(gives)

    def folders(self) -> Folders:
        """Return the temporary folders of the sinks that write what the step gives."""
        gives = None if self._gives is None else self._gives()
        return self._known if gives is None else tuple(whole_outputs_of(gives))

    def vectors(self, metadata: VectorMetadata) -> ComputedVectors | None:
        """Return the vectors of a model; None if no sink commits all rows at once."""
        with _lock:
            if metadata.identity not in self._vectors:
                self._known = self.folders()
                key = self._known, metadata.identity
                shared = _shared.get(key) if self._known else None
                if self._known and shared is None:
                    shared = _shared[key] = ComputedVectors(self._known, metadata)
                self._vectors[metadata.identity] = shared
            return self._vectors[metadata.identity]

    def __reduce__(self) -> tuple:
        """Pickle as a number and folders."""
        return _point, (self._number, self.folders())


def _point(number: str, folders: Folders) -> ResumePoint:
    with _lock:
        return _points.get(number) or ResumePoint(number, folders)
