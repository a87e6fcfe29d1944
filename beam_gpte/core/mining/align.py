"""Which sentences of a document translate which of another that is its translation: beads of n:m sentences, in order.

Thompson and Koehn, "Vecalign: improved sentence alignment in linear time and space" (EMNLP 2019). A bead joins p adjacent
sentences x with q adjacent sentences y, or skips one sentence. The alignment is the sequence of beads of least total cost
that takes every sentence of both documents once:

    cost(x, y) = 2 p q (1 - cos(x, y)) / (mean of 1 - cos(x, t) over targets t + mean of 1 - cos(s, y) over sources s)

The means are over sentences at random: a 1:1 bead of sentences that are as far apart as any two costs about 1. A mean of
cosines is the product with the mean vector, so no sample is drawn, and the mean vectors of the corpora are all it takes: of
the corpora, since a document of two sentences has hardly any that meet by chance.

Skipping a sentence costs about as much as taking an unrelated one along, see `skip_cost`: the paper's cost, a percentile of
what 1:1 beads of chance cost, is more, so that a sentence without a translation goes to its neighbour's bead.

A span's vector is given, so that it may be the embedding of the concatenated sentences, which is best and means embedding
each sentence up to `max_span` times; or it is `span_vectors`, the sum of its sentences' vectors.
"""

from typing import NamedTuple

import numpy as np

from beam_gpte.core.errors import InputError

EPSILON = 1e-6  # added to the means: a corpus of one sentence repeated divides by zero


class Bead(NamedTuple):
    """Sentences `source_start` to `source_stop`, exclusive, are translated by `target_start` to `target_stop`.

    One of the two is empty where a sentence is skipped.
    """

    source_start: int
    source_stop: int
    target_start: int
    target_stop: int
    cost: float


def span_vectors(vectors: np.ndarray, lengths: np.ndarray, max_span: int) -> np.ndarray:
    """The vectors of spans as sums of their sentences' vectors, weighted by length.

    Args:
      vectors: the document's sentences in order, unit float32 (n, dim).
      lengths: of the sentences, in characters say, numbers (n,), positive.
      max_span: sentences of a span, at most.

    Returns:
      Unit float32 (max_span, n, dim): at [p - 1, i] that of the p sentences from i on; zeros where there are fewer left.
    """
    weighted = vectors * np.asarray(lengths, np.float64)[:, None]
    spans = np.zeros((max_span, *vectors.shape), np.float32)
    total = weighted
    for more in range(min(max_span, len(vectors))):
        total = weighted if more == 0 else total[:-1] + weighted[more:]
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        spans[more, : len(total)] = total / np.where(norms > 0, norms, 1)
    return spans


def skip_cost(
    source_sample: np.ndarray,
    target_sample: np.ndarray,
    source_mean: np.ndarray,
    target_mean: np.ndarray,
    percentile: float = 20,
) -> float:
    """What skipping one sentence costs: that percentile of what taking an unrelated one along costs.

    That is the cost of a 1:2 bead of a sentence and its perfect translation with one at random behind it: on either side, a
    sentence s and the span of s and t, two of the sample. Of sentences at right angles it is 2 - sqrt 2 = 0.59.

    Args:
      source_sample, target_sample: of the corpora, unit float32 (r, dim) and (s, dim); a hundred each will do, since every
        pair is taken. Of one sentence a side, it is as at right angles.
      source_mean, target_mean: the mean vectors of the corpora, float32 (dim,), before any normalisation.
      percentile: a larger one skips less.
    """
    costs = [_along(source_sample, source_mean), _along(target_sample, target_mean)]
    every = np.concatenate(costs)
    return float(np.percentile(every, percentile)) if len(every) else 2 - 2**0.5


def _along(sample: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """float64 (n (n - 1),): the costs of beads of each sentence, and it and another one."""
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
    """The alignment of two documents, in order; of equally cheap last beads that of fewer sources, then of fewer targets.

    Time grows with n x m, and memory too, by one byte: two documents of 10,000 sentences are 100 MB besides their spans.

    Args:
      source_spans: unit float32 (a, n, dim), as `span_vectors` gives them; beads take up to `a` sentences.
      target_spans: unit float32 (b, m, dim), likewise.
      source_mean, target_mean: the mean vectors of the corpora, float32 (dim,), before any normalisation.
      skip: what a skipped sentence costs, see `skip_cost`.

    Raises:
      InputError: the dimensions of the two sides differ.
    """
    if source_spans.shape[2] != target_spans.shape[2]:
        dims = f"{source_spans.shape[2]} and {target_spans.shape[2]}"
        raise InputError(
            f"vectors of {dims} dimensions on the two sides; embed both sides with the same model"
        )
    costs = _BeadCosts(source_spans, target_spans, source_mean, target_mean)
    kinds = [
        (p, q) for p in range(1, len(source_spans) + 1) for q in range(1, len(target_spans) + 1)
    ] + [(1, 0), (0, 1)]
    last = _last_beads(costs, kinds, skip)
    beads = []
    i, j = last.shape[0] - 1, last.shape[1] - 1
    while i or j:
        p, q = kinds[last[i, j]]
        beads.append(Bead(i - p, i, j - q, j, costs.of(i - p, p, j - q, q) if p and q else skip))
        i, j = i - p, j - q
    return beads[::-1]


def _last_beads(costs: "_BeadCosts", kinds: list[tuple[int, int]], skip: float) -> np.ndarray:
    """(n + 1, m + 1): which of `kinds` the last bead is where the first i and the first j sentences are aligned."""
    _, sources, targets = costs.shape
    last = np.zeros((sources + 1, targets + 1), np.min_scalar_type(len(kinds)))
    skips = skip * np.arange(targets + 1)
    totals: list[
        np.ndarray
    ] = []  # float64 (m + 1,): costs of the first i sentences and the first j, the last i first
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
        # any number of targets skipped: total[j] = min over h <= j of total[h] + (j - h) skip, a running minimum
        level = total - skips
        lowest = np.minimum.accumulate(level)
        cheaper = lowest < level
        total[cheaper], last[i, cheaper] = (lowest + skips)[cheaper], len(kinds) - 1
        totals = [total, *totals][: costs.shape[0]]
    return last


class _BeadCosts:
    """Costs of the beads of two documents, a row of places at a time.

    Attributes:
      shape: a, n and m: sources of a bead at most, sources, targets.
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
        self._source_chance = (
            1 - source_spans @ target_mean
        )  # (a, n): the mean of 1 - cos to any target
        self._target_chance = 1 - target_spans @ source_mean  # (b, m)

    def ending_at(self, i: int) -> np.ndarray:
        """float64 (min(a, i), b, m): of the p sources before `i` and the q targets from j on, at [p - 1, q - 1, j].

        Where there are fewer than q left it means nothing.
        """
        p = np.arange(min(len(self._sources), i))
        q = np.arange(len(self._targets))
        products = (self._sources[p, i - 1 - p] @ self._columns).reshape(
            len(p), *self._target_chance.shape
        )
        chance = self._source_chance[p, i - 1 - p][:, None, None] + self._target_chance
        return _cost(products, chance, ((p + 1)[:, None] * (q + 1))[:, :, None])

    def of(self, i: int, p: int, j: int, q: int) -> float:
        """Of the p sources from i on and the q targets from j on."""
        product = self._sources[p - 1, i] @ self._targets[q - 1, j]
        return float(
            _cost(
                product,
                self._source_chance[p - 1, i] + self._target_chance[q - 1, j],
                np.array(p * q),
            )
        )


def _cost(products: np.ndarray, chance: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    return 2.0 * sentences * (1 - products.astype(np.float64)) / (EPSILON + chance)
