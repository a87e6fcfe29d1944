"""Margins and retrievals agree with loops over lists, and with LASER's rules."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import BEST_FORWARD, MARGIN, SOURCE_ID, TARGET_ID
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.margin import (
    BACKWARD_RANK,
    FORWARD_MEAN,
    FORWARD_RANK,
    Margin,
    Retrieval,
    best_first,
    best_forward,
    chosen,
    greedy_one_to_one,
    margins,
    mark_backward,
    nearest_sources,
    nearest_targets,
    with_margins,
)
from beam_gpte.core.vectors.near_frames import backward_candidates, forward_candidates
from beam_gpte.core.vectors.neighbors import Neighbors, nearest_neighbors

Scored = dict[tuple[int, int], float]


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def mined(sources: np.ndarray, targets: np.ndarray, k: int, margin: Margin) -> pl.DataFrame:
    """Search candidates with margins; sources are 0, 1, ..., targets 100, 101, ..."""
    ids = np.arange(len(sources)), np.arange(len(targets)) + 100
    forward, backward = nearest_neighbors(sources, ids[0], targets, ids[1], k)
    near = nearest_targets(forward_candidates(ids[0], forward).drop(FORWARD_RANK), k)
    both = nearest_sources(backward_candidates(ids[1], backward).drop(BACKWARD_RANK), near, k)
    return mark_backward(with_margins(both, margin)).sort(SOURCE_ID, TARGET_ID)


def retrieve(candidates: pl.DataFrame, retrieval: Retrieval) -> pl.DataFrame:
    """Choose pairs as mining does, sorted by margin."""
    pairs = candidates.filter(chosen(retrieval))
    return greedy_one_to_one(pairs) if retrieval == "max" else best_first(pairs)


def laser(
    sources: np.ndarray, targets: np.ndarray, k: int, margin: Margin, retrieval: str
) -> Scored:
    """Follow LASER's mine_bitexts.py and stopes' union, in float64, row by row."""
    products = sources.astype(np.float64) @ targets.T.astype(np.float64)

    def nearest(cosines: np.ndarray) -> list[int]:
        return sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))[:k]

    forward, backward = list(map(nearest, products)), list(map(nearest, products.T))

    def score(x: int, y: int) -> float:
        mean = (products[x, forward[x]].mean() + products[backward[y], y].mean()) / 2
        cosine = products[x, y]
        return {"absolute": cosine, "distance": cosine - mean, "ratio": cosine / mean}[margin]

    best_forward = {
        (x, min(near, key=lambda y, x=x: (-score(x, y), y))) for x, near in enumerate(forward)
    }
    best_backward = {
        (min(near, key=lambda x, y=y: (-score(x, y), x)), y) for y, near in enumerate(backward)
    }
    pairs = {
        "forward": best_forward,
        "backward": best_backward,
        "intersection": best_forward & best_backward,
        "union": best_forward | best_backward,
        "max": set(),
    }[retrieval]
    if retrieval == "max":
        for x, y in sorted(best_forward | best_backward, key=lambda pair: (-score(*pair), pair)):
            if not any(x == a or y == b for a, b in pairs):
                pairs.add((x, y))
    return {(x, y + 100): score(x, y) for x, y in pairs}


def unit(rows: int, seed: int) -> np.ndarray:
    """Draw random directions with a common part, so that no mean is close to zero."""
    vectors = np.random.default_rng(seed).normal(size=(rows, 6)) + [2, 0, 0, 0, 0, 0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("retrieval", ["forward", "backward", "intersection", "max", "union"])
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_pairs_and_margins_are_those_of_the_published_rules(
    margin: Margin, retrieval: Retrieval
) -> None:
    sources, targets = unit(60, 0), unit(45, 1)
    pairs = retrieve(mined(sources, targets, 4, margin), retrieval)
    rows = pairs.select(SOURCE_ID, TARGET_ID, MARGIN).rows()
    found = {(source, target): score for source, target, score in rows}
    assert found == pytest.approx(laser(sources, targets, 4, margin, retrieval), abs=1e-6)
    assert pairs[MARGIN].is_sorted(descending=True)
    if retrieval in ("intersection", "max"):
        assert pairs[SOURCE_ID].is_unique().all()
        assert pairs[TARGET_ID].is_unique().all()


def test_three_margins_by_hand() -> None:
    """Work out the margins where the mean of the two means is 0.5."""
    given_ = floats(0.75), floats(0.625), floats(0.375)
    assert margins(*given_, "absolute").tolist() == [0.75]
    assert margins(*given_, "distance").tolist() == [0.25]
    assert margins(*given_, "ratio").tolist() == [1.5]


def test_a_ratio_to_a_mean_that_is_not_positive_is_below_all_others() -> None:
    given_ = floats(0.5, 0.5, -0.5), floats(-0.25, -0.5, 0.25), floats(0.25, 0.25, 0.25)
    assert margins(*given_, "ratio").tolist() == [-np.inf, -np.inf, -2]
    assert margins(*given_, "distance").tolist() == [0.5, 0.625, -0.75]


def test_means_are_of_the_neighbors_that_a_row_has() -> None:
    found = Neighbors(
        np.array([[0, 1], [0, 9], [9, 9]]),
        np.array([[1, 0.5], [0.25, -np.inf], [-np.inf, -np.inf]], np.float32),
    )
    near = nearest_targets(forward_candidates(np.arange(3), found).drop(FORWARD_RANK), 2)
    means = near.select(SOURCE_ID, FORWARD_MEAN).unique().sort(SOURCE_ID)
    assert means.rows() == [(0, 0.75), (1, 0.25)]


def test_candidates_of_both_directions_are_listed_once_with_both_ranks() -> None:
    """Search sources at 0 and 10 degrees among targets at 0, 15 and 90.

    The last target is not a neighbor of any source, but has one itself.
    """
    angles = np.radians([0, 10]), np.radians([0, 15, 90])
    sources, targets = (
        np.stack([np.cos(side), np.sin(side)], axis=1).astype(np.float32) for side in angles
    )
    found = mined(sources, targets, 1, "absolute")
    ranks = found.select(SOURCE_ID, TARGET_ID, FORWARD_RANK, BACKWARD_RANK).rows()
    assert ranks == [(0, 100, 1, 1), (1, 101, 1, 1), (1, 102, None, 1)]
    assert found[FORWARD_MEAN].dtype == found[MARGIN].dtype == pl.Float32
    forward, backward = (retrieve(found, retrieval) for retrieval in ("forward", "backward"))
    assert forward.select(SOURCE_ID, TARGET_ID).rows() == [(0, 100), (1, 101)]
    assert backward.select(SOURCE_ID, TARGET_ID).rows() == [(0, 100), (1, 101), (1, 102)]


scored = st.dictionaries(
    st.tuples(st.integers(0, 6), st.integers(0, 6)), st.sampled_from([0.25, 0.5, 1.0])
)


def frame(pairs: Scored) -> pl.DataFrame:
    """Build candidates as if every pair were among the neighbors of both its rows."""
    rows = [(x, y, score, 1, 1) for (x, y), score in pairs.items()]
    names = {SOURCE_ID: pl.Int64, TARGET_ID: pl.Int64, MARGIN: pl.Float32}
    candidates = pl.DataFrame(
        rows, names | {FORWARD_RANK: pl.Int32, BACKWARD_RANK: pl.Int32}, orient="row"
    )
    best = best_forward(candidates).select(SOURCE_ID, TARGET_ID, pl.lit(True).alias(BEST_FORWARD))
    marked = candidates.join(best, on=[SOURCE_ID, TARGET_ID], how="left")
    return mark_backward(marked.with_columns(pl.col(BEST_FORWARD).fill_null(False)))


@settings(max_examples=150, deadline=None)
@given(scored)
def test_equal_margins_are_decided_by_ids(pairs: Scored) -> None:
    """Decide the same for every order of the candidates."""
    order = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    used: set[str] = set()
    greedy = []
    for x, y in order:
        if not used & {f"s{x}", f"t{y}"}:
            greedy.append((x, y))
            used |= {f"s{x}", f"t{y}"}
    first = {x: next(pair for pair in order if pair[0] == x) for x, _ in pairs}
    last = {y: next(pair for pair in order if pair[1] == y) for _, y in pairs}
    mutual = [pair for pair in order if pair == first[pair[0]] == last[pair[1]]]
    for candidates in (frame(pairs), frame(pairs).reverse()):
        assert greedy_one_to_one(candidates).select(SOURCE_ID, TARGET_ID).rows() == greedy
        assert retrieve(candidates, "intersection").select(SOURCE_ID, TARGET_ID).rows() == mutual


@pytest.mark.parametrize("retrieval", ["forward", "backward", "intersection", "max", "union"])
def test_an_empty_side_gives_no_pairs(retrieval: Retrieval) -> None:
    found = retrieve(mined(unit(3, 0), unit(0, 1), 4, "ratio"), retrieval)
    assert len(found) == 0
    assert found.columns[:3] == [SOURCE_ID, TARGET_ID, "cosine"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="margin is 'cosine'; use ratio, distance, absolute"):
        margins(floats(1), floats(1), floats(1), "cosine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="retrieval is 'fwd'; use forward, backward"):
        retrieve(frame({}), "fwd")  # type: ignore[arg-type]
