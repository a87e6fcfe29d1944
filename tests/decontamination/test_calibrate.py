"""The threshold: few clean documents exceed it, whatever is contaminated."""

import numpy as np
import pytest

from beam_gpte.core.mining.posterior import histogram
from beam_gpte.decontamination.calibrate import (
    FEW_PASSAGES_THRESHOLD,
    CountScores,
    PassageScores,
    choose_threshold,
    fit_threshold,
)


def counted(best: np.ndarray, documents: int | None = None) -> PassageScores:
    return PassageScores(len(best) if documents is None else documents, len(best), histogram(best))


def drawn(rows: int, location: float = 0.3, scale: float = 0.05, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gumbel(location, scale, rows).clip(-1, 1)


@pytest.mark.parametrize("target", [0.01, 0.001])
def test_the_wanted_share_of_clean_passages_exceeds_the_threshold(target: float) -> None:
    threshold = fit_threshold(counted(drawn(20_000, 0.1, 0.1)), target)
    exceeding = (drawn(1_000_000, 0.1, 0.1, seed=1) >= threshold).mean()
    assert target / 2 < exceeding < 2 * target


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_contaminated_passages_hardly_lift_the_threshold(share: float) -> None:
    clean = drawn(10_000, 0.2, 0.06)
    rows = int(share / (1 - share) * len(clean))
    copies = np.random.default_rng(1).normal(0.85, 0.05, rows).clip(-1, 1)
    lifted = fit_threshold(counted(np.append(clean, copies)), 0.001)
    assert abs(lifted - fit_threshold(counted(clean), 0.001)) < 0.03
    assert (copies > lifted).mean() > 0.9


def test_of_several_passages_of_a_document_fewer_may_exceed_it() -> None:
    best = drawn(10_000, 0.2, 0.07)
    one, ten = (fit_threshold(counted(best, rows), 0.001) for rows in (10_000, 1_000))
    assert ten - one == pytest.approx(0.07 * np.log(10), rel=0.05)


def test_the_threshold_is_halfway_to_a_copy_at_least() -> None:
    assert fit_threshold(counted(drawn(1000, 0.2, 0.001)), 0.001) == pytest.approx(0.6, abs=0.01)


def test_the_threshold_stays_below_one() -> None:
    assert fit_threshold(counted(np.random.default_rng(0).uniform(0, 1, 1000)), 0.001) < 1
    assert fit_threshold(counted(np.ones(200)), 0.001) == pytest.approx(1, abs=1e-3)


def test_known_clean_passages_decide() -> None:
    clean = np.linspace(0, 0.7, 10_000)
    found = choose_threshold(counted(drawn(1000)), counted(clean), None, 0.001)
    assert found.source == "clean"
    assert 6 <= (clean >= found.cosine).sum() <= 10
    few = choose_threshold(counted(drawn(1000)), counted(clean[::1000]), None, 0.001)
    assert few.cosine > clean[::1000].max()


def test_a_given_threshold_is_used_and_few_passages_have_a_default() -> None:
    few = counted(drawn(99))
    assert choose_threshold(few, None, 0.7, 0.001).cosine == 0.7
    assert choose_threshold(few, None, None, 0.001).cosine == FEW_PASSAGES_THRESHOLD
    assert choose_threshold(PassageScores(), PassageScores(), None, 0.001).source == "default"


def test_counts_are_added_in_any_order() -> None:
    count = CountScores()
    parts = [counted(drawn(10, seed=seed), 3) for seed in range(3)]
    forward, backward = (count.merge_accumulators(order) for order in (parts, parts[::-1]))
    assert forward.documents == backward.documents == 9
    assert forward.best.counts.tolist() == backward.best.counts.tolist()
