"""Describe the texts of pairs, and drop pairs of odd lengths: `pairs | FilterLengths(2.0)`.

pairs --> ratios of lengths --> median --> pairs with new columns, without those far from it

What meets: the ratios of all pairs, counted. They are known once a threshold has chosen these.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import TEXT
from beam_gpte.core.mining.posterior import (
    BIN,
    NO_SCORES,
    Histogram,
    histogram,
    merge_histograms,
)
from beam_gpte.core.text.normalize import normalize
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import block_of, frame_of

# float64: target characters per source character, divided by the median of this ratio
LENGTH_RATIO = "length_ratio"
SAME_NUMBERS = "same_numbers"  # bool: both texts have the same numbers, equally often
# float32: character trigrams that both texts share (Dice), 1 for equal texts
CHAR_OVERLAP = "char_overlap"
SOURCE_TEXT, TARGET_TEXT = f"source_{TEXT}", f"target_{TEXT}"
NGRAM = 3


@dataclasses.dataclass(frozen=True)
class LengthRatios:
    """Count pairs by their ratio of lengths, as far as the median and the limit need it.

    The median is the middle of a bin of `logs`, b; so whether a pair lies beyond the limit is a
    matter of whether a whole number, of the pair and the limit, is above or below b.

    Attributes:
      pairs: how many there are, those without texts included.
      logs: of the binary logarithms of ratios.
      first_above: by the smallest b that a pair does not exceed by more than the limit.
      last_below: by the largest b that a pair does not fall short of by more than the limit.
    """

    pairs: int = 0
    logs: Histogram = NO_SCORES
    first_above: Histogram = NO_SCORES
    last_below: Histogram = NO_SCORES

    @property
    def middle(self) -> int:
        """The bin of the median."""
        return int(self.logs.bins[np.searchsorted(np.cumsum(self.logs.counts), self._half())])

    @property
    def median(self) -> float:
        """The median ratio; 1 if there is none."""
        return float(2 ** ((self.middle + 0.5) * BIN)) if self.logs.total else 1.0

    def figures(self) -> dict[str, Any]:
        """Return the figures of the report."""
        dropped = 0
        if self.logs.total:
            dropped += int(self.first_above.counts[self.first_above.bins > self.middle].sum())
            dropped += int(self.last_below.counts[self.last_below.bins < self.middle].sum())
        return {
            "pairs": self.pairs - dropped,
            "dropped_by_length": dropped,
            "length_ratio_median": round(self.median, 6),
        }

    def _half(self) -> int:
        return (self.logs.total + 1) // 2


class _CountRatios(beam.CombineFn):
    def __init__(self, limit: float | None) -> None:
        self._limit = limit

    def create_accumulator(self) -> LengthRatios:
        return LengthRatios()

    def add_input(self, accumulator: LengthRatios, block: Block) -> LengthRatios:
        logs = _log_ratios(block)
        part = LengthRatios(len(block), histogram(logs))
        if self._limit is not None:
            first, last = map(_counts, _limits(logs, self._limit))
            part = dataclasses.replace(part, first_above=first, last_below=last)
        return self.merge_accumulators([accumulator, part])

    def merge_accumulators(self, accumulators: Iterable[LengthRatios]) -> LengthRatios:
        parts = list(accumulators)
        return LengthRatios(
            sum(part.pairs for part in parts),
            merge_histograms(part.logs for part in parts),
            merge_histograms(part.first_above for part in parts),
            merge_histograms(part.last_below for part in parts),
        )

    def extract_output(self, accumulator: LengthRatios) -> LengthRatios:
        return accumulator


class DescribedPairs(NamedTuple):
    """Hold the result of `FilterLengths`.

    Attributes:
      pairs: with `LENGTH_RATIO`, `SAME_NUMBERS` and `CHAR_OVERLAP`.
      ratios: a side input, the `LengthRatios` of all pairs.
    """

    pairs: beam.PCollection[Block]
    ratios: AsSingleton


@dataclasses.dataclass(eq=False)
class FilterLengths(beam.PTransform):
    """Add columns that help to find false pairs, and drop pairs of odd lengths.

    Pairs without texts stay as they are.

    Attributes:
      limit: pairs with a ratio above it, or below one over it, are dropped; None keeps all.
    """

    limit: float | None

    @named_collections
    def expand(self, pairs: beam.PCollection[Block]) -> DescribedPairs:
        """Return the pairs that are left."""
        ratios = (
            pairs | "Ratios" >> beam.CombineGlobally(_CountRatios(self.limit)).without_defaults()
        )
        known = AsSingleton(ratios, default_value=LengthRatios())
        describe = beam.FlatMap(_describe, known, self.limit).with_output_types(Block)
        return DescribedPairs(pairs | "DescribeTexts" >> describe, known)


def _log_ratios(block: Block) -> np.ndarray:
    """float64 (n,): base 2; a blank text counts as one character."""
    if SOURCE_TEXT not in block.schema.names or TARGET_TEXT not in block.schema.names:
        return np.zeros(0)
    lengths = frame_of([block]).select(
        pl.max_horizontal(pl.col(name).str.len_chars().fill_null(0), 1)
        for name in (SOURCE_TEXT, TARGET_TEXT)
    )
    return np.log2(lengths[TARGET_TEXT].to_numpy() / lengths[SOURCE_TEXT].to_numpy())


def _limits(logs: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the first and last bin, int64 (n,), of medians that a pair is within the limit of."""
    room = np.log2(limit)
    first = np.ceil((logs - room) / BIN - 0.5).astype(np.int64)
    last = np.floor((logs + room) / BIN - 0.5).astype(np.int64)
    return first, last


def _counts(bins: np.ndarray) -> Histogram:
    return Histogram(*np.unique(bins, return_counts=True))


def _describe(block: Block, known: LengthRatios, limit: float | None) -> Iterator[Block]:
    logs = _log_ratios(block)
    if not len(logs):
        yield block
        return
    frame = frame_of([block]).with_columns(pl.Series(LENGTH_RATIO, 2**logs / known.median))
    if limit is not None:
        first, last = _limits(logs, limit)
        frame = frame.filter((first <= known.middle) & (known.middle <= last))
    if len(frame):
        source, target = (
            pl.col(name).str.normalize("NFKC").str.extract_all(r"\d+")
            for name in (SOURCE_TEXT, TARGET_TEXT)
        )
        same = (source.list.sort() == target.list.sort()).alias(SAME_NUMBERS)
        overlaps = pl.Series(CHAR_OVERLAP, _overlaps(frame), pl.Float32)
        yield block_of(frame.with_columns(same, overlaps), [block.schema])


def _overlaps(frame: pl.DataFrame) -> list[float]:
    texts = frame.select(
        normalize(pl.col(name).fill_null("")).alias(name) for name in (SOURCE_TEXT, TARGET_TEXT)
    )
    return [_dice(_ngrams(a), _ngrams(b)) for a, b in texts.rows()]


def _ngrams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i : i + NGRAM] for i in range(max(1, len(padded) - NGRAM + 1))}


def _dice(a: set[str], b: set[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b))
