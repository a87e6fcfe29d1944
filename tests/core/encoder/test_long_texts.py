"""Check which tokens make which vector: long texts, templates and spans."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batching import GROW_AFTER, TokenBudget
from beam_gpte.core.encoder.inputs import sliding_windows

TEN_WORDS = "river stone cloud engine paper garden window silver music forest"
TEXT = " ".join([TEN_WORDS] * 4)  # 40 words, a token each


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def token_vectors(minilm: str, text: str, layers: int = 1) -> np.ndarray:
    """Return the plain model's token vectors of one text, [CLS] and [SEP] included."""
    model = transformers.AutoModel.from_pretrained(minilm)
    inputs = transformers.AutoTokenizer.from_pretrained(minilm)(text, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    return torch.stack(output.hidden_states[-layers:]).mean(0)[0].numpy()


def test_windows_share_their_overlap_and_leave_no_token_out() -> None:
    assert sliding_windows(10, 4, 0) == [(0, 4), (4, 8), (8, 10)]
    assert sliding_windows(10, 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert sliding_windows(4, 4, 2) == [(0, 4)]
    assert sliding_windows(0, 4, 0) == []


def test_windows_are_averaged_by_their_tokens(minilm: str, encoder: TextEncoder) -> None:
    windows = TextEncoder.load(EncoderConfig(minilm, long_text="windows", chunk_tokens=16))
    parts = encoder.encode([" ".join(TEXT.split()[a:b]) for a, b in ((0, 16), (16, 32), (32, 40))])
    expected = unit((parts * np.array([[16], [16], [8]])).sum(0))
    assert np.abs(windows.encode([TEXT])[0] - expected).max() < 1e-6
    assert np.abs(windows.encode(["a short text"]) - encoder.encode(["a short text"])).max() < 1e-6
    assert windows.encode_with_counts([TEXT]).dropped.tolist() == [0]


def test_chunks_are_embedded_as_separate_texts_and_know_their_place(
    minilm: str, encoder: TextEncoder
) -> None:
    chunks = TextEncoder.load(
        EncoderConfig(minilm, long_text="chunks", chunk_tokens=16, overlap_tokens=4)
    )
    encoding = chunks.encode_with_counts(["a short text", TEXT])
    assert encoding.text.tolist() == [0, 1, 1, 1]
    pieces = [TEXT[a:b] for a, b in encoding.chars[1:].tolist()]
    assert [piece.split() for piece in pieces] == [
        TEXT.split()[a:b] for a, b in ((0, 16), (12, 28), (24, 40))
    ]
    assert np.abs(encoding.vectors - encoder.encode(["a short text", *pieces])).max() < 1e-6
    with pytest.raises(InputError, match="long_text 'chunks' gives several vectors per text"):
        chunks.encode([TEXT])


def test_late_chunks_are_pooled_from_one_pass(minilm: str) -> None:
    late = TextEncoder.load(EncoderConfig(minilm, long_text="late_chunks", chunk_tokens=16))
    encoding = late.encode_with_counts([TEXT])
    tokens = token_vectors(minilm, TEXT)  # [CLS], 40 words, [SEP]
    expected = unit(np.stack([tokens[1:17].mean(0), tokens[17:33].mean(0), tokens[33:41].mean(0)]))
    assert np.abs(encoding.vectors - expected).max() < 1e-5
    assert encoding.tokens.tolist() == [16, 16, 8]
    assert encoding.distinct == 1


def test_late_chunks_of_a_text_beyond_the_model_take_several_passes(minilm: str) -> None:
    late = TextEncoder.load(
        EncoderConfig(minilm, long_text="late_chunks", chunk_tokens=100, max_tokens=256)
    )
    words = ["paper", *TEXT.split() * 10][:400]  # 400 tokens; a pass holds two chunks of 100
    encoding = late.encode_with_counts([" ".join(words)])
    assert encoding.tokens.tolist() == [100, 100, 100, 100]
    assert encoding.distinct == 2
    assert encoding.dropped.tolist() == [0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_template_is_pooled_whole_at_its_end_or_over_the_last_slot(
    minilm: str, layers: int
) -> None:
    template = "first {text} then again {text} done"
    tokens = token_vectors(minilm, "first river stone then again river stone done", layers)
    # [CLS] first river stone then again river stone done [SEP]
    for settings, expected in [
        ({"pooling": "mean"}, tokens.mean(0)),
        ({"pooling": "last"}, tokens[-1]),
        ({"pooling": "mean", "pool_text_only": True}, tokens[6:8].mean(0)),
        ({"pooling": "last", "pool_text_only": True}, tokens[7]),
        ({"pooling": "tail_mean", "tail_tokens": 3}, tokens[-3:].mean(0)),
    ]:
        encoder = TextEncoder.load(
            EncoderConfig(minilm, template=template, layers=layers, **settings)
        )
        assert np.abs(encoder.encode(["river stone"])[0] - unit(expected)).max() < 1e-5, settings


def test_an_instruction_is_excluded_on_demand(minilm: str) -> None:
    tokens = token_vectors(minilm, "query : river stone")
    encoder = TextEncoder.load(EncoderConfig(minilm, prompt="query: ", pool_text_only=True))
    assert np.abs(encoder.encode(["river stone"])[0] - unit(tokens[3:5].mean(0))).max() < 1e-5


def test_a_long_text_is_cut_inside_its_template(minilm: str) -> None:
    encoder = TextEncoder.load(
        EncoderConfig(
            minilm, template="first {text} then {text} done", max_tokens=25, pooling="last"
        )
    )
    # 23 tokens fit between the special tokens: 3 of the template, 10 in each slot
    encoding = encoder.encode_with_counts([TEXT])
    assert encoding.dropped.tolist() == [30]
    filled = f"first {TEN_WORDS} then {TEN_WORDS} done"
    expected = unit(token_vectors(minilm, filled)[-1])
    assert np.abs(encoding.vectors[0] - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "no slot"}, "it needs {text}"),
        (
            {"template": "{text}", "prompt": "x"},
            "prompt 'x' and template '{text}': give one of them",
        ),
        ({"chunk_tokens": 5}, "chunk_tokens and overlap_tokens cut long texts"),
        (
            {"long_text": "chunks", "chunk_tokens": 5, "overlap_tokens": 5},
            "give 0 or more, and less than chunk_tokens",
        ),
        ({"long_text": "cut"}, "long_text 'cut': choose truncate, windows, chunks or late_chunks"),
        ({"precision": "fp8"}, "precision 'fp8': choose fp32, bf16, fp16, int8 or auto"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        EncoderConfig("m", **settings)


class Narrow:
    """Run out of memory beyond `limit` tokens; otherwise act as the real backbone."""

    def __init__(self, backbone: Backbone, limit: int | None) -> None:
        self._backbone = backbone
        self.limit = limit

    def run(self, batch: list[np.ndarray], layers: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        if sum(map(len, batch)) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self._backbone.run(batch, layers)

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)


def test_out_of_memory_halves_the_batch_until_it_fits(minilm: str, encoder: TextEncoder) -> None:
    narrow = TextEncoder.load(minilm)
    narrow._runner.backbone = Narrow(narrow._runner.backbone, 100)
    texts = [" ".join(TEXT.split()[:n]) for n in range(1, 41)]
    encoding = narrow.encode_with_counts(texts)
    assert encoding.retries > 0
    assert not encoding.failed
    assert np.abs(encoding.vectors - encoder.encode(texts)).max() < 1e-5
    assert narrow._runner.budget.tokens < 4096


def test_a_text_that_never_fits_is_one_failure(minilm: str, encoder: TextEncoder) -> None:
    narrow = TextEncoder.load(minilm)
    narrow._runner.backbone = Narrow(narrow._runner.backbone, 30)
    encoding = narrow.encode_with_counts(["a short text", TEXT, "another"])
    assert encoding.failed == {1: "out of memory: 42 tokens do not fit at once"}
    assert np.isnan(encoding.vectors[1]).all()
    expected = encoder.encode(["a short text", "another"])
    assert np.abs(encoding.vectors[[0, 2]] - expected).max() < 1e-6


def test_other_errors_are_not_mistaken_for_lack_of_memory(minilm: str) -> None:
    encoder = TextEncoder.load(minilm)
    encoder._runner.backbone = Narrow(encoder._runner.backbone, None)
    with pytest.raises(TypeError):
        encoder.encode(["a"])


def test_the_budget_grows_back() -> None:
    budget = TokenBudget(1000)
    budget.shrink(900)
    assert budget.tokens == 450
    for _ in range(2 * GROW_AFTER):
        budget.grow()
    assert budget.tokens == 1000
