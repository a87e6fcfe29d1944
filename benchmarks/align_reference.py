"""Align documents as `AlignDocuments` of 0.1.0 did: averages, the costs of Vecalign, all positions.

The peer of `align_documents.py`: spans are averages of vectors that are not centered, a bead costs

    2 p q (1 - cos(x, y))
    / (mean of 1 - cos(x, t) over targets t + mean of 1 - cos(s, y) over sources s)

and time and memory grow with the product of both documents.
"""

import itertools

import numpy as np

from beam_gpte.core.mining.align import Bead

EPSILON = 1e-6  # added to the means: a corpus of one repeated sentence would divide by zero


def skip_cost(
    source_sample: np.ndarray,
    target_sample: np.ndarray,
    source_mean: np.ndarray,
    target_mean: np.ndarray,
    percentile: float = 20,
) -> float:
    """Compute the cost of skipping one sentence: a percentile of the costs of adding it to a bead.

    These are costs of a 1:2 bead of a sentence and its perfect translation followed by a random
    sentence: on either side, a sentence s and the span of s and t, both of the sample. For
    sentences at right angles the cost is 2 - sqrt 2 = 0.59.

    Args:
      source_sample: vectors of the source corpus, unit float32 (r, dim); a hundred suffice, since
        all pairs are used. With one sentence per side, the cost is that at right angles.
      target_sample: vectors of the target corpus, unit float32 (s, dim).
      source_mean: the mean vector of the source corpus, float32 (dim,), before any normalization.
      target_mean: the mean vector of the target corpus.
      percentile: a larger one skips less.
    """
    sides = ((source_sample, source_mean), (target_sample, target_mean))
    costs = np.concatenate([_costs_of_adding(sample, mean) for sample, mean in sides])
    return float(np.percentile(costs, percentile)) if len(costs) else 2 - 2**0.5


def _costs_of_adding(sample: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Compute the costs, float64 (n (n - 1),), of beads of a sentence with it and another one."""
    vectors = sample.astype(np.float64)
    row, other = np.nonzero(~np.eye(len(vectors), dtype=bool))
    length = np.sqrt(2 + 2 * (vectors @ vectors.T)[row, other])  # of the sum of the two
    near = vectors @ mean
    chance = (1 - near[row]) + (1 - (near[row] + near[other]) / np.maximum(length, EPSILON))
    return _cost(length / 2, chance, np.array(2))


def align(
    source_spans: np.ndarray,
    target_spans: np.ndarray,
    source_mean: np.ndarray,
    target_mean: np.ndarray,
    skip: float,
) -> list[Bead]:
    """Align two documents; of equally cheap last beads choose fewer sources, then fewer targets.

    Time grows with n x m, and so does memory, by one byte each: two documents of 10,000 sentences
    take 100 MB besides their spans.

    Args:
      source_spans: unit float32 (a, n, dim), shaped as by `span_vectors`; beads take up to `a`
        sentences.
      target_spans: unit float32 (b, m, dim); beads take up to `b` sentences.
      source_mean: the mean vector of the source corpus, float32 (dim,), before any normalization.
      target_mean: the mean vector of the target corpus.
      skip: the cost of a skipped sentence, see `skip_cost`.

    Returns:
      The beads in order.
    """
    costs = _BeadCosts(source_spans, target_spans, source_mean, target_mean)
    sizes = range(1, len(source_spans) + 1), range(1, len(target_spans) + 1)
    kinds = [*itertools.product(*sizes), (1, 0), (0, 1)]
    last = _last_beads(costs, kinds, skip)
    beads = []
    i, j = last.shape[0] - 1, last.shape[1] - 1
    while i or j:
        p, q = kinds[last[i, j]]
        beads.append(Bead(i - p, i, j - q, j, costs.of(i - p, p, j - q, q) if p and q else skip))
        i, j = i - p, j - q
    return beads[::-1]


def _last_beads(costs: "_BeadCosts", kinds: list[tuple[int, int]], skip: float) -> np.ndarray:
    """Find the kind of the last bead, (n + 1, m + 1), of the first i and the first j sentences."""
    _, sources, targets = costs.shape
    last = np.zeros((sources + 1, targets + 1), np.min_scalar_type(len(kinds)))
    skips = skip * np.arange(targets + 1)
    # float64 (m + 1,): costs of aligning the first i and the first j sentences, the last i first
    totals: list[np.ndarray] = []
    for i in range(sources + 1):
        ending = costs.ending_at(i)
        total = np.full(targets + 1, np.inf)
        total[:1] = np.inf if i else 0
        for kind, (p, q) in enumerate(kinds[:-1]):
            if p > len(totals) or q > targets:
                continue
            before = totals[p - 1][: targets + 1 - q]
            reached = before + (ending[p - 1, q - 1, : len(before)] if q else skip)
            cheaper = reached < total[q:]
            total[q:][cheaper], last[i, q:][cheaper] = reached[cheaper], kind
        # skip any number of targets: total[j] = min over h <= j of total[h] + (j - h) skip, which
        # is a running minimum
        level = total - skips
        lowest = np.minimum.accumulate(level)
        cheaper = lowest < level
        total[cheaper], last[i, cheaper] = (lowest + skips)[cheaper], len(kinds) - 1
        totals = [total, *totals][: costs.shape[0]]
    return last


class _BeadCosts:
    """Compute the costs of the beads of two documents, one source position at a time.

    Attributes:
      shape: a, n and m: maximum sources of a bead, sources, targets.
    """

    def __init__(
        self,
        source_spans: np.ndarray,
        target_spans: np.ndarray,
        source_mean: np.ndarray,
        target_mean: np.ndarray,
    ) -> None:
        self.shape = (*source_spans.shape[:2], target_spans.shape[1])
        self._sources, self._targets = source_spans, target_spans
        self._columns = target_spans.reshape(-1, target_spans.shape[2]).T
        # (a, n) and (b, m): the means of 1 - cos to any target and any source
        self._source_chance = 1 - source_spans @ target_mean
        self._target_chance = 1 - target_spans @ source_mean

    def ending_at(self, i: int) -> np.ndarray:
        """Compute the costs of all beads that end at source `i`, float64 (min(a, i), b, m).

        At [p - 1, q - 1, j] is the cost of the p sources before `i` and the q targets from j on; it
        is meaningless where fewer than q targets are left.
        """
        p = np.arange(min(len(self._sources), i))
        q = np.arange(len(self._targets))
        products = self._sources[p, i - 1 - p] @ self._columns
        products = products.reshape(len(p), *self._target_chance.shape)
        chance = self._source_chance[p, i - 1 - p][:, None, None] + self._target_chance
        return _cost(products, chance, ((p + 1)[:, None] * (q + 1))[:, :, None])

    def of(self, i: int, p: int, j: int, q: int) -> float:
        """Compute the cost of the p sources from i on and the q targets from j on."""
        product = self._sources[p - 1, i] @ self._targets[q - 1, j]
        chance = self._source_chance[p - 1, i] + self._target_chance[q - 1, j]
        return float(_cost(product, chance, np.array(p * q)))


def _cost(products: np.ndarray, chance: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    return 2.0 * sentences * (1 - products.astype(np.float64)) / (EPSILON + chance)
