"""MaxSim is its definition, written out, whatever the tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import InputError
from beam_gpte.core.multi_vectors import max_sim as module
from beam_gpte.core.multi_vectors.max_sim import TokenVectors, max_sim
from beam_gpte.core.vectors.quantize import dequantize, quantize

DIM = 8


def unit(generator: np.random.Generator, tokens: int) -> np.ndarray:
    vectors = generator.standard_normal((tokens, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def definition(query: np.ndarray, document: np.ndarray) -> float:
    """The sum, over the query's vectors, of the largest product with one of the document's."""
    if not len(query) or not len(document):
        return np.nan
    return float(sum(max(float(q @ d) for d in document) for q in query))


LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@settings(max_examples=60)
@given(LENGTHS, LENGTHS, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
@pytest.mark.parametrize("tile", [1, 17, 1 << 20])
def test_scores_are_those_of_the_definition(
    tile: int, queries: list[int], documents: list[int], pairs: list[tuple[int, int]]
) -> None:
    generator = np.random.default_rng(len(pairs))
    ours = [unit(generator, n) for n in queries], [unit(generator, n) for n in documents]
    at = np.array([(q % len(queries), d % len(documents)) for q, d in pairs], int).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        found = max_sim(*map(TokenVectors.of, ours), at)
        mean = max_sim(*map(TokenVectors.of, ours), at, mean=True)
    assert found.dtype == np.float32
    expected = np.array([definition(ours[0][q], ours[1][d]) for q, d in at.tolist()])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lengths = np.array([max(len(ours[0][q]), 1) for q in at[:, 0]])
    np.testing.assert_allclose(mean, expected / lengths, atol=1e-5)


def test_scores_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.util.similarity import maxsim, mean_maxsim_pairwise

    generator = np.random.default_rng(7)
    queries = [unit(generator, n) for n in (1, 32, 5)]
    documents = [unit(generator, n) for n in (1, 70, 3, 300)]
    at = np.array([(q, d) for q in range(3) for d in range(4)])
    ours = TokenVectors.of(queries), TokenVectors.of(documents)
    expected = maxsim(queries, documents).numpy()
    np.testing.assert_allclose(max_sim(*ours, at).reshape(3, 4), expected, atol=1e-5)
    three = mean_maxsim_pairwise(queries, documents[:3]).numpy()
    same = np.stack([np.arange(3)] * 2, axis=1)
    np.testing.assert_allclose(max_sim(*ours, same, mean=True), three, atol=1e-6)


@pytest.mark.parametrize("limit", [None, 0.7])
def test_codes_are_scored_as_the_vectors_that_they_stand_for(limit: float | None) -> None:
    generator = np.random.default_rng(1)
    queries, documents = unit(generator, 20), unit(generator, 30)
    codes = quantize(queries, "int8", limit), quantize(documents, "int8", limit)
    sides = [TokenVectors(side, np.array([0, len(side)]), limit) for side in codes]
    (found,) = max_sim(sides[0], sides[1], np.array([[0, 0]]))
    vectors = [dequantize(side, int8_limit=limit) for side in codes]
    assert found == pytest.approx(definition(*vectors), abs=1e-5)
    if limit is None:
        assert found == pytest.approx(definition(queries, documents), abs=0.05)


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_codes_of_a_document_become_vectors_once_whatever_the_queries(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    generator = np.random.default_rng(5)
    texts = [unit(generator, n) for n in (3, 0, 9, 1, 4, 12)]
    codes = TokenVectors.of([quantize(text, "int8") for text in texts])
    queries = TokenVectors.of([unit(generator, n) for n in (2, 5, 0, 7)])
    # not all documents, some with several queries, in any order
    at = generator.permutation([(q, d) for q in range(4) for d in (0, 1, 2, 5)])
    plain = TokenVectors.of([codes[i] for i in range(len(texts))])
    expected = max_sim(queries, plain, at)
    seen = []

    def note(part: np.ndarray, **settings: float | None) -> np.ndarray:
        seen.append(len(part))
        return dequantize(part, **settings)

    monkeypatch.setattr(module, "dequantize", note)
    monkeypatch.setattr(module, "BLOCK", block)
    np.testing.assert_allclose(max_sim(queries, codes, at), expected, atol=1e-6)
    assert sorted(seen) == [0, 3, 9, 12]


def test_vectors_of_two_models_are_not_scored() -> None:
    sides = [TokenVectors.of([np.ones((1, dim), np.float32)]) for dim in (2, 3)]
    with pytest.raises(InputError, match="token vectors of 2 and 3 dimensions; embed queries"):
        max_sim(sides[0], sides[1], np.array([[0, 0]]))
