"""Count what was found in documents: `parts | CombineGlobally(AddFigures())`.

What meets: the counts of all documents, and which items were found.
"""

import collections
import dataclasses
from collections.abc import Iterable

import apache_beam as beam

COPY = 0.8  # containment of a copy: contaminated by Llama 2's count (arXiv 2307.09288, A.6)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Count the findings of documents.

    Attributes:
      documents: all.
      removed: those removed as a whole.
      cut: those that spans were cut from.
      matches: findings.
      by_words: numbers of the items found by n-grams.
      by_meaning: numbers of the items found by meaning.
      of_benchmarks: documents with a finding, by benchmark.
      copies: pairs of a document and an item with `COPY` or more of its n-grams.
      copies_found: those of them found by meaning too.
    """

    documents: int = 0
    removed: int = 0
    cut: int = 0
    matches: int = 0
    by_words: frozenset[int] = frozenset()
    by_meaning: frozenset[int] = frozenset()
    of_benchmarks: tuple[tuple[str, int], ...] = ()
    copies: int = 0
    copies_found: int = 0


def add_figures(parts: Iterable[Figures]) -> Figures:
    """Add up the figures of several documents."""
    parts = list(parts)
    documents: collections.Counter[str] = collections.Counter()
    for part in parts:
        documents.update(dict(part.of_benchmarks))
    counts = ("documents", "removed", "cut", "matches", "copies", "copies_found")
    return Figures(
        **{name: sum(getattr(part, name) for part in parts) for name in counts},
        by_words=frozenset().union(*(part.by_words for part in parts)),
        by_meaning=frozenset().union(*(part.by_meaning for part in parts)),
        of_benchmarks=tuple(sorted(documents.items())),
    )


class AddFigures(beam.CombineFn):
    """Add up figures."""

    def create_accumulator(self) -> Figures:
        """Return no figures."""
        return Figures()

    def add_input(self, accumulator: Figures, part: Figures) -> Figures:
        """Add those of some documents."""
        return add_figures([accumulator, part])

    def merge_accumulators(self, accumulators: Iterable[Figures]) -> Figures:
        """Add up."""
        return add_figures(accumulators)

    def extract_output(self, accumulator: Figures) -> Figures:
        """Return the sums."""
        return accumulator
