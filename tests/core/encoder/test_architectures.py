"""Check that every kind of transformer gives the vectors of its plain forward pass.

No text may see another. Models are tiny and random; lengths exceed every attention window. Which
models run unpadded and which fall back to padding is asserted.
"""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention

from beam_gpte.core.encoder.attention import NAME, register
from beam_gpte.core.encoder.backbone import HALF_TOLERANCE
from beam_gpte.core.encoder.linear_layers import pack_linears
from beam_gpte.core.encoder.unpadded import Unpadded, probe
from tests.core.encoder.tiny_models import (
    LENGTHS,
    PADDED,
    SAMPLE_LENGTHS,
    TINY,
    UNPADDED,
    alone,
    backbone_of,
    texts,
    tiny,
    vectors,
)

# transformers runs a soft-cap in eager attention only
PLAIN = [
    (name, way)
    for name in UNPADDED
    for way in ("sdpa", "eager")
    if way == "eager" or "soft-cap" not in name
]


@pytest.mark.parametrize(("name", "attention"), PLAIN)
def test_unpadded_is_the_plain_forward_pass(name: str, attention: str) -> None:
    expected = alone(tiny(*UNPADDED[name], attention), texts())
    backbone = backbone_of(tiny(*UNPADDED[name]))
    assert backbone.unpadded, backbone.reason
    assert float((vectors(backbone, texts()) - expected).abs().max()) < 1e-5


def by_its_contract(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    bounds_k: torch.Tensor,
    max_length: int,
    max_length_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    num_splits: int,
) -> torch.Tensor:
    """Run torch.nn.attention.varlen.varlen_attn, which needs a GPU, text by text on a CPU."""
    assert num_splits == 1
    assert bounds.dtype == torch.int32
    assert max_length == int(bounds.diff().max())
    assert bounds is bounds_k
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert max_length == max_length_k
    out = torch.empty_like(q)
    for start, stop in itertools.pairwise(bounds.tolist()):
        parts = (x[start:stop].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        causal = window_size == (-1, 0)
        found = scaled_dot_product_attention(
            *parts, scale=scale, is_causal=causal, enable_gqa=enable_gqa
        )
        out[start:stop] = found[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("name", UNPADDED)
def test_flash_attention_gives_what_sdpa_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="PyTorch has it from 2.10 on")
    backbone = backbone_of(tiny(*UNPADDED[name]))
    backbone.autocast = torch.bfloat16
    expected = vectors(backbone, texts())
    calls = []
    monkeypatch.setattr(
        varlen, "varlen_attn", lambda *a, **b: calls.append(1) or by_its_contract(*a, **b)
    )
    backbone.try_flash(texts(seed=1, lengths=SAMPLE_LENGTHS))
    assert float((vectors(backbone, texts()) - expected).abs().max()) < HALF_TOLERANCE
    assert backbone.attention == "unpadded, flash attention"
    # SDPA for a soft-cap, or for windows in all layers that are shorter than the texts
    assert bool(calls) != (
        name in ("gemma2, soft-cap and window", "mistral, sliding window", "phi3")
    )


def test_where_flash_attention_does_not_run_sdpa_does() -> None:
    backbone = backbone_of(tiny(*UNPADDED["bert"]))
    backbone.autocast = torch.bfloat16
    expected = vectors(backbone, texts())
    backbone.try_flash(texts(seed=1, lengths=SAMPLE_LENGTHS))
    assert backbone.attention == "unpadded"
    assert torch.equal(vectors(backbone, texts()), expected)


@pytest.mark.parametrize("name", PADDED)
def test_models_with_their_own_attention_fall_back_to_padding_and_are_correct(name: str) -> None:
    expected = alone(tiny(*PADDED[name]), texts())
    backbone = backbone_of(tiny(*PADDED[name]))
    assert not backbone.unpadded
    assert float((vectors(backbone, texts()) - expected).abs().max()) < 1e-5
    assert backbone.run(texts())[2] == 9 * 64  # nine texts, each as wide as the longest


@pytest.mark.parametrize("name", [*UNPADDED, *PADDED])
def test_packed_linears_change_nothing_but_rounding(name: str) -> None:
    expected = alone(tiny(*(UNPADDED | PADDED)[name]), texts())
    model = tiny(*(UNPADDED | PADDED)[name])
    assert pack_linears(model) > 0
    assert float((vectors(backbone_of(model), texts()) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("setting", "high"), [("sliding_window", 1000), ("attn_logit_softcapping", 1000.0)]
)
def test_windows_and_soft_caps_are_felt_at_these_lengths(setting: str, high: float) -> None:
    name, settings = UNPADDED["gemma2, soft-cap and window"]
    narrow, wide = (
        vectors(backbone_of(tiny(name, settings | other)), texts())
        for other in ({}, {setting: high})
    )
    assert float((narrow - wide).abs().max()) > 1e-2


class LeakySelfAttention(torch.nn.Module):
    """Attend without the registry: over a packed row every text sees every other."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = torch.nn.Linear(64, 192)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        query, key, value = self.query_key_value(hidden_states).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value), None


class LeakyModel(transformers.BertModel):
    """Claim to support registered attention without doing so."""

    _supports_attention_backend = True


def leaky() -> torch.nn.Module:
    torch.manual_seed(0)
    model = LeakyModel(transformers.BertConfig(**TINY)).eval()
    for layer in model.encoder.layer:
        layer.attention.self = LeakySelfAttention()
    return model


def test_a_model_whose_packed_texts_see_one_another_is_refused() -> None:
    model = leaky()
    plain = model.config._attn_implementation
    backbone = backbone_of(model)
    assert not backbone.unpadded
    assert "see one another" in backbone.reason
    assert model.config._attn_implementation == plain != NAME


def test_a_model_that_fails_during_the_probe_is_left_unchanged() -> None:
    model = tiny(*UNPADDED["bert"])
    register()
    plain, expected = model.config._attn_implementation, alone(model, texts())

    class Broken(Unpadded):
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no packed rows")

    reason = probe(model, Broken(model, set(), 0), texts(seed=1), torch.device("cpu"))
    assert "no packed rows" in reason
    assert model.config._attn_implementation == plain
    assert torch.equal(alone(model, texts()), expected)


@pytest.mark.parametrize("name", ["bert", "gemma2, soft-cap and window", "mpnet"])
def test_threads_that_share_a_model_do_not_mix_their_texts(name: str) -> None:
    model = tiny(*(UNPADDED | PADDED)[name])
    expected = {
        seed: alone(model, texts(seed, lengths))
        for seed, lengths in enumerate([LENGTHS, LENGTHS[::-1] * 2])
    }
    backbone = backbone_of(model)
    worst = dict.fromkeys(expected, 0.0)

    def work(seed: int, batch: list[np.ndarray]) -> None:
        for _ in range(10):
            worst[seed] = max(
                worst[seed], float((vectors(backbone, batch) - expected[seed]).abs().max())
            )

    threads = [
        threading.Thread(target=work, args=(seed, texts(seed, lengths)))
        for seed, lengths in enumerate([LENGTHS, LENGTHS[::-1] * 2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst.values()) < 1e-5
    assert len(worst) == 2


def test_no_keys_are_cached_between_batches() -> None:
    backbone = backbone_of(tiny(*UNPADDED["llama"]))
    with torch.inference_mode():
        output = backbone._packed(texts(), torch.device("cpu"))
    assert getattr(output, "past_key_values", None) is None
