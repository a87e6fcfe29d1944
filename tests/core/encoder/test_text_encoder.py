"""Check that a text gets its model's vector, whatever its neighbors and however it is batched."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.batching import sorted_batches
from beam_gpte.core.encoder.pooling import pool
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata

LONG = "word " * 600


@pytest.fixture(scope="module")
def prompted(minilm: str) -> TextEncoder:
    return TextEncoder.load(EncoderConfig(minilm, prompt="query: "))


def test_vectors_equal_those_of_sentence_transformers(
    minilm: str, encoder: TextEncoder, stsb: list[tuple[str, str, float]]
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [LONG, "A", "ä" * 50, "日本語のテキスト", "x\ny\tz", *(pair[0] for pair in stsb[:195])]
    theirs = sentence_transformers.SentenceTransformer(minilm, device="cpu").encode(texts)
    assert len(texts) == 200
    assert (encoder.encode(texts) * theirs).sum(1).min() >= 0.999999


def test_a_bert_runs_without_padding(encoder: TextEncoder) -> None:
    assert encoder.unpadded
    encoding = encoder.encode_with_counts(["short", "a little longer", LONG])
    assert encoding.computed == encoding.needed == sum(encoding.tokens)


@pytest.mark.parametrize(
    ("pairs", "published"),
    [(200, 93.09), pytest.param(1379, 82.03, marks=pytest.mark.whole)],
)
def test_published_quality_is_reached(
    encoder: TextEncoder, stsb: list[tuple[str, str, float]], pairs: int, published: float
) -> None:
    """Of the first pairs, the number is what sentence-transformers reaches."""
    scipy_stats = pytest.importorskip("scipy.stats")
    some = stsb[:pairs]
    assert len(some) == pairs
    a, b = (encoder.encode([pair[i] for pair in some]) for i in (0, 1))
    rho = scipy_stats.spearmanr((a * b).sum(1), [pair[2] for pair in some]).statistic
    assert 100 * rho == pytest.approx(published, abs=0.05)


def test_a_vector_does_not_depend_on_neighbors_order_or_budget(
    minilm: str, encoder: TextEncoder, stsb: list[tuple[str, str, float]]
) -> None:
    texts = [pair[0] for pair in stsb[:60]] + [LONG]
    together = encoder.encode(texts)
    assert np.abs(together - np.vstack([encoder.encode([text]) for text in texts])).max() < 1e-5
    assert np.abs(together - encoder.encode(texts[::-1])[::-1]).max() < 1e-5
    tight = TextEncoder.load(EncoderConfig(minilm, token_budget=64))
    assert np.abs(together - tight.encode(texts)).max() < 1e-5
    assert tight.fingerprint == encoder.fingerprint


def test_many_texts_are_tokenized_some_at_a_time(
    encoder: TextEncoder, stsb: list[tuple[str, str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [pair[0] for pair in stsb[:40]] + ["", LONG, stsb[0][0]]
    expected = encoder.encode_with_counts(texts)
    monkeypatch.setattr("beam_gpte.core.encoder.text_encoder.TEXTS_AHEAD", 7)
    found = encoder.encode_with_counts(texts)
    assert expected.failed == {40: "text is empty: it has no visible character"}
    for field in dataclasses.fields(expected):
        pair = getattr(found, field.name), getattr(expected, field.name)
        assert np.array_equal(*pair, equal_nan=field.name == "vectors"), field.name


def test_fp16_is_refused_on_a_cpu(minilm: str) -> None:
    with pytest.raises(InputError, match="precision 'fp16' needs a GPU"):
        TextEncoder.load(EncoderConfig(minilm, precision="fp16", device="cpu"))


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a cat", "'a cat' is one text, not a list of texts"),
        (["a", None], "text 1 is None"),
        (["a\ud83d"], "text 0 is not valid Unicode"),
        ([("a", "cat")], "text 0 is of type tuple"),
        (["a", ""], "text 1: text is empty"),
        (["\u200b"], "text 0: text is empty: it has no visible character"),
        (["\U000f0000"], "text 0: text is empty: the model has no token for it"),  # private use
    ],
)
def test_only_lists_of_texts_with_tokens_are_encoded(
    encoder: TextEncoder, prompted: TextEncoder, texts: Any, message: str
) -> None:
    for loaded in (encoder, prompted):
        with pytest.raises(InputError, match=message):
            loaded.encode(texts)


@pytest.mark.parametrize("settings", [{"prompt": "a "}, {"template": "a {text} b"}])
def test_a_prompt_that_leaves_no_place_for_a_text_is_refused(
    minilm: str, settings: dict[str, str]
) -> None:
    longer = {name: text.replace("a ", "a " * 7) for name, text in settings.items()}
    with pytest.raises(InputError, match="prompt or template alone takes all 9 tokens"):
        TextEncoder.load(EncoderConfig(minilm, max_tokens=9, **longer))
    assert TextEncoder.load(EncoderConfig(minilm, max_tokens=9, **settings)).dim == 384


def test_a_vector_that_is_not_finite_fails_its_text_and_no_other(minilm: str) -> None:
    encoder = TextEncoder.load(minilm)
    run = encoder._runner.run

    def damaged(pieces: list, *more: Any) -> Any:
        result = run(pieces, *more)
        result.vectors[1] = result.vectors[1] * np.inf
        return result

    encoder._runner.run = damaged
    encoding = encoder.encode_with_counts(["one", "two", "three", "two"])
    reason = "the model gave a vector that is not finite"
    assert encoding.failed == {1: reason, 3: reason}
    with pytest.raises(InputError, match=f"text 1: {reason}"):
        encoder.encode(["one", "two"])


def test_tokens_and_truncation_are_counted(encoder: TextEncoder) -> None:
    encoding = encoder.encode_with_counts(["hello world", LONG, "hello world"])
    assert encoding.text.tolist() == [0, 1, 2]
    assert encoding.tokens.tolist() == [4, 256, 4]  # [CLS] hello world [SEP]; the model's limit
    assert encoding.dropped.tolist() == [0, 600 - 254, 0]
    assert encoding.distinct == 2
    assert encoding.needed == 260


def test_texts_that_are_the_same_to_the_model_are_run_once(encoder: TextEncoder) -> None:
    encoding = encoder.encode_with_counts(["Hello  World", "hello world", "HELLO WORLD "])
    assert encoding.distinct == 1
    assert (encoding.vectors[0] == encoding.vectors[1]).all()


@pytest.mark.parametrize(
    "pooling", ["cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last"]
)
def test_explicit_pooling_is_the_plain_formula(minilm: str, pooling: str) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(minilm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    with torch.inference_mode():
        hidden = model(**tokenizer("three plain words", return_tensors="pt")).last_hidden_state[0]
    weights = torch.arange(1, len(hidden) + 1).unsqueeze(1)
    expected = {
        "cls": hidden[0],
        "mean": hidden.mean(0),
        "max": hidden.max(0).values,
        "mean_sqrt_len": hidden.sum(0) / len(hidden) ** 0.5,
        "weighted_mean": (hidden * weights).sum(0) / weights.sum(),
        "last": hidden[-1],
    }[pooling]
    ours = TextEncoder.load(EncoderConfig(minilm, pooling=pooling)).encode(
        ["three plain words", LONG]
    )[0]
    assert np.abs(ours - torch.nn.functional.normalize(expected, dim=0).numpy()).max() < 1e-6


def test_spans_of_texts_are_pooled() -> None:
    hidden = torch.tensor([[1.0], [2.0], [4.0], [8.0], [5.0]])
    offsets = torch.tensor([0, 4, 5])
    spans = torch.tensor([[0, 2, 4], [1, 0, 1], [0, 0, 2]])  # text, first token, end
    assert pool(hidden, offsets, ("mean",), spans).tolist() == [[6.0], [5.0], [1.5]]
    assert pool(hidden, offsets, ("cls", "last"), spans).tolist() == [
        [4.0, 8.0],
        [5.0, 5.0],
        [1.0, 2.0],
    ]
    # the third and fourth token weigh 3 and 4
    weighted = pool(hidden, offsets, ("weighted_mean",), spans)
    assert weighted[0].item() == pytest.approx((3 * 4 + 4 * 8) / 7)
    assert pool(hidden, offsets, ("max",)).tolist() == [[8.0], [5.0]]


def test_matryoshka_truncation_normalizes_again(minilm: str, encoder: TextEncoder) -> None:
    short = TextEncoder.load(EncoderConfig(minilm, truncate_dim=64)).encode(["a text"])
    cut = encoder.encode(["a text"])[:, :64]
    assert np.abs(short - cut / np.linalg.norm(cut)).max() < 1e-6
    assert np.linalg.norm(cut) < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": " "}, "give a hub name or a folder"),
        ({"model": "m", "pooling": "mode"}, "pooling 'mode': choose auto, cls, mean"),
        (
            {"model": "m", "prompt": "q: ", "prompt_name": "query"},
            "prompt .* and prompt_name .*: give one of them",
        ),
        ({"model": "m", "truncate_dim": 0}, "truncate_dim 0: give a positive whole number"),
    ],
)
def test_wrong_settings_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EncoderConfig(**arguments)


def test_metadata_travels_in_the_arrow_field(encoder: TextEncoder) -> None:
    field = encoder.metadata.field("embedding")
    assert field.type == pa.list_(pa.float32(), 384)
    assert vector_metadata(field) == encoder.metadata
    assert vector_metadata(pa.field("other", pa.int64())) is None


def test_vectors_of_two_kinds_are_refused_with_the_difference_named() -> None:
    here = VectorMetadata("a/model", "f1", "mean", "", 384, True)
    check_same_vectors(here, dataclasses.replace(here, model="/another/folder"), "folder x")
    message = "folder x: vectors of 384 and 768 dimensions; embed both with the same model"
    with pytest.raises(InputError, match=message):
        check_same_vectors(here, dataclasses.replace(here, dim=768), "folder x")
    other = dataclasses.replace(here, fingerprint="f2", prompt="query: ")
    with pytest.raises(InputError, match=r"fingerprints f1 and f2 \(prompt '' and 'query: '\)"):
        check_same_vectors(here, other, "folder x")


def test_batches_are_sorted_by_length_and_cut_by_the_budget() -> None:
    lengths = np.array([3, 50, 4, 4, 200, 1])
    padded = sorted_batches(lengths, token_budget=100, padded=True)
    # 200; 2 x 50; 3 x 4
    assert [batch.tolist() for batch in padded] == [[4], [1, 2], [3, 0, 5]]
    unpadded = sorted_batches(lengths, token_budget=58, padded=False)
    # 200; 50 + 4 + 4; 3 + 1
    assert [batch.tolist() for batch in unpadded] == [[4], [1, 2, 3], [0, 5]]
    assert sorted_batches(np.array([], dtype=int), 10, padded=True) == []
