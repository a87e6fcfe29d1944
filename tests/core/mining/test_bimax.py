"""The similarity of two documents is that of the published formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.mining import bimax as module
from beam_gpte.core.mining.bimax import bimax


def unit(rows: int, seed: int, dim: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_formula(source: np.ndarray, target: np.ndarray) -> float:
    forward = sum(max(float(s @ t) for t in target) for s in source) / len(source)
    backward = sum(max(float(s @ t) for s in source) for t in target) / len(target)
    return (forward + backward) / 2


def test_each_sentence_counts_by_its_nearest_on_the_other_side() -> None:
    """Work out by hand: of two sources one has a counterpart, the only target has one."""
    source, target = np.eye(2, dtype=np.float32), np.array([[1, 0]], np.float32)
    assert bimax(source, target) == ((1 + 0) / 2 + 1) / 2 == 0.75
    assert bimax(source, -target) == ((-1 + 0) / 2 + 0) / 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 3), st.sampled_from([4, 2048]), st.integers(0, 10**6))
def test_it_is_the_formula_in_tiles_of_any_size(
    rows: int, others: int, tile: int, seed: int
) -> None:
    source, target = unit(rows, seed), unit(others * rows, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        assert bimax(source, target) == pytest.approx(by_formula(source, target), abs=1e-6)
        assert bimax(target, source) == pytest.approx(bimax(source, target), abs=1e-6)
        half = bimax(source.astype(np.float16), target.astype(np.float16))
    assert half == pytest.approx(by_formula(source, target), abs=2e-3)


def test_a_document_is_nearest_to_itself() -> None:
    document = unit(50, 0)
    assert bimax(document, document) == pytest.approx(1, abs=1e-6)
    assert bimax(document, document[::-1]) == pytest.approx(1, abs=1e-6)  # in any order


def test_documents_without_sentences_and_of_two_models() -> None:
    nothing = np.zeros((0, 8), np.float32)
    assert bimax(nothing, unit(3, 0)) == bimax(unit(3, 0), nothing) == -1
    with pytest.raises(InputError, match="vectors of 8 and 3 dimensions on the two sides; embed"):
        bimax(unit(2, 0), unit(2, 0, 3))
