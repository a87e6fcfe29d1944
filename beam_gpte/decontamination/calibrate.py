"""Choose the minimum cosine of a finding by the chance similarity of passages and items.

scored passages --> CountScores --> PassageScores --> fit_threshold --> Threshold

The best score of a passage is the maximum of its cosines with all items, so by extreme value theory
that of a clean passage follows a Gumbel distribution (Coles, An Introduction to Statistical
Modeling of Extreme Values, 2001, chapter 3). It is fitted to the lower half of the scores, where
contaminated passages hardly are, and the threshold is the score that the wanted share of clean
documents exceeds.

What meets: the histograms of all passages, since the threshold is one for all.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_gpte.core.mining.posterior import (
    BIN,
    NO_SCORES,
    Histogram,
    histogram,
    merge_histograms,
)
from beam_gpte.decontamination.findings import (
    COSINES,
    DOCUMENT,
    END,
    FIRST,
    NEAREST,
    START,
    findings,
)
from beam_gpte.elements.block import Block

# Quantiles of the best scores that are fitted: below most contaminated passages.
LOW, HIGH = 0.1, 0.5
MIN_PASSAGES = 100  # that a Gumbel distribution is fitted to
FEW_PASSAGES_THRESHOLD = 0.8
ROUNDS = 100
NEARLY_COPIES = 0.95  # a fit whose tail reaches 1 still lets copies be found
NEAR_ONE = 1 - 2.0**-20  # the hyperbolic tangent of a number


@dataclasses.dataclass(frozen=True)
class PassageScores:
    """Count passages by their best score.

    Attributes:
      documents: how many.
      passages: how many.
      best: of the best scores of passages.
    """

    documents: int = 0
    passages: int = 0
    best: Histogram = NO_SCORES


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Hold the minimum cosine of a finding.

    Attributes:
      cosine: the minimum.
      source: where it is from: ``given``, ``clean``, ``corpus``, or ``default``.
    """

    cosine: float
    source: str


class CountScores(beam.CombineFn):
    """Count scored passages."""

    def create_accumulator(self) -> PassageScores:
        """Return no passages."""
        return PassageScores()

    def add_input(self, accumulator: PassageScores, block: Block) -> PassageScores:
        """Add the passages of a block."""
        size = block.column(COSINES).type.list_size
        best = block.column(COSINES).flatten().to_numpy(zero_copy_only=False)[::size]
        documents = int(block.column(FIRST).to_numpy(zero_copy_only=False).sum())
        part = PassageScores(documents, len(block), histogram(best))
        return self.merge_accumulators([accumulator, part])

    def merge_accumulators(self, accumulators: Iterable[PassageScores]) -> PassageScores:
        """Add up."""
        parts = list(accumulators)
        return PassageScores(
            sum(part.documents for part in parts),
            sum(part.passages for part in parts),
            merge_histograms(part.best for part in parts),
        )

    def extract_output(self, accumulator: PassageScores) -> PassageScores:
        """Return the sums."""
        return accumulator


def choose_threshold(
    corpus: PassageScores, clean: PassageScores | None, given: float | None, target: float
) -> Threshold:
    """Choose the threshold that a share `target` of clean documents exceeds.

    Args:
      corpus: the passages to decide.
      clean: passages known to be clean; None if there are none.
      given: a threshold that was set; None to choose one.
      target: of false alarms, per document.
    """
    if given is not None:
        return Threshold(given, "given")
    if clean is not None and clean.best.total:
        return Threshold(_exceeded_by_few(clean, target), "clean")
    if corpus.best.total < MIN_PASSAGES:
        return Threshold(FEW_PASSAGES_THRESHOLD, "default")
    return Threshold(fit_threshold(corpus, target), "corpus")


def _exceeded_by_few(clean: PassageScores, target: float) -> float:
    """Find the score that at most a share of known clean documents exceeds.

    Of fewer documents than one false alarm needs, it is above all scores, and that of the fit.
    """
    allowed = math.floor(target * clean.documents)
    reaching = np.cumsum(clean.best.counts[::-1])[::-1]
    over = clean.best.bins[reaching > allowed]
    measured = float((over[-1] + 1) * BIN) if len(over) else float(clean.best.bins[0] * BIN)
    if allowed or clean.best.total < MIN_PASSAGES:
        return measured
    return max(measured, fit_threshold(clean, target))


def fit_threshold(scores: PassageScores, target: float) -> float:
    """Choose a threshold by the best scores of passages of which a minority is contaminated.

    A document is a false alarm if one of its passages is, so the share of passages is that of
    documents divided by the passages per document. Scores that are high by the first, lower
    estimate are left out; those of the rest are fitted. The result is at least halfway between the
    median and 1: nearer to a copy than to chance, also where few topics meet few items.

    Args:
      scores: of at least one passage.
      target: the share of clean documents that may exceed the threshold.
    """
    share = min(target * scores.documents / scores.passages, 0.5)
    first = _first_estimate(scores.best, share)
    clean = _below(scores.best, first)
    median = _quantile(clean, HIGH)
    fitted = _gumbel_quantile(_quantile(clean, LOW), median, share)
    return max(first, min(fitted, NEARLY_COPIES), (1 + median) / 2)


def _first_estimate(best: Histogram, share: float) -> float:
    """Fit the inverse hyperbolic tangent of scores, whose quantiles are cosines below 1.

    Scores from the threshold on are left out, and the rest is fitted again, until nothing changes:
    contaminated passages lift the first fit. On cosines themselves the tail is longer.
    """
    threshold = math.inf
    for _ in range(ROUNDS):
        low, high = (
            math.atanh(min(max(_quantile(best, at), -NEAR_ONE), NEAR_ONE)) for at in (LOW, HIGH)
        )
        found = math.tanh(_gumbel_quantile(low, high, share))
        if found >= threshold:
            break
        threshold = found
        best = _below(best, threshold)
    return threshold


def _below(best: Histogram, threshold: float) -> Histogram:
    """Keep the scores below a threshold, or the lowest."""
    below = best.bins * BIN < threshold
    below[0] = True
    return Histogram(best.bins[below], best.counts[below])


def _gumbel_quantile(low: float, high: float, share: float) -> float:
    """Compute what a share exceeds of the Gumbel distribution with these quantiles."""
    scale = (high - low) / (_reduced(HIGH) - _reduced(LOW))
    return high + scale * (_reduced(1 - share) - _reduced(HIGH))


def _reduced(share: float) -> float:
    """Compute the quantile of the standard Gumbel distribution."""
    return -math.log(-math.log(share))


def _quantile(scores: Histogram, share: float) -> float:
    """Find a quantile, interpolated within its bin."""
    ends = np.cumsum(scores.counts)
    wanted = share * ends[-1]
    at = int(np.searchsorted(ends, wanted))
    inside = 1 - (ends[at] - wanted) / scores.counts[at]
    return float((scores.bins[at] + inside) * BIN)


def above(block: Block, threshold: Threshold) -> Iterator[Block]:
    """Yield the findings of scored passages whose cosine is at least the threshold."""
    size = block.column(COSINES).type.list_size
    cosines = block.column(COSINES).flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    rows, ranks = np.nonzero(cosines >= np.float32(threshold.cosine))
    if len(rows):
        texts = block.column(NEAREST).flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        spans = np.stack([block.column(name).to_numpy()[rows] for name in (START, END)], axis=1)
        ids = block.column(DOCUMENT).take(pa.array(rows))
        yield findings(ids, texts[rows, ranks], spans, cosines[rows, ranks])
