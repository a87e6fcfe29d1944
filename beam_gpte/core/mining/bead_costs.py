"""Say what a bead costs: how far its spans are apart, and how much their lengths differ.

A bead joins p adjacent sentences x of a document with q adjacent sentences y of its translation:

    cost(x, y) = 2 p q (1 - cos(x, y)) / (chance(x) + chance(y)) + LENGTH_WEIGHT min(z^2 / 2, 8)

The first term is that of Vecalign (Thompson and Koehn, EMNLP 2019): chance(x) is the mean of
1 - cos(x, t) over the sentences t of the translation, which are unrelated but for a few, so that
any two spans of the same documents cost about 1 for each pair of their sentences. A mean of cosines
is the product with the mean vector, so no sample is drawn. Vectors are centered by the mean of
their corpus before, so that spans of one language have nothing in common; documents have, and short
ones have few unrelated sentences: `UNRELATED` more are added, which are at right angles.

The second term is that of Gale and Church ("A program for aligning sentences in bilingual corpora",
Computational Linguistics 1993): with a and b characters, the sides scaled to one another, z is
(a - b) / sqrt(VARIANCE (a + b) / 2), about normally distributed for translations. It tells where a
sentence ends that the vectors hardly tell from its neighbor.

Skipping a sentence costs `SKIP_SHARE` of what adding an unrelated one to a bead does: a percentile
of the costs of random beads, the cost in the paper of Vecalign, is higher, so that a sentence
without a translation joins its neighbor's bead.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

# Of 1 - cos, above what rounds off in fp32: of sentences that match perfectly, as in two copies of
# a document, two small beads would cost as little as a large one, and noise would decide.
MIN_DISTANCE = 1e-5
EPSILON = 1e-6  # added to the chances: of many equal sentences they would be zero
UNRELATED = 20
VARIANCE = 6.8  # of the length of a translation, per character: Gale and Church, European languages
# On n:m documents of `benchmarks/align_documents.py` weights of 0.04 to 0.09 differ by less than a
# point of F1, and so do skips that cost 0.3 to 0.45.
LENGTH_WEIGHT = 0.05
MAX_LENGTH_COST = 8.0  # of z = 4: a free translation should not cost more than skipping
SKIP_SHARE = 0.75
RATIO_COUNTS = 5  # the ratio of whole documents counts as much as that of so many sentences
MAX_RATIO = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """Hold the sentences of a document in order.

    Attributes:
      spans: centered, unit float32 (max_span, n, dim): at [p - 1, i] the vector of the p sentences
        from i on; anything where fewer are left. They are embeddings of the concatenated
        sentences, or `span_vectors`.
      lengths: of the sentences in characters, positive float64 (n,).
    """

    spans: np.ndarray
    lengths: np.ndarray

    @property
    def max_span(self) -> int:
        """The maximum number of sentences of a span."""
        return len(self.spans)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return int(self.spans.shape[2])

    def __len__(self) -> int:
        """Return the number of sentences."""
        return int(self.spans.shape[1])

    def alone(self) -> "Sentences":
        """Return the sentences without spans of several."""
        return Sentences(self.spans[:1], self.lengths)

    def mean(self) -> np.ndarray:
        """Return the mean vector of the sentences and of `UNRELATED` ones, float32 (dim,)."""
        total = self.spans[0].sum(axis=0, dtype=np.float64)
        return (total / (len(self) + UNRELATED)).astype(np.float32)


def span_vectors(vectors: np.ndarray, lengths: np.ndarray, max_span: int) -> np.ndarray:
    """Compute the vectors of spans as sums of their sentences' vectors, weighted by length.

    Args:
      vectors: of the document's sentences in order, unit float32 (n, dim).
      lengths: of the sentences, for example in characters, positive numbers (n,).
      max_span: maximum sentences of a span.

    Returns:
      Unit float32 (max_span, n, dim): at [p - 1, i] the vector of the p sentences from i on; zeros
      where fewer are left.
    """
    weighted = vectors * np.asarray(lengths, np.float64)[:, None]
    spans = np.zeros((max_span, *vectors.shape), np.float32)
    total = weighted
    for more in range(min(max_span, len(vectors))):
        total = weighted if more == 0 else total[:-1] + weighted[more:]
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        spans[more, : len(total)] = total / np.where(norms > 0, norms, 1)
    return spans


def halved(sentences: Sentences) -> Sentences:
    """Average adjacent sentences two by two, by length; an odd last one stays as it is."""
    odd = len(sentences) % 2
    lengths = np.pad(sentences.lengths, (0, odd)).reshape(-1, 2)
    vectors = np.pad(sentences.spans[0], ((0, odd), (0, 0))).reshape(len(lengths), 2, -1)
    shares = lengths / lengths.sum(axis=1, keepdims=True)
    averages = np.einsum("npd,np->nd", vectors, shares)
    total = lengths.sum(axis=1)
    return Sentences(span_vectors(averages, total, 1), total)


def skip_cost(
    source_sample: np.ndarray, target_sample: np.ndarray, percentile: float = 20
) -> float:
    """Compute the cost of skipping one sentence, from the costs of adding it to a bead.

    These are costs of a 1:2 bead of a sentence and its perfect translation followed by a random
    sentence: on either side, a sentence s and the span of s and t, both of the sample. For
    sentences at right angles the cost is 2 - sqrt 2 = 0.59, and skipping costs 0.44.

    Args:
      source_sample: centered vectors of the source corpus, unit float32 (r, dim); a hundred
        suffice, since all pairs are used. With one sentence per side, the cost is that at right
        angles.
      target_sample: those of the target corpus, unit float32 (s, dim).
      percentile: a larger one skips less.
    """
    costs = np.concatenate([_costs_of_adding(side) for side in (source_sample, target_sample)])
    adding = np.percentile(costs, percentile) if len(costs) else 2 - 2**0.5
    return SKIP_SHARE * float(adding)


def _costs_of_adding(sample: np.ndarray) -> np.ndarray:
    """Compute the costs, float64 (n (n - 1),), of beads of a sentence with it and another one."""
    vectors = sample.astype(np.float64)
    row, other = np.nonzero(~np.eye(len(vectors), dtype=bool))
    length = np.sqrt(np.maximum(0, 2 + 2 * (vectors @ vectors.T)[row, other]))  # of their sum
    return 2 - length


def length_ratio(source: Sentences, target: Sentences, pairs: Iterable[tuple[int, int]]) -> float:
    """Estimate how long a translation is per character of the source: a median.

    Args:
      source: the sentences of a document.
      target: those of its translation.
      pairs: places of sentences that translate each other, mostly; the ratio of all text counts as
        much as `RATIO_COUNTS` of them.
    """
    ratios = [target.lengths[j] / source.lengths[i] for i, j in pairs]
    whole = target.lengths.sum() / source.lengths.sum()
    ratio = np.exp(np.median(np.log([*ratios, *[whole] * RATIO_COUNTS])))
    return float(np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO))


class BeadCosts:
    """Compute the costs of the beads of two documents, one source position at a time.

    Args:
      source: the sentences of the document.
      target: those of its translation.
      ratio: of lengths, see `length_ratio`; None leaves lengths out.
    """

    def __init__(self, source: Sentences, target: Sentences, ratio: float | None = None) -> None:
        self._source, self._target = source.spans, target.spans
        # (a, n) and (b, m)
        self._source_chance = 1 - source.spans @ target.mean()
        self._target_chance = 1 - target.spans @ source.mean()
        self._has_lengths = ratio is not None
        scale = 1.0 if ratio is None else ratio**0.5
        self._source_ends = np.append(0, np.cumsum(source.lengths * scale))
        self._target_ends = np.append(0, np.cumsum(target.lengths / scale))

    def ending_at(self, i: int, low: int, high: int) -> np.ndarray:
        """Compute the costs of beads that end at source `i` and at targets from `low` to `high`.

        Returns:
          float64 (min(a, i), b, high - low + 1): at [p - 1, q - 1, j - low] the cost of the p
          sources before i and the q targets before j; infinite where fewer than q are.
        """
        p, largest = np.arange(1, min(len(self._source), i) + 1), len(self._target)
        start = max(0, low - largest)
        near = self._target[:, start:high]
        products = self._source[p - 1, i - p] @ near.reshape(-1, near.shape[2]).T
        products = products.reshape(len(p), largest, high - start)
        costs = np.full((len(p), largest, high - low + 1), np.inf)
        for q in range(1, largest + 1):
            first = max(low, start + q)
            if first <= high:
                stops = np.arange(first, high + 1)
                part = products[:, q - 1, stops - q - start]
                costs[:, q - 1, first - low :] = self._costs(part, i, p, stops, q)
        return costs

    def of(self, i: int, p: int, j: int, q: int) -> float:
        """Compute the cost of the p sources before i and the q targets before j."""
        product = self._source[p - 1, i - p] @ self._target[q - 1, j - q]
        return float(self._costs(np.array([[product]]), i, np.array([p]), np.array([j]), q)[0, 0])

    def _costs(
        self, products: np.ndarray, i: int, p: np.ndarray, j: np.ndarray, q: int
    ) -> np.ndarray:
        """Compute the costs of the p sources before i and the q targets before each j."""
        chance = self._source_chance[p - 1, i - p][:, None] + self._target_chance[q - 1, j - q]
        distances = np.maximum(MIN_DISTANCE, 1 - products.astype(np.float64))
        costs = (2.0 * q * p)[:, None] * distances / (EPSILON + chance)
        if self._has_lengths:
            a = (self._source_ends[i] - self._source_ends[i - p])[:, None]
            b = self._target_ends[j] - self._target_ends[j - q]
            costs += LENGTH_WEIGHT * np.minimum(
                (a - b) ** 2 / (VARIANCE * (a + b)), MAX_LENGTH_COST
            )
        return costs
