"""A map keeps what two models share, and says when they share too little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.fit_vector_map import (
    PairedVectors,
    VectorMapOptions,
    fit_vector_map,
    recall,
)
from beam_gpte.core.vectors.vector_map import VectorMap


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def paired(source: np.ndarray, target: np.ndarray) -> PairedVectors:
    hashes = np.random.default_rng(9).integers(0, 2**64, len(source), np.uint64)
    return PairedVectors(unit(source), unit(target), hashes, (None, None))


def rotated(rows: int = 600, dim: int = 12, new_dim: int = 12, noise: float = 0.0) -> PairedVectors:
    """Vectors of one model, and their rotation with some noise."""
    rng = np.random.default_rng(0)
    source = unit(rng.standard_normal((rows, dim)))
    rotation = np.linalg.qr(rng.standard_normal((max(dim, new_dim),) * 2))[0][:dim, :new_dim]
    return paired(source, source @ rotation + noise * rng.standard_normal((rows, new_dim)))


def brute_force_recall(
    queries: np.ndarray, documents: np.ndarray, true: np.ndarray, k: int
) -> float:
    shares = []
    own, between = (
        (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)
        for a, b in ((true, true), (queries, documents))
    )
    for i in range(len(true)):
        others = [j for j in range(len(true)) if j != i]
        wanted = sorted(others, key=lambda j: (-own[i, j], j))[:k]
        found = sorted(others, key=lambda j: (-between[i, j], j))[:k]
        shares.append(len(set(wanted) & set(found)) / len(wanted))
    return float(np.mean(shares))


@pytest.mark.parametrize("method", ["orthogonal", "least_squares", "auto"])
def test_a_rotation_is_found_and_keeps_all_neighbors(method: str) -> None:
    pairs = rotated()
    fitted = fit_vector_map(pairs, VectorMapOptions(method))
    np.testing.assert_allclose(fitted.apply(pairs.source), pairs.target, atol=2e-3)
    assert fitted.report["retained_recall"] > 0.99
    assert fitted.report["rows_fitted"] + 2 * fitted.report["rows_measured"] > 500


def test_an_orthogonal_map_is_the_solution_of_the_procrustes_problem() -> None:
    from scipy.linalg import orthogonal_procrustes

    pairs = rotated(noise=0.1)
    fitted = fit_vector_map(pairs, VectorMapOptions("orthogonal", holdout=0.1))
    order = np.argsort(pairs.hashes * np.uint64(0x9E3779B97F4A7C15))
    sides = [side[order[60:]].astype(np.float64) for side in (pairs.source, pairs.target)]
    sides = [side - side.mean(axis=0) for side in sides]
    np.testing.assert_allclose(fitted.weights, orthogonal_procrustes(*sides)[0], atol=1e-5)


def test_a_linear_relation_needs_least_squares() -> None:
    rng = np.random.default_rng(1)
    source = unit(rng.standard_normal((800, 6)))
    pairs = paired(source, source @ np.diag([9.0, 5, 2, 1, 0.5, 0.1]))
    fitted = fit_vector_map(pairs, VectorMapOptions())
    assert fitted.report["method"] == "least_squares"
    alone = fit_vector_map(pairs, VectorMapOptions("orthogonal"))
    assert fitted.report["retained_recall"] > alone.report["retained_recall"]


@pytest.mark.parametrize("dims", [(12, 5), (5, 12)])
@pytest.mark.parametrize("method", ["orthogonal", "least_squares"])
def test_models_may_have_other_dimensions(dims: tuple[int, int], method: str) -> None:
    pairs = rotated(dim=dims[0], new_dim=dims[1], noise=0.01)
    fitted = fit_vector_map(pairs, VectorMapOptions(method))
    mapped = fitted.apply(pairs.source)
    assert mapped.shape == pairs.target.shape
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    assert fitted.report["retained_recall"] > 0.6


def test_unrelated_models_are_reported_as_not_to_be_mapped() -> None:
    rng = np.random.default_rng(2)
    pairs = paired(rng.standard_normal((600, 8)), rng.standard_normal((600, 8)))
    report = fit_vector_map(pairs, VectorMapOptions()).report
    assert report["usable"] is False
    assert report["why_not"].endswith("embed again")


def test_the_report_is_that_of_rows_that_were_not_fitted() -> None:
    # as many numbers as rows: what was fitted would be met exactly
    rng = np.random.default_rng(3)
    pairs = paired(rng.standard_normal((120, 100)), rng.standard_normal((120, 100)))
    report = fit_vector_map(pairs, VectorMapOptions("least_squares")).report
    assert report["mean_cosine"] < 0.3


@given(st.integers(3, 12), st.integers(1, 14), st.integers(0, 1000), st.booleans())
def test_recall_is_that_of_brute_force(rows: int, k: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    true, queries, documents = (
        unit(np.round(rng.standard_normal((rows, 3)), 0 if ties else 6) + 1e-3) for _ in range(3)
    )
    if ties:
        documents[: rows // 2] = documents[0]
    pairs = PairedVectors(true, true, np.arange(rows, dtype=np.uint64), (None, None))
    expected = brute_force_recall(queries, documents, true, k)
    assert recall(queries, documents, pairs, k) == pytest.approx(expected)


def test_a_file_gives_the_same_map_again() -> None:
    fitted = fit_vector_map(rotated(noise=0.1), VectorMapOptions())
    restored = VectorMap.from_bytes(fitted.to_bytes())
    assert restored.description() == fitted.description()
    assert restored.fingerprint == fitted.fingerprint
    for damaged in (b"", b"something else", fitted.to_bytes()[:-4]):
        with pytest.raises(InputError, match="not a map that FitVectorMap wrote"):
            VectorMap.from_bytes(damaged)


def test_a_zero_vector_stays_zero() -> None:
    fitted = fit_vector_map(rotated(), VectorMapOptions())
    assert not fitted.apply(np.zeros((1, 12), np.float32)).any()


MISTAKES = {
    "method 'svd'": {"method": "svd"},
    "holdout is 0": {"holdout": 0},
    "max_rows is 9": {"max_rows": 9},
    "k is 0": {"k": 0},
    "min_recall is 2": {"min_recall": 2},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorMapOptions(**MISTAKES[message])  # type: ignore[arg-type]


def test_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="9 rows have vectors of both models; give 10 or more"):
        fit_vector_map(rotated(9), VectorMapOptions())
