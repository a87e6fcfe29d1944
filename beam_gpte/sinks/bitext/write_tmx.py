"""Write pairs of texts as a translation memory: `pairs | WriteTmx(path, "de", "en")`.

pairs --> StageFiles: sorted units --> commit: merge, write XML, rename
"""

import dataclasses
import functools
import importlib.metadata
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import apache_beam as beam

from beam_gpte.core.errors import InputError
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.sinks.bitext.commit_units import write_units
from beam_gpte.sinks.bitext.languages import check_languages
from beam_gpte.sinks.bitext.units import ID_LISTS, Unit, UnitColumns
from beam_gpte.sinks.final_names import WrittenFile

# what XML 1.0 has no way to write, not even as a reference
_ILLEGAL = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
REPLACEMENT = "\ufffd"


@dataclasses.dataclass(eq=False)
class WriteTmx(TakesFrames):
    """Write pairs of texts to one file of TMX 1.4, which tools of translators read.

    Takes the pairs of `MineBitext` or `ScoreBitext`, the beads of `AlignDocuments`, or any rows
    with `source_text` and `target_text`. Gives a `WrittenFile`. The file becomes exactly this
    collection and appears complete or not at all; one of an earlier run is replaced. Pairs without
    a text on one side, such as skipped sentences, are left out and counted as
    ``pairs_without_text``. Without any pair the file has none.

    Each pair is a ``tu`` with two ``tuv``; ids, scores and other `values` are its ``prop``, of the
    type ``x-`` and the column's name. A list becomes one ``prop`` for each value, of `source_ids`
    and `target_ids` as ``x-source_id`` and ``x-target_id``. Characters that XML lacks, such as most
    control characters, become U+FFFD.

    The units are in the order of `order`, then of their ids, then of their texts, whatever the
    order of the rows, the blocks or the workers. Memory of a worker: 32 MB of pairs, some times as
    much as Python's values; the commit, by one worker, holds a line of each of 128 files.

    Attributes:
      path: the file, local or on any Beam file system.
      source_language: the code of the sources' language, such as ``de`` or ``pt-BR``.
      target_language: that of the targets'.
      order: the columns that pairs are ordered by, for beads such as
        ``("document", "source_start", "target_start")``.
      values: the columns that are written beside the texts; None for the ids, and the scores that
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
            raise InputError(f"path is {self.path!r}; name the file to write to")
        check_languages(self.source_language, self.target_language)
        self._columns()

    def _columns(self) -> UnitColumns:
        return UnitColumns.of(self.order, self.values)

    def expand(self, pairs: beam.PCollection) -> beam.PCollection[WrittenFile]:
        """Write rows or blocks."""
        languages = self.source_language, self.target_language
        write = functools.partial(write_tmx, languages)
        step, paths = type(self).__name__, [self.path]
        return write_units(step, pairs, self._columns(), "tmx", paths, write, self.commit_after)


def write_tmx(languages: tuple[str, str], units: Iterator[Unit], files: list[BinaryIO]) -> int:
    """Write units to a file of TMX 1.4.

    Args:
      languages: of the sources and of the targets.
      units: in order.
      files: the one to write to.

    Returns:
      How many units there were.
    """
    (file,) = files
    version = importlib.metadata.version("beam_gpte")
    header = {
        "creationtool": "beam_gpte",
        "creationtoolversion": version,
        "segtype": "sentence",
        "o-tmf": "beam_gpte",
        "adminlang": "en",
        "srclang": languages[0],
        "datatype": "plaintext",
    }
    attributes = " ".join(f"{name}={quoteattr(value)}" for name, value in header.items())
    file.write(
        '<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4">\n'
        f"  <header {attributes}/>\n  <body>\n".encode()
    )
    count = 0
    for unit in units:
        file.write(unit_element(unit, languages).encode())
        count += 1
    file.write(b"  </body>\n</tmx>\n")
    return count


def unit_element(unit: Unit, languages: tuple[str, str]) -> str:
    """Write a unit as an element ``tu``."""
    lines = ["    <tu>"]
    for name, value in unit.values.items():
        kind = quoteattr(_legal("x-" + (name.removesuffix("s") if name in ID_LISTS else name)))
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                lines.append(f"      <prop type={kind}>{_content(one)}</prop>")
    for language, text in zip(languages, unit.texts, strict=True):
        lines.append(f"      <tuv xml:lang={quoteattr(language)}><seg>{_content(text)}</seg></tuv>")
    return "\n".join([*lines, "    </tu>", ""])


def _content(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # a parser would take a carriage return for a line break
    return escape(_legal(text), {"\r": "&#13;"})


def _legal(text: str) -> str:
    return _ILLEGAL.sub(REPLACEMENT, text)
