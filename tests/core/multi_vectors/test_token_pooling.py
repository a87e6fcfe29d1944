"""Pooled vectors are the means of Ward's clusters, as sentence-transformers has them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import InputError
from beam_gpte.core.multi_vectors import token_pooling
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling
from tests.core.multi_vectors.test_max_sim import unit


def rows(vectors: np.ndarray) -> np.ndarray:
    """Sort vectors, whose order has no meaning."""
    return vectors[np.lexsort(vectors.round(4).T)]


@settings(max_examples=60)
@given(
    st.integers(0, 40),
    st.sampled_from([1, 1.5, 2, 3.7, 100]),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 3),
)
def test_vectors_are_those_of_sentence_transformers(
    tokens: int, factor: float, protected: int, normalize: bool, seed: int
) -> None:
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    vectors = unit(np.random.default_rng(seed), tokens)
    found = TokenPooling(factor, protected, normalize).pool(vectors)
    theirs = HierarchicalTokenPooling(
        float(factor), num_protected_tokens=protected, normalize_embeddings=normalize
    )
    expected = theirs.pool_one(torch.from_numpy(vectors)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(rows(found), rows(expected), atol=1e-6)
    np.testing.assert_allclose(found[:protected], vectors[:protected], atol=1e-6)
    assert len(found) >= min(tokens, 1)


def test_clusters_of_three_groups_are_their_means_in_the_order_of_their_first_token() -> None:
    groups = [[1, 0.1], [0.1, 1], [-1, 0.1]]
    vectors = np.array([groups[i] for i in (1, 0, 1, 2, 0, 2)], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pooled = TokenPooling(2, protected=0).pool(vectors)
    np.testing.assert_allclose(pooled, vectors[[0, 1, 3]], atol=1e-6)


def test_a_long_document_is_clustered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(0), 21)
    monkeypatch.setattr(token_pooling, "AT_ONCE", 8)
    found = TokenPooling(2, protected=1).pool(vectors)
    parts = [
        TokenPooling(2, protected=0).pool(vectors[i:j]) for i, j in ((1, 9), (9, 17), (17, 21))
    ]
    np.testing.assert_allclose(found, np.concatenate([vectors[:1], *parts]), atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 0, float("inf"), float("nan"), True, "2"])
def test_other_factors_are_refused(factor: object) -> None:
    with pytest.raises(InputError, match="give a number from 1, which keeps all"):
        TokenPooling(factor)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="protected_tokens -1: give 0"):
        TokenPooling(2, -1)
