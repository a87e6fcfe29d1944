"""Find the files that appear in a folder, and those that change under their name.

ticks --> NewFiles --> (path, changed)
             ^
 state: names and versions seen
"""

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import BagStateSpec

from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.sinks.runs.owner import Owner
from beam_gpte.sources.file_versions import version_of
from beam_gpte.sources.local_files import BadFile
from beam_gpte.sources.match_files import find_files


class NewFiles(beam.DoFn):
    """List files at each tick.

    Yields the path of a file that was never listed before, and False; or True, once, if it has
    changed since. In place of a path, once, what `BadFile.from_text` reads.
    """

    _SEEN = beam.DoFn.StateParam(BagStateSpec("seen", beam.coders.BytesCoder()))

    def __init__(self, patterns: list[str], owner: Owner | None = None) -> None:
        self._patterns, self._owner = patterns, owner

    def process(self, _: tuple[bytes, bytes], seen: Any = _SEEN) -> Iterator[tuple[str, bool]]:
        """Yield what is new since the last tick."""
        if self._owner is not None:
            self._owner.show_life()
        try:
            found = [file for pattern in self._patterns for file in find_files(pattern)]
        except (BeamIOError, ValueError, OSError) as error:
            # a service that does not answer now may do so at the next tick
            Metrics.counter(NAMESPACE, "listings_failed").inc()
            logging.getLogger(__name__).warning("cannot look for %s: %s", self._patterns, error)
            return
        known = set(seen.read())
        for bad in [file for file in found if isinstance(file, BadFile)]:
            digest = _digest(bad.path, bad.reason)
            if digest not in known:
                known.add(digest)
                seen.add(digest)
                yield bad.to_text(), False
        files = [file for file in found if not isinstance(file, BadFile)]
        for file in sorted(files, key=lambda file: (file.last_updated_in_seconds or 0, file.path)):
            name, version = _digest(file.path), _digest(file.path, version_of(file))
            is_new, changed = name not in known, _digest(file.path, "changed")
            if not is_new and (version in known or changed in known):
                continue
            for digest in (name, version) if is_new else (changed,):
                known.add(digest)
                seen.add(digest)
            yield file.path, not is_new


def _digest(path: str, *more: str) -> bytes:
    text = "\0".join((path, *more)).encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()
