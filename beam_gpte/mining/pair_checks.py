"""Describe the texts of pairs, and drop pairs of odd lengths: `pairs | FilterLengths(2.0)`.

pairs --> ratios of lengths --> median --> pairs with new columns, without those far from it
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import TEXT
from beam_gpte.core.mining.posterior import Histogram, histogram, merge_histograms
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


class DescribedPairs(NamedTuple):
    """Hold the result of `FilterLengths`.

    Attributes:
      pairs: with `LENGTH_RATIO`, `SAME_NUMBERS` and `CHAR_OVERLAP`.
      figures: a side input, one dict of counts.
    """

    pairs: beam.PCollection[Block]
    figures: AsSingleton


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
        logs = (
            pairs
            | "Ratios" >> beam.Map(_histogram)
            | "AllRatios" >> beam.CombineGlobally(merge_histograms).without_defaults()
        )
        known = AsSingleton(logs, default_value=merge_histograms([]))
        split = beam.FlatMap(_describe, known, self.limit).with_output_types(
            Block, counts=tuple[int, int]
        )
        described = pairs | "DescribeTexts" >> split.with_outputs("counts", main="pairs")
        counts = described.counts | "Counts" >> beam.CombineGlobally(_sums).without_defaults()
        figures = counts | "Figures" >> beam.Map(_figures, known).with_output_types(dict)
        none = _figures((0, 0), merge_histograms([]))
        return DescribedPairs(described.pairs, AsSingleton(figures, default_value=none))


def _log_ratios(block: Block) -> np.ndarray:
    """float64 (n,): base 2; a blank text counts as one character."""
    if SOURCE_TEXT not in block.schema.names or TARGET_TEXT not in block.schema.names:
        return np.zeros(0)
    lengths = frame_of([block]).select(
        pl.max_horizontal(pl.col(name).str.len_chars().fill_null(0), 1)
        for name in (SOURCE_TEXT, TARGET_TEXT)
    )
    return np.log2(lengths[TARGET_TEXT].to_numpy() / lengths[SOURCE_TEXT].to_numpy())


def _histogram(block: Block) -> Histogram:
    return histogram(_log_ratios(block))


def _median(logs: Histogram) -> float:
    if not logs.total:
        return 1.0
    return float(2 ** logs.middles[np.searchsorted(np.cumsum(logs.counts), (logs.total + 1) // 2)])


def _describe(block: Block, known: Histogram, limit: float | None) -> Iterator[Any]:
    logs = _log_ratios(block)
    if not len(logs):
        yield TaggedOutput("counts", (len(block), 0))
        yield block
        return
    ratio = 2**logs / _median(known)
    frame = frame_of([block]).with_columns(pl.Series(LENGTH_RATIO, ratio))
    if limit is not None:
        frame = frame.filter((pl.col(LENGTH_RATIO) <= limit) & (pl.col(LENGTH_RATIO) >= 1 / limit))
    yield TaggedOutput("counts", (len(frame), len(block) - len(frame)))
    if len(frame):
        source, target = (
            pl.col(name).str.normalize("NFKC").str.extract_all(r"\d+")
            for name in (SOURCE_TEXT, TARGET_TEXT)
        )
        same = (source.list.sort() == target.list.sort()).alias(SAME_NUMBERS)
        overlaps = pl.Series(CHAR_OVERLAP, _overlaps(frame), pl.Float32)
        yield block_of(frame.with_columns(same, overlaps))


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


def _sums(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    whole = [(0, 0), *parts]
    return sum(kept for kept, _ in whole), sum(dropped for _, dropped in whole)


def _figures(counts: tuple[int, int], known: Histogram) -> dict[str, Any]:
    return {
        "pairs": counts[0],
        "dropped_by_length": counts[1],
        "length_ratio_median": round(_median(known), 6),
    }
