"""Posteriors and thresholds agree with the humps that scores are drawn from, and with counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.posterior import (
    BIN,
    Mixture,
    fit_mixture,
    histogram,
    merge_histograms,
    precision_threshold,
)


def two_humps(
    count: int, share: float, seed: int = 0, upper: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores by chance, about 0.05, and of pairs, about `upper`; a `share` of them pairs."""
    random = np.random.default_rng(seed)
    pairs = random.random(count) < share
    right, wrong = random.normal(upper, 0.06, count), random.normal(0.05, 0.03, count)
    return np.where(pairs, right, wrong), pairs


numbers = st.lists(
    st.one_of(st.floats(-5, 5), st.sampled_from([0.0, -0.0, 0.5, BIN, -math.inf, math.nan]))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, max_size=5))
def test_histograms_merge_to_that_of_all_scores_in_any_order(parts: list[list[float]]) -> None:
    whole = histogram(np.array([score for part in parts for score in part]))
    for order in (parts, parts[::-1]):
        merged = merge_histograms([histogram(np.array(part)) for part in order])
        np.testing.assert_array_equal(merged.bins, whole.bins)
        np.testing.assert_array_equal(merged.counts, whole.counts)
    assert whole.total == sum(math.isfinite(score) for part in parts for score in part)
    assert all(
        any(b * BIN <= s < (b + 1) * BIN for part in parts for s in part) for b in whole.bins
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_fit_is_the_mixture_that_scores_are_drawn_from(share: float) -> None:
    scores, _ = two_humps(50_000, share)
    fitted = fit_mixture(histogram(scores))
    assert fitted.shares == pytest.approx((1 - share, share), abs=0.005)
    assert fitted.means == pytest.approx((0.05, 0.3), abs=0.01)
    assert np.sqrt(fitted.variances) == pytest.approx([0.03, 0.06], abs=0.005)
    parts = [histogram(part) for part in np.array_split(scores, 7)]
    assert fit_mixture(merge_histograms(parts[::-1])) == fitted


def test_posteriors_are_the_shares_of_pairs_at_a_score() -> None:
    scores, pairs = two_humps(200_000, 0.3, seed=1, upper=0.18)
    posterior = fit_mixture(histogram(scores)).posterior(scores)
    for low in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        near = (posterior >= low) & (posterior < low + 0.1)
        assert pairs[near].mean() == pytest.approx(posterior[near].mean(), abs=0.05)


mixtures = st.builds(
    lambda share, low, gap, a, b: Mixture((1 - share, share), (low, low + gap), (a**2, b**2)),
    st.floats(0.01, 0.99),
    st.floats(-1, 1),
    st.floats(0.05, 1),
    st.floats(0.01, 0.3),
    st.floats(0.01, 0.3),
)


@settings(max_examples=150, deadline=None)
@given(mixtures, st.floats(0.05, 0.99))
def test_a_posterior_never_falls_and_a_threshold_is_the_minimum_score_that_has_it(
    mixed: Mixture, posterior: float
) -> None:
    scores = np.linspace(mixed.means[0] - 2, mixed.means[1] + 5, 4001)
    values = mixed.posterior(scores)
    assert (np.diff(values) >= -1e-12).all()
    if values[-1] < posterior - 1e-6:
        with pytest.raises(InputError, match="no score has a posterior of"):
            mixed.threshold(posterior)
    elif values[-1] > posterior + 1e-6:
        threshold = mixed.threshold(posterior)
        assert threshold >= mixed.means[0]
        assert mixed.posterior(np.array([threshold]))[0] >= posterior
        if threshold > mixed.means[0]:
            assert mixed.posterior(np.array([threshold - 0.001]))[0] < posterior


def test_between_the_means_a_posterior_is_bayes_rule() -> None:
    """Cross in the middle for equal shares and variances; a deviation of 0.25 off, odds are e^2."""
    equal = Mixture((0.5, 0.5), (0.0, 0.5), (0.0625, 0.0625))
    expected = [0.5, 1 / (1 + math.exp(-2))]
    assert equal.posterior(np.array([0.25, 0.5])) == pytest.approx(expected, abs=1e-4)
    assert equal.threshold(0.5) == pytest.approx(0.25, abs=1e-3)


def test_a_wide_lower_hump_does_not_claim_the_highest_scores() -> None:
    wide = Mixture((0.9, 0.1), (0.0, 0.3), (0.1**2, 0.02**2))
    expected = wide.posterior(np.array([0.32]))[0]
    assert wide.posterior(np.array([0.32, 0.6, 5.0])) == pytest.approx(expected, abs=0.05)
    message = r"no score has a posterior of 0\.999, the maximum is 0\.98\d; give a threshold"
    with pytest.raises(InputError, match=message):
        wide.threshold(0.999)


def test_humps_that_cannot_be_separated_are_an_error() -> None:
    message = "0 scores are too few to separate pairs from chance, 50 are needed; give a threshold"
    with pytest.raises(InputError, match=message):
        fit_mixture(histogram(np.array([-np.inf])))
    with pytest.raises(InputError, match=r"all 300 scores are about 0\.2501: nothing separates"):
        fit_mixture(histogram(np.full(300, 0.25)))
    random = np.random.default_rng(0)
    for scores in (random.normal(0.1, 0.05, 10_000), random.logistic(0.1, 0.05, 10_000)):
        with pytest.raises(InputError, match=f"the scores of {len(scores)} pairs have one hump"):
            fit_mixture(histogram(scores))


def test_an_outlier_is_not_a_hump() -> None:
    scores = np.append(two_humps(1000, 0.3, seed=4)[0], 0.8)
    assert fit_mixture(histogram(scores)).means == pytest.approx((0.05, 0.3), abs=0.02)


def f1(kept: np.ndarray, pairs: np.ndarray) -> float:
    return 2 * (kept & pairs).sum() / (kept.sum() + pairs.sum())


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.8])
def test_the_tail_of_chance_is_not_taken_for_pairs(share: float) -> None:
    """Fit Gumbel variables, as the largest of many cosines are; two Gaussians fail at 0.03."""
    random = np.random.default_rng(5)
    pairs = random.random(20_000) < share
    scores = np.where(pairs, random.normal(0.3, 0.08, 20_000), random.gumbel(0.03, 0.02, 20_000))
    fitted = fit_mixture(histogram(scores))
    best = max(f1(scores >= threshold, pairs) for threshold in np.arange(0.05, 0.3, 0.005))
    assert f1(scores >= fitted.threshold(0.9), pairs) >= best - 0.02
    assert sum(fitted.shares[fitted.chance :]) == pytest.approx(share, abs=0.02)


def test_pairs_of_two_kinds_are_one_hump() -> None:
    """Fit literal and free translations: the gap to chance is wider than that between them."""
    random = np.random.default_rng(6)
    scores = np.concatenate(
        [random.normal(*hump, 5000) for hump in ((0.05, 0.02), (0.27, 0.04), (0.4, 0.04))]
    )
    fitted = fit_mixture(histogram(scores))
    assert (len(fitted.means), fitted.chance) == (3, 1)
    assert 0.1 < fitted.threshold(0.9) < 0.2


def test_two_sets_of_equal_scores_are_separated() -> None:
    fitted = fit_mixture(histogram(np.array([0.125] * 60 + [0.75] * 40)))
    assert fitted.shares == pytest.approx((0.6, 0.4))
    assert 0.125 < fitted.threshold(0.9) < 0.75


def test_a_precision_by_hand() -> None:
    """Work out precisions with ten times as many sources as decoys.

    At 0.5 there are one decoy and 80 pairs, so 20 may be wrong; at 0.25 two and 90; at 0 all 22 and
    290.
    """
    pairs = histogram(np.array([0.75] * 50 + [0.5] * 30 + [0.25] * 10 + [0.0] * 200))
    decoys = histogram(np.array([0.5, 0.25] + [0.0] * 20))
    for target, threshold in ((0.8, 0.75), (0.75, 0.5), (0.66, 0.25), (0.2, 0.0)):
        assert precision_threshold(pairs, decoys, target, 10) == threshold
    message = r"no threshold has a precision of 0\.9: the maximum is 0\.800; give more decoys"
    with pytest.raises(InputError, match=message):
        precision_threshold(pairs, decoys, 0.9, 10)
    with pytest.raises(InputError, match="there are no pairs"):
        precision_threshold(histogram(np.zeros(0)), decoys, 0.9, 10)


grid = st.lists(st.integers(-3, 12).map(lambda i: i * BIN), max_size=60)


@settings(max_examples=150, deadline=None)
@given(grid.filter(bool), grid, st.floats(0.05, 0.95), st.floats(0.1, 5))
def test_no_lower_threshold_has_the_precision(
    pairs: list[float], decoys: list[float], target: float, sources_per_decoy: float
) -> None:
    enough = []
    for threshold in sorted(set(pairs)):
        wrong, all_ = (sum(score >= threshold for score in side) for side in (decoys, pairs))
        if 1 - sources_per_decoy * (wrong + 1) / all_ >= target:
            enough.append(threshold)
    given_ = histogram(np.array(pairs)), histogram(np.array(decoys)), target, sources_per_decoy
    if enough:
        assert precision_threshold(*given_) == enough[0]
    else:
        with pytest.raises(InputError, match="no threshold has a precision"):
            precision_threshold(*given_)


def test_decoys_reach_the_target_precision_on_scores_drawn_from_two_humps() -> None:
    scores, pairs = two_humps(40_000, 0.2, seed=2)
    decoys, _ = two_humps(8_000, 0.0, seed=3)
    for target in (0.8, 0.9, 0.95):
        threshold = precision_threshold(histogram(scores), histogram(decoys), target, 5)
        assert target - 0.01 <= pairs[scores >= threshold].mean() <= target + 0.06
