"""Requests: every text in one of them, as many as fit, whatever the lengths."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte import TextEncoder
from beam_gpte.core.served.packing import estimated_tokens, pack, token_counter


@given(
    st.lists(st.integers(1, 50), max_size=60),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 120)),
)
def test_every_text_is_in_one_request_that_fits(
    sizes: list[int], items: int, limit: int | None
) -> None:
    tokens = np.array(sizes, np.int64)
    packed = pack(tokens, items, limit)
    assert sorted(i for part in packed for i in part.tolist()) == list(range(len(sizes)))
    for part in packed:
        assert 1 <= len(part) <= items
        assert len(part) == 1 or limit is None or tokens[part].sum() <= limit
    if limit is None:
        assert len(packed) == -(-len(sizes) // items)
    for part, following in itertools.pairwise(packed):  # none could have taken the next
        more = tokens[part].sum() + tokens[following[0]]
        assert len(part) == items or (limit is not None and more > limit)


def test_texts_of_one_length_go_together_the_longest_first() -> None:
    packed = pack(np.array([1, 9, 1, 9]), 2)
    assert [part.tolist() for part in packed] == [[1, 3], [0, 2]]


def test_a_token_is_taken_for_two_bytes() -> None:
    assert estimated_tokens(["", "abcd", "東京"]).tolist() == [2, 4, 5]


def test_the_estimate_is_seldom_too_small(encoder: TextEncoder) -> None:
    texts = ["The cat sat on the mat.", "Donaudampfschifffahrt", "東京 Привет"]
    counted = encoder.count_tokens(texts).tokens
    assert (estimated_tokens(texts) >= counted).all()


def test_a_tokenizer_counts_what_its_model_would_see(minilm: str, encoder: TextEncoder) -> None:
    texts = ["The cat sat on the mat.", "one", "word " * 1000]
    counts = encoder.count_tokens(texts)
    counted = token_counter(minilm)(texts)
    assert counted.tolist() == (counts.tokens + counts.dropped).tolist()
