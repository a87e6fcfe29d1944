"""Token vectors are those of sentence-transformers, for each layout, alone or among others."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import EncoderConfig, InputError
from beam_gpte.core.multi_vectors.token_encoder import NO_TOKEN, TokenEncoder
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling
from beam_gpte.core.visible_text import EMPTY
from tests.core.multi_vectors import tiny_models
from tests.core.multi_vectors.tiny_models import DIM, MODELS, TEXTS

Tiny = Callable[[str], str]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def encoder(tiny: Tiny) -> TokenEncoder:
    return TokenEncoder.load(tiny("pylate"))


def oracle(folder: str) -> "object":
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(folder, device="cpu", local_files_only=True)


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_sentence_transformers(tiny: Tiny, name: str) -> None:
    ours, theirs = TokenEncoder.load(tiny(name)), oracle(tiny(name))
    assert ours.unpadded == ("own attention" not in name)
    for route in ("query", "document"):
        expected = getattr(theirs, f"encode_{route}")(TEXTS, convert_to_numpy=True)
        found = ours.encode(TEXTS, route)
        for text, one, other in zip(TEXTS, found, expected, strict=True):
            assert one.dtype == np.float32
            assert one.shape == other.shape, (route, text)
            if "pooled" in name and route == "document":  # the order of clusters is another
                one, other = (x[np.lexsort(x.round(4).T)] for x in (one, other))
            assert np.abs(one - other).max() < TOLERANCE, (route, text)


def test_the_expanding_tokens_of_a_query_have_vectors_and_no_other_token_sees_them(
    tiny: Tiny, encoder: TokenEncoder
) -> None:
    attended = TokenEncoder.load(tiny("pylate, attended"))
    plain = TokenEncoder.load(tiny("pylate, no expansion"))
    (blind,), (seen,), (short,) = (
        one.encode(["w1 w2"], "query") for one in (encoder, attended, plain)
    )
    assert blind.shape == seen.shape == (12, DIM)
    assert short.shape == (5, DIM)  # [CLS] [Q] w1 w2 [SEP]
    assert np.abs(blind[:5] - short).max() < TOLERANCE
    assert np.abs(seen[:5] - short).max() > 0.01
    assert encoder.fingerprint != attended.fingerprint


def test_a_document_of_punctuation_keeps_the_vectors_of_its_special_tokens(
    encoder: TokenEncoder,
) -> None:
    (vectors,) = encoder.encode(["... !"])
    assert vectors.shape == (3, DIM)  # [CLS] [D] [SEP]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(
            st.sampled_from([*tiny_models.WORDS[:6], "other", ".", "[unused0]", "[Q]", "[MASK]"]),
            min_size=1,
            max_size=45,
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["query", "document"]),
)
def test_neighbors_change_no_vector(
    encoder: TokenEncoder, words: list[list[str]], route: str
) -> None:
    texts = [" ".join(some) for some in words]
    together = encoder.encode_with_counts(texts, route)
    for i, text in enumerate(texts):
        (alone,) = encoder.encode([text], route)
        assert together.vectors[i].shape == alone.shape
        assert np.abs(together.vectors[i] - alone).max() < TOLERANCE
        assert len(alone) <= (12 if route == "query" else 20)
    assert together.distinct == len(set(map(str.lower, texts))) or together.distinct < len(texts)


def test_the_work_is_counted(encoder: TokenEncoder) -> None:
    found = encoder.encode_with_counts(["w1 w2", "w1  w2", " ".join(tiny_models.WORDS), "\u200b"])
    assert found.tokens.tolist()[:3] == [5, 5, 20]
    assert found.dropped.tolist()[:3] == [0, 0, 40 - 17]
    assert (found.distinct, found.needed, found.computed) == (2, 25, 25)
    assert found.failed == {3: EMPTY}
    assert found.vectors.lengths.tolist() == [5, 5, 20, 0]
    assert encoder.encode([]) == []
    with pytest.raises(InputError, match="text 1: text is empty"):
        encoder.encode(["w1", ""])
    with pytest.raises(InputError, match="route 'passage': choose query or document"):
        encoder.encode(["w1"], "passage")
    with pytest.raises(InputError, match=r"'w1' is one text, not a list"):
        encoder.encode("w1")  # type: ignore[arg-type]


def test_a_text_of_which_no_token_counts_fails_alone(tiny: Tiny, tmp_path: "object") -> None:
    folder = tiny_models.native(tmp_path, skiplist_words=["[CLS]", "[SEP]", ".", "[UNK]"])  # type: ignore[arg-type]
    encoder = TokenEncoder.load(folder)
    found = encoder.encode_with_counts(["...", "w1 ."])
    assert found.failed == {0: NO_TOKEN}
    assert found.vectors.lengths.tolist() == [0, 1]


def test_pooling_of_documents_takes_the_place_of_the_model_s_own(tiny: Tiny) -> None:
    encoder = TokenEncoder.load(tiny("sentence-transformers, pooled"))
    text = [" ".join(tiny_models.WORDS[:16])]
    assert [len(encoder.encode(text, route)[0]) for route in ("query", "document")] == [9, 9]
    assert len(encoder.encode(text, pooling=TokenPooling(1))[0]) == 18
    assert len(encoder.encode(text, pooling=TokenPooling(4, 2))[0]) == 6
    assert encoder.metadata("document").pool_factor == 2
    assert encoder.metadata("query").pool_factor == 1
    assert encoder.metadata("document").fingerprint == encoder.metadata("query").fingerprint


def test_precisions_and_lengths_are_settings_and_all_others_are_refused(tiny: Tiny) -> None:
    folder = tiny("pylate")
    shorter = TokenEncoder.load(EncoderConfig(folder, max_tokens=6))
    (document,) = shorter.encode(["w1 w2 w3 w4 w5"])
    assert len(document) == 6
    assert len(shorter.encode(["w1"], "query")[0]) == 12
    assert shorter.fingerprint != TokenEncoder.load(folder).fingerprint
    with pytest.raises(InputError, match="pooling 'cls': a model of token vectors supports only"):
        TokenEncoder.load(EncoderConfig(folder, pooling="cls"))
    with pytest.raises(InputError, match="has 48 positions"):
        TokenEncoder.load(EncoderConfig(folder, max_tokens=99))


def test_a_batch_of_one_token_budget_gives_the_same_vectors(
    tiny: Tiny, encoder: TokenEncoder
) -> None:
    small = TokenEncoder.load(EncoderConfig(tiny("pylate"), token_budget=1))
    for route in ("query", "document"):
        for one, other in zip(
            small.encode(TEXTS, route), encoder.encode(TEXTS, route), strict=True
        ):
            assert np.abs(one - other).max() < TOLERANCE
