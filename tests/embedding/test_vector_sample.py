"""The sample of a search is the same however rows are spread, and large enough for its cells."""

import functools
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block
from beam_gpte.core.columns import VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.space import share_of_points
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import cosines, vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import hidden_block
from beam_gpte.embedding.vector_sample import SampleVectors, VectorSample

ROWS, DIM = 3000, 8


def described(rows: int = ROWS, dim: int = DIM, seed: int = 3) -> Block:
    """Make described rows: some keys are there twice, with the same vector."""
    random = np.random.default_rng(seed)
    keys = random.integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2)
    vectors = random.normal(size=(rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys[rows // 2 : rows // 2 + 50], vectors[rows // 2 : rows // 2 + 50] = keys[:50], vectors[:50]
    return hidden_block({VECTOR_KEY: pa.array(keys), VECTOR: vectors_to_arrow(vectors)})


def sampled(parts: list[list[Block]]) -> VectorSample:
    """Add each list of blocks on a worker of its own, and merge what these have."""
    share = functools.partial(share_of_points, threshold=0.9)
    combine = SampleVectors("DeduplicateSemantic", 100, 30, share)
    accumulators = []
    for blocks in parts:
        accumulator = combine.create_accumulator()
        for block in blocks:
            accumulator = combine.add_input(accumulator, block)
        accumulators.append(combine.compact(accumulator))
    return combine.extract_output(combine.merge_accumulators(accumulators))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, ROWS), max_size=12), st.integers(1, 5), st.integers(0, 99))
def test_a_sample_is_that_of_all_rows_whatever_their_order(
    cuts: list[int], workers: int, seed: int
) -> None:
    rows = described()
    order = np.random.default_rng(seed).permutation(ROWS)
    mixed, edges = rows.take(order), sorted({0, ROWS, *cuts})
    blocks = [mixed.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    whole, found = sampled([[rows]]), sampled([blocks[i::workers] for i in range(workers)])
    assert found.rows == whole.rows == ROWS
    for one, other in ((found.points, whole.points), (found.audited, whole.audited)):
        assert one.batch.equals(other.batch)
    keys = np.unique(rows.column(VECTOR_KEY).to_numpy())
    wanted = np.searchsorted(keys, np.uint64(share_of_points(ROWS, 0.9) * 2.0**64))
    assert wanted > 100
    np.testing.assert_array_equal(whole.points.column(VECTOR_KEY).to_numpy(), keys[:wanted])
    np.testing.assert_array_equal(whole.audited.column(VECTOR_KEY).to_numpy(), keys[:30])


def test_codes_have_the_directions_of_the_vectors() -> None:
    rows = described(rows=120)
    sample = sampled([[rows]])
    keys = rows.column(VECTOR_KEY).to_numpy().tolist()
    at = [keys.index(key) for key in sample.points.column(VECTOR_KEY).to_pylist()]
    exact = vector_matrix(rows.column(VECTOR))[at]
    assert cosines(sample.vectors(), exact).min() > 0.9999
    audited = vector_matrix(sample.audited.column(VECTOR))
    np.testing.assert_array_equal(audited, exact[:30])


def test_no_rows_give_an_empty_sample() -> None:
    sample = sampled([[], []])
    assert (sample.rows, len(sample.points), len(sample.audited)) == (0, 0, 0)


def test_vectors_of_two_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="vectors of 4 and 8 dimensions in one collection"):
        sampled([[described()], [described(dim=4, seed=4)]])
