"""Write pairs of texts as two files aligned by line: `pairs | WriteMoses(path, "de", "en")`.

pairs --> StageFiles: sorted units --> commit: merge, write three files, rename
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

import apache_beam as beam

from beam_gpte.core.errors import InputError
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.sinks.bitext.commit_units import write_units
from beam_gpte.sinks.bitext.languages import check_languages
from beam_gpte.sinks.bitext.units import Unit, UnitColumns
from beam_gpte.sinks.final_names import WrittenFile

# all that some tool ends a line at, and the blanks around it
_BREAKS = re.compile("\\s*[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]\\s*")
_UNESCAPED = re.compile("[\x7f-\x9f\u2028\u2029]")  # those that JSON leaves as they are
IDS = "ids.jsonl"


@dataclasses.dataclass(eq=False)
class WriteMoses(TakesFrames):
    """Write pairs of texts to files of one line per pair, as Moses and OPUS have them.

    Takes the pairs of `MineBitext` or `ScoreBitext`, the beads of `AlignDocuments`, or any rows
    with `source_text` and `target_text`. The files are ``<path>.<source_language>``,
    ``<path>.<target_language>`` and ``<path>.ids.jsonl``: the same line of each is of one pair, in
    the third a JSON object of its ids, scores and other `values`. Gives a `WrittenFile` for each.

    A line break of any kind in a text becomes one blank, with the white space around it; other
    characters stay, ``|`` too. The files become exactly this collection, and appear when all are
    complete; those of an earlier run are replaced. They are renamed one after the other, the third
    last, after the previous ones are removed: a run that is killed at that moment leaves some of
    the three out, never lines of two runs side by side. Pairs without a text on one side are left
    out and counted as ``pairs_without_text``. Order and memory are those of `WriteTmx`.

    Attributes:
      path: the beginning of the files' paths, local or on any Beam file system.
      source_language: the code of the sources' language, such as ``de`` or ``pt-BR``.
      target_language: that of the targets'.
      order: the columns that pairs are ordered by, for beads such as
        ``("document", "source_start", "target_start")``.
      values: the columns that are written to the third file; None for the ids, and the scores that
        mining and alignment give.
      commit_after: nothing appears under its final name before this collection is complete, or if
        computing it fails.
    """

    path: str
    source_language: str
    target_language: str
    order: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.path or self.path.endswith("/"):
            raise InputError(f"path is {self.path!r}; name the beginning of the files' names")
        check_languages(self.source_language, self.target_language)
        self._columns()

    def _columns(self) -> UnitColumns:
        return UnitColumns.of(self.order, self.values)

    def expand(self, pairs: beam.PCollection) -> beam.PCollection[WrittenFile]:
        """Write rows or blocks."""
        names = self.source_language, self.target_language, IDS
        paths = [f"{self.path}.{name}" for name in names]
        step = type(self).__name__
        return write_units(
            step, pairs, self._columns(), "moses", paths, write_moses, self.commit_after
        )


def write_moses(units: Iterator[Unit], files: list[BinaryIO]) -> int:
    """Write units to a file of sources, one of targets, and one of what is beside them.

    Returns:
      How many units there were.
    """
    count = 0
    for unit in units:
        beside = _UNESCAPED.sub(_escaped, json.dumps(unit.values, ensure_ascii=False))
        for file, line in zip(files, (*map(one_line, unit.texts), beside), strict=True):
            file.write(f"{line}\n".encode())
        count += 1
    return count


def one_line(text: str) -> str:
    """Replace line breaks, and the white space around them, by one blank."""
    return _BREAKS.sub(" ", text).strip()


def _escaped(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"
