"""What score makes a pair a translation: a posterior out of Gaussians, or a precision out of decoys.

Both start from histograms, which are merged like counts. Mutual best pairs are of two kinds, translations and what is
nearest by chance, and their margins have two humps.

The hump of chance has a longer tail upwards than a Gaussian. With one Gaussian for each hump the posterior is too high
between them, the more so the fewer pairs are translations, so either hump may take two, where that is likelier. On 4,000
German and 4,000 English sentences, centred, by distance margins, the threshold at a posterior of 0.9 is 0.5, 0.9 and 2.8 F1
below the best one where 19, 10 and 4 % of the mutual best are translations; with two Gaussians alone 3.8, 9.2, and none.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from beam_gpte.core.errors import InputError

BIN = (
    2.0**-12
)  # a power of two, so that a bin's edge is exact: a score is in a bin or above if it is at least its edge
STARTS = (0.5, 0.8, 0.95, 0.99)  # shares of scores below the cuts that EM starts from
GAUSSIANS = (2, 3)  # of both humps together
ITERATIONS = 500
CONVERGED = 1e-9  # log likelihood of a score
MIN_SCORES = 50  # that five numbers are fitted to
MIN_OF_ONE = 10  # scores of a Gaussian: fewer are strays
MIN_VARIANCE = BIN**2 / 12  # of scores spread over one bin
MIN_SPREAD = 0.03  # of a Gaussian, in deviations of all scores: on a few equal ones it would be infinitely likely
TINY = 1e-300  # scores of a Gaussian that has lost all
POINTS = 10_001  # where the posterior is computed, for what lies between
# a difference of means in standard deviations: two equal Gaussians have two humps from 2 on (Ashman, Bird and Zepf 1994)
MIN_SEPARATION = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How many scores there are at each place, whatever their range.

    Attributes:
      bins: int64 (b,), ascending: those with scores; bin i holds i * BIN <= score < (i + 1) * BIN.
      counts: int64 (b,).
    """

    bins: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def middles(self) -> np.ndarray:
        """float64 (b,): the scores in the middle of bins."""
        return (self.bins + 0.5) * BIN


def histogram(scores: np.ndarray) -> Histogram:
    """Of finite `scores`, floats (n,); others, such as ratios to no positive mean, are in no bin."""
    finite = np.asarray(scores, np.float64)
    finite = finite[np.isfinite(finite)]
    return Histogram(*np.unique(np.floor(finite / BIN).astype(np.int64), return_counts=True))


def merge_histograms(parts: Iterable[Histogram]) -> Histogram:
    """The histogram of all scores, in whatever order parts come; of no parts an empty one."""
    both = [histogram(np.zeros(0)), *parts]
    bins, place = np.unique(np.concatenate([part.bins for part in both]), return_inverse=True)
    counts = np.zeros(len(bins), np.int64)
    np.add.at(counts, place, np.concatenate([part.counts for part in both]))
    return Histogram(bins, counts)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Gaussians by mean, the lowest first.

    Attributes:
      shares: of scores, 1 together.
      means, variances: of each.
      chance: how many of them, from the first on, are the lower hump.
    """

    shares: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    chance: int = 1

    @property
    def separation(self) -> float:
        """Between the humps: of the Gaussians next to each other, the means' difference in standard deviations."""
        return _separations(self.means, self.variances)[self.chance - 1]

    def posterior(self, scores: np.ndarray) -> np.ndarray:
        """float64 (n,): the probability that each score, floats (n,), is of the upper hump; never falls as scores rise.

        Where the tail of a wider lower hump would make it fall, it stays what it is, and so it does below the lowest mean.
        """
        return np.interp(scores, *self._curve())

    def threshold(self, posterior: float) -> float:
        """The least score, from the lowest mean on and to 1 / `POINTS` of the range, with at least this `posterior`, 0 to 1.

        Raises:
          InputError: none is, since the lower hump has the wider tail.
        """
        at, curve = self._curve()
        if curve[-1] < posterior:
            raise InputError(
                f"no score has a posterior of {posterior}, the most is {curve[-1]:.3f}; give a threshold"
            )
        return float(at[np.searchsorted(curve, posterior)])

    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        at = np.linspace(
            self.means[0], self.means[-1] + 10 * math.sqrt(max(self.variances)), POINTS
        )
        log = _log_densities(
            at, *(np.array(values) for values in (self.shares, self.means, self.variances))
        )
        odds = np.logaddexp.reduce(log[self.chance :]) - np.logaddexp.reduce(log[: self.chance])
        return at, np.maximum.accumulate(1 / (1 + np.exp(-np.clip(odds, -700, 700))))


def fit_mixture(scores: Histogram) -> Mixture:
    """Gaussians fitted by expectation maximisation (Dempster, Laird and Rubin 1977), parted into humps at the widest gap.

    Two or three, whichever Schwarz's criterion (1978) prefers, from whichever start is likeliest.

    Raises:
      InputError: there are fewer than `MIN_SCORES`, or they are all in one bin, or they have one hump.
    """
    hint = "; give a threshold, or a target precision and decoys"
    if scores.total < MIN_SCORES:
        raise InputError(
            f"{scores.total} scores are too few to tell pairs from chance, {MIN_SCORES} are needed{hint}"
        )
    if len(scores.bins) == 1:
        raise InputError(
            f"all {scores.total} scores are about {scores.middles[0]:.4g}: nothing tells pairs from chance{hint}"
        )
    below = np.cumsum(scores.counts) / scores.total
    cuts = sorted({min(int(np.searchsorted(below, share)), len(below) - 2) for share in STARTS})
    fits = [
        _fit(scores, start)
        for count in GAUSSIANS
        for start in itertools.combinations(cuts, count - 1)
    ]
    likelihood, fitted = max(fits, key=lambda fit: fit[0])
    if likelihood <= _fit(scores, ())[0] or fitted.separation < MIN_SEPARATION:
        raise InputError(
            f"the scores of {scores.total} pairs have one hump: nothing tells pairs from chance{hint}"
        )
    return fitted


def _fit(scores: Histogram, cuts: tuple[int, ...]) -> tuple[float, Mixture]:
    """The log likelihood by Schwarz's criterion, and what EM finds from the bins up to the first cut, the second, and on."""
    x, counts = scores.middles, scores.counts.astype(np.float64)
    spread = float(counts @ (x - counts @ x / scores.total) ** 2) / scores.total
    first = np.searchsorted(cuts, np.arange(len(x)))
    members = (first == np.arange(len(cuts) + 1)[:, None]).astype(np.float64)
    last = -np.inf
    for _ in range(ITERATIONS):
        weights = members * counts
        mass = np.maximum(weights.sum(axis=1), TINY)
        means = weights @ x / mass
        variances = (weights * (x - means[:, None]) ** 2).sum(axis=1) / mass
        variances = np.maximum(variances, max(MIN_VARIANCE, MIN_SPREAD**2 * spread))
        log = _log_densities(x, mass / mass.sum(), means, variances)
        largest = log.max(axis=0)
        members = np.exp(log - largest)
        every = members.sum(axis=0)
        members /= every
        likelihood = float(counts @ (largest + np.log(every)))
        if likelihood - last < CONVERGED * scores.total:
            break
        last = likelihood
    order = np.argsort(means, kind="stable")
    shares, means, variances = (mass / mass.sum())[order], means[order], variances[order]
    widest = int(np.argmax([0.0, *_separations(means, variances)]))
    fitted = Mixture(
        tuple(shares.tolist()), tuple(means.tolist()), tuple(variances.tolist()), widest
    )
    penalty = (3 * len(mass) - 1) / 2 * math.log(scores.total)
    return (likelihood - penalty if mass.min() >= MIN_OF_ONE else -np.inf), fitted


def _log_densities(
    x: np.ndarray, shares: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """float64 (c, n): of each Gaussian at each score."""
    heights = np.log(shares / np.sqrt(2 * np.pi * variances))
    return heights[:, None] - (x - means[:, None]) ** 2 / (2 * variances[:, None])


def _separations(means: Sequence[float], variances: Sequence[float]) -> list[float]:
    """Of each Gaussian and the next."""
    gaussians = list(zip(means, variances, strict=True))
    return [(b[0] - a[0]) / math.sqrt((a[1] + b[1]) / 2) for a, b in itertools.pairwise(gaussians)]


def precision_threshold(
    pairs: Histogram, decoys: Histogram, target_precision: float, sources_per_decoy: float
) -> float:
    """The least threshold at which at least `target_precision` of the pairs are estimated to be right.

    Decoys are sentences known to have no translation, mined along with the source: each pair of one is wrong. A source is
    taken to find as many wrong pairs as a decoy does, which is too many where it has a translation, so the estimate is a
    cautious one. At threshold t

        precision = 1 - sources_per_decoy * (decoys at t or above + 1) / (pairs at t or above)

    with the one for what was not drawn (Levitsky et al. 2017, from the target-decoy searches of proteomics): few decoys
    promise little.

    Args:
      pairs: scores of pairs whose source is no decoy.
      decoys: scores of pairs whose source is one.
      target_precision: between 0 and 1.
      sources_per_decoy: searched, whether they found a pair or not.

    Returns:
      The lower edge of a bin: `score >= threshold` keeps the bins that were counted.

    Raises:
      InputError: no threshold will do.
    """
    right, wrong = (np.cumsum(side.counts[::-1])[::-1] for side in (pairs, decoys))
    above = np.append(wrong, 0)[np.searchsorted(decoys.bins, pairs.bins)]
    precision = 1 - sources_per_decoy * (above + 1) / right
    enough = np.flatnonzero(precision >= target_precision)
    if not len(enough):
        most = f"the most is {precision.max():.3f}" if len(precision) else "there are no pairs"
        raise InputError(
            f"no threshold has a precision of {target_precision}: {most}; give more decoys or ask for less"
        )
    return float(pairs.bins[enough[0]] * BIN)
