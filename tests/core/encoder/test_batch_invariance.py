"""Check that a text's vector has the same bits in any bundle and with any number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.int8.linear import int8_works
from beam_gpte.core.encoder.linear_layers import bf16_speedup
from beam_gpte.core.encoder.text_encoder import TextEncoder

SENTENCE = "a vector stands for the meaning of one text and nothing else; 42"


def bundles(encoder: TextEncoder, texts: list[str], size: int) -> np.ndarray:
    return np.concatenate([encoder.encode(texts[i : i + size]) for i in range(0, len(texts), size)])


@pytest.fixture
def one_and_two_threads() -> Iterator[tuple[int, int]]:
    before = torch.get_num_threads()
    yield (1, 2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_text_has_the_same_bits_in_any_bundle_and_with_any_threads(
    minilm: str, precision: str, one_and_two_threads: tuple[int, int]
) -> None:
    if precision == "bf16" and not bf16_speedup():
        pytest.skip("this CPU has no bfloat16 products")
    if precision == "int8" and not int8_works():
        pytest.skip("no int8 products here")
    encoder = TextEncoder.load(EncoderConfig(minilm, precision=precision, device="cpu"))
    generator = np.random.default_rng(0)
    words = SENTENCE.split()
    lengths = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33] * 4 + [64, 129]  # 50 texts
    texts = [" ".join(generator.choice(words, length)) for length in lengths]
    torch.set_num_threads(1)
    expected = encoder.encode(texts)
    order = generator.permutation(len(texts))
    assert np.array_equal(bundles(encoder, texts[:14], 1), expected[:14])
    assert np.array_equal(bundles(encoder, texts, 40), expected)
    for threads in one_and_two_threads:
        torch.set_num_threads(threads)
        assert np.array_equal(bundles(encoder, texts, 7), expected)
        assert np.array_equal(encoder.encode([texts[i] for i in order]), expected[order])
