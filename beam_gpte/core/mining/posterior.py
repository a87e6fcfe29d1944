"""Fit the minimum score of translations: by a posterior of Gaussians, or by a precision of decoys.

Both start from histograms, which are merged like counts. Mutual best pairs are of two kinds,
translations and those nearest by chance, so their margins have two modes, called humps here.

The hump of chance has a longer upper tail than a Gaussian. With one Gaussian per hump the posterior
is too high between them, the more so the fewer pairs are translations, so either hump may take two,
where that is likelier. On 4,000 German and 4,000 English sentences, centered, by distance margins,
the threshold at a posterior of 0.9 is 0.5, 0.9 and 2.8 F1 below the best one where 19, 10 and 4 %
of the mutual best pairs are translations; with two Gaussians only, it is 3.8 and 9.2 below, and
there is none.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from beam_gpte.core.errors import InputError

# A power of two, so that the edge of a bin is exact: a score is in a bin or above it if it is at
# least its edge.
BIN = 2.0**-12
STARTS = (0.5, 0.8, 0.95, 0.99)  # shares of scores below the cuts that EM starts from
GAUSSIANS = (2, 3)  # in both humps together
ITERATIONS = 500
CONVERGED = 1e-9  # change of the log likelihood per score
MIN_SCORES = 50  # that five numbers are fitted to
MIN_SCORES_OF_ONE = 10  # per Gaussian: fewer are outliers
MIN_VARIANCE = BIN**2 / 12  # of scores spread over one bin
# of a Gaussian, in standard deviations of all scores: a narrower one would be infinitely likely on
# a few equal scores
MIN_SPREAD = 0.03
TINY = 1e-300  # scores of a Gaussian that has lost all of them
POINTS = 10_001  # where the posterior is computed; interpolated between
# difference of means in standard deviations: two equal Gaussians have two modes from 2 on (Ashman,
# Bird and Zepf 1994)
MIN_SEPARATION = 2.0


class NoMixtureError(InputError):
    """Report scores to which no two humps can be fitted.

    Attributes:
      reason: what they are like, without what to do about it.
    """

    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Count scores of any range by bin.

    Attributes:
      bins: int64 (b,), ascending, those with scores; bin i holds i * BIN <= score < (i + 1) * BIN.
      counts: int64 (b,).
    """

    bins: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        """Return the number of scores."""
        return int(self.counts.sum())

    @property
    def middles(self) -> np.ndarray:
        """Return the scores in the middle of bins, float64 (b,)."""
        return (self.bins + 0.5) * BIN


def histogram(scores: np.ndarray) -> Histogram:
    """Count finite `scores`, floats (n,), by bin; others, such as ratios of -inf, are ignored."""
    finite = np.asarray(scores, np.float64)
    finite = finite[np.isfinite(finite)]
    return Histogram(*np.unique(np.floor(finite / BIN).astype(np.int64), return_counts=True))


def merge_histograms(parts: Iterable[Histogram]) -> Histogram:
    """Merge histograms, in any order; without any, return an empty one."""
    merged = [histogram(np.zeros(0)), *parts]
    bins, place = np.unique(np.concatenate([part.bins for part in merged]), return_inverse=True)
    counts = np.zeros(len(bins), np.int64)
    np.add.at(counts, place, np.concatenate([part.counts for part in merged]))
    return Histogram(bins, counts)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Describe a mixture of Gaussians, sorted by mean, lowest first.

    Attributes:
      shares: the share of scores of each, 1 in total.
      means: the mean of each.
      variances: the variance of each.
      chance: how many of them, from the first on, form the lower hump.
    """

    shares: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    chance: int = 1

    @property
    def separation(self) -> float:
        """Measure the gap between the humps: the difference of means in standard deviations."""
        return _separations(self.means, self.variances)[self.chance - 1]

    def posterior(self, scores: np.ndarray) -> np.ndarray:
        """Compute the probability, float64 (n,), that scores, floats (n,), are of the upper hump.

        It never falls as scores rise: where the tail of a wider lower hump would make it fall, it
        stays constant, and so it does below the lowest mean.
        """
        return np.interp(scores, *self._curve())

    def threshold(self, posterior: float) -> float:
        """Find the minimum score with at least this `posterior`, 0 to 1.

        Searched from the lowest mean on, to 1 / `POINTS` of the range.

        Raises:
          InputError: no score has it, since the lower hump has the wider tail.
        """
        at, curve = self._curve()
        if curve[-1] < posterior:
            raise InputError(
                f"no score has a posterior of {posterior}, the maximum is {curve[-1]:.3f}; "
                "give a threshold"
            )
        return float(at[np.searchsorted(curve, posterior)])

    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        last = self.means[-1] + 10 * math.sqrt(max(self.variances))
        at = np.linspace(self.means[0], last, POINTS)
        shares, means, variances = map(np.array, (self.shares, self.means, self.variances))
        log = _log_densities((at - means[:, None]) ** 2, shares, variances)
        odds = np.logaddexp.reduce(log[self.chance :]) - np.logaddexp.reduce(log[: self.chance])
        return at, np.maximum.accumulate(1 / (1 + np.exp(-np.clip(odds, -700, 700))))


NO_SCORES = merge_histograms([])


def fit_mixture(scores: Histogram) -> Mixture:
    """Fit Gaussians by expectation maximization, divided into two humps at the widest gap.

    Dempster, Laird and Rubin (1977). There are two or three, whichever Schwarz's criterion (1978)
    prefers, from the start that gives the largest likelihood.

    Raises:
      NoMixtureError: there are fewer than `MIN_SCORES`, or all are in one bin, or they have one
        hump.
    """
    if scores.total < MIN_SCORES:
        raise _no_mixture(
            f"{scores.total} scores are too few to separate pairs from chance, "
            f"{MIN_SCORES} are needed",
            "",
        )
    if len(scores.bins) == 1:
        raise _no_mixture(f"all {scores.total} scores are about {scores.middles[0]:.4g}")
    below = np.cumsum(scores.counts) / scores.total
    cuts = sorted({min(int(np.searchsorted(below, share)), len(below) - 2) for share in STARTS})
    fits = [
        _fit(scores, start)
        for count in GAUSSIANS
        for start in itertools.combinations(cuts, count - 1)
    ]
    likelihood, fitted = max(fits, key=lambda fit: fit[0])
    if likelihood <= _fit(scores, ())[0] or fitted.separation < MIN_SEPARATION:
        raise _no_mixture(f"the scores of {scores.total} pairs have one hump")
    return fitted


def _no_mixture(
    reason: str, consequence: str = ": nothing separates pairs from chance"
) -> NoMixtureError:
    hint = "; give a threshold, or a target precision and decoys"
    error = NoMixtureError(f"{reason}{consequence}{hint}")
    error.reason = reason
    return error


def _fit(scores: Histogram, cuts: tuple[int, ...]) -> tuple[float, Mixture]:
    """Run EM from the Gaussians of the bins up to each cut.

    Returns the log likelihood, less the penalty of Schwarz's criterion, and the mixture.
    """
    x, counts = scores.middles, scores.counts.astype(np.float64)
    spread = float(counts @ (x - counts @ x / scores.total) ** 2) / scores.total
    first = np.searchsorted(cuts, np.arange(len(x)))
    members = (first == np.arange(len(cuts) + 1)[:, None]).astype(np.float64)
    last = -np.inf
    for _ in range(ITERATIONS):
        weights = members * counts
        mass = np.maximum(weights.sum(axis=1), TINY)
        means = weights @ x / mass
        squares = (x - means[:, None]) ** 2
        variances = (weights * squares).sum(axis=1) / mass
        variances = np.maximum(variances, max(MIN_VARIANCE, MIN_SPREAD**2 * spread))
        log = _log_densities(squares, mass / mass.sum(), variances)
        largest = log.max(axis=0)
        members = np.exp(log - largest)
        densities = members.sum(axis=0)
        members /= densities
        likelihood = float(counts @ (largest + np.log(densities)))
        if likelihood - last < CONVERGED * scores.total:
            break
        last = likelihood
    order = np.argsort(means, kind="stable")
    shares, means, variances = (mass / mass.sum())[order], means[order], variances[order]
    widest = int(np.argmax([0.0, *_separations(means, variances)]))
    gaussians = [tuple(values.tolist()) for values in (shares, means, variances)]
    fitted = Mixture(gaussians[0], gaussians[1], gaussians[2], widest)
    penalty = (3 * len(mass) - 1) / 2 * math.log(scores.total)
    return (likelihood - penalty if mass.min() >= MIN_SCORES_OF_ONE else -np.inf), fitted


def _log_densities(squares: np.ndarray, shares: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Compute the log density, float64 (c, n), of each Gaussian at each score.

    Args:
      squares: float64 (c, n), of the distances of the scores from the means.
      shares: float64 (c,).
      variances: float64 (c,).
    """
    heights = np.log(shares / np.sqrt(2 * np.pi * variances))
    return heights[:, None] - squares / (2 * variances[:, None])


def _separations(means: Sequence[float], variances: Sequence[float]) -> list[float]:
    """Measure the separation of each Gaussian and the next."""
    gaussians = list(zip(means, variances, strict=True))
    return [(b[0] - a[0]) / math.sqrt((a[1] + b[1]) / 2) for a, b in itertools.pairwise(gaussians)]


def precision_threshold(
    pairs: Histogram, decoys: Histogram, target_precision: float, sources_per_decoy: float
) -> float:
    """Find the minimum threshold at which an estimated `target_precision` of the pairs is right.

    Decoys are sentences known to have no translation, mined along with the source: each of their
    pairs is wrong. A source is assumed to find as many wrong pairs as a decoy does, which is too
    many where it has a translation, so the estimate is conservative. At threshold t

        precision = 1 - sources_per_decoy * (decoys at t or above + 1) / (pairs at t or above)

    where the added one accounts for decoys that were not drawn (Levitsky et al. 2017, from the
    target-decoy searches of proteomics): few decoys guarantee little.

    Args:
      pairs: scores of pairs whose source is not a decoy.
      decoys: scores of pairs whose source is a decoy.
      target_precision: between 0 and 1.
      sources_per_decoy: ratio of sources to decoys, whether they found a pair or not.

    Returns:
      The lower edge of a bin: `score >= threshold` keeps the bins that were counted.

    Raises:
      InputError: no threshold reaches the target.
    """
    right, wrong = (np.cumsum(side.counts[::-1])[::-1] for side in (pairs, decoys))
    above = np.append(wrong, 0)[np.searchsorted(decoys.bins, pairs.bins)]
    precision = 1 - sources_per_decoy * (above + 1) / right
    enough = np.flatnonzero(precision >= target_precision)
    if not len(enough):
        reached = (
            f"the maximum is {precision.max():.3f}" if len(precision) else "there are no pairs"
        )
        raise InputError(
            f"no threshold has a precision of {target_precision}: {reached}; "
            "give more decoys, or a lower target_precision"
        )
    return float(pairs.bins[enough[0]] * BIN)
