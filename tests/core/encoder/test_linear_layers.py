"""Check that packed linear layers multiply like plain ones, to the same bits in any batch."""

from typing import Any, Never

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from beam_gpte.core.encoder import linear_layers
from beam_gpte.core.encoder.linear_layers import bf16_speedup, pack_linears
from beam_gpte.core.encoder.unpadded import warm_up_vector_math

HAS_BF16 = linear_layers._operators_work(torch.bfloat16)
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16 products")


@pytest.fixture(params=["chosen", "packed"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Test the layer that this CPU would choose, and oneDNN's layer in any case."""
    if request.param == "packed":
        monkeypatch.setattr(linear_layers, "_mkl_is_faster", lambda: False)
    return request.param


def two_layers(bias: bool = True) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(48, 100, bias=bias), torch.nn.GELU(), torch.nn.Linear(100, 36, bias=bias)
    )


def packed_and_plain(bias: bool, bf16: bool = False) -> tuple[torch.nn.Module, torch.nn.Module]:
    packed = two_layers(bias)
    assert pack_linears(packed, bf16) == 2
    return packed.requires_grad_(False), two_layers(bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (5000, 48), (2, 3, 48)], ids=str)
def test_packed_products_are_the_plain_ones(bias: bool, shape: tuple[int, ...]) -> None:
    packed, plain = packed_and_plain(bias)
    x = torch.randn(shape)
    assert packed(x).shape == (*shape[:-1], 36)
    assert torch.allclose(packed(x), plain(x), rtol=0, atol=1e-6)


def test_rows_that_are_not_contiguous_are_read_correctly() -> None:
    packed, plain = packed_and_plain(bias=True)
    x = torch.randn(48, 10).T
    assert not x.is_contiguous()
    assert torch.allclose(packed(x), plain(x), rtol=0, atol=1e-6)


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    packed, _ = packed_and_plain(bias=True)
    x = torch.randn(500, 48)
    together = packed(x)
    for rows in (1, 2, 7, 33, 63, 64, 65, 100):
        assert torch.equal(torch.cat([packed(part) for part in x.split(rows)]), together)


@needs_bf16
@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_products_take_and_give_fp32(bias: bool) -> None:
    packed, plain = packed_and_plain(bias, bf16=True)
    x = torch.randn(100, 48)
    assert packed(x).dtype == torch.float32
    assert float(torch.cosine_similarity(packed(x), plain(x)).min()) > 0.9999
    assert not torch.equal(packed(x), plain(x))


def test_a_packed_layer_still_has_the_attributes_that_models_read() -> None:
    """T5 casts to ``wo.weight.dtype``; others read shapes, devices and ``in_features``."""
    packed, plain = packed_and_plain(bias=False)
    layer, original = packed[0], plain[0]
    assert layer.weight.dtype == torch.float32
    assert layer.weight.device == original.weight.device
    assert layer.weight.shape == (100, 48)
    assert (layer.in_features, layer.out_features, layer.bias) == (48, 100, None)
    assert isinstance(layer.weight, torch.Tensor)


def test_layers_that_are_more_than_a_linear_stay_as_they_are() -> None:
    class Special(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    model = torch.nn.Sequential(Special(48, 48), torch.nn.Linear(48, 48))
    assert pack_linears(model) == 1
    assert type(model[0]) is Special


@pytest.mark.parametrize("missing", ["gone", "wrong"])
def test_without_pytorchs_private_operators_plain_layers_stay(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(linear_layers, "_mkl_is_faster", lambda: False)

    def gone(weight: torch.Tensor) -> Never:
        raise AttributeError("no such operator")

    def wrong(weight: torch.Tensor) -> torch.Tensor:
        return weight * 2

    monkeypatch.setattr(linear_layers, "_pack", gone if missing == "gone" else wrong)
    model = two_layers()
    assert pack_linears(model) == 0
    assert type(model[0]) is torch.nn.Linear
    with pytest.raises(NotImplementedError, match="use precision fp32"):
        pack_linears(model, bf16=True)


def test_the_speedup_of_bfloat16_is_a_measured_ratio() -> None:
    assert np.isfinite(bf16_speedup())
    assert (bf16_speedup() > 0) == HAS_BF16


class Intermediate(torch.nn.Module):
    """Compute the first half of BERT's feed-forward layer, or with `shift` a look-alike."""

    def __init__(self, activation: str = "gelu", shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = torch.nn.Linear(48, 100)
        self.intermediate_act_fn = ACT2FN[activation]
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(x) + self.shift)


@pytest.mark.parametrize(
    ("layer", "fused"),
    [
        ({}, True),
        ({"activation": "gelu_new"}, False),
        ({"activation": "relu"}, False),
        ({"shift": 0.5}, False),
    ],
    ids=str,
)
def test_a_gelu_after_a_product_becomes_part_of_it_bit_for_bit(
    layer: dict[str, Any], fused: bool
) -> None:
    warm_up_vector_math()
    plain, model = Intermediate(**layer), torch.nn.Sequential(Intermediate(**layer))
    pack_linears(plain_linear := torch.nn.Sequential(plain.dense))
    pack_linears(model)
    # a batch-invariant layer is left alone
    packed = isinstance(model[0].dense, linear_layers.packed_linear_class())
    assert isinstance(model[0].intermediate_act_fn, torch.nn.Identity) == (fused and packed)
    x = 3 * torch.randn(500, 48)
    with torch.inference_mode():
        assert torch.equal(model(x), plain.intermediate_act_fn(plain_linear(x) + plain.shift))


@needs_bf16
def test_a_fused_gelu_in_bfloat16_is_as_close_as_two_steps() -> None:
    model, plain = torch.nn.Sequential(Intermediate()), Intermediate()
    pack_linears(model, bf16=True)
    assert isinstance(model[0].intermediate_act_fn, torch.nn.Identity)
    x = 3 * torch.randn(500, 48)
    with torch.inference_mode():
        assert float(torch.cosine_similarity(model(x), plain(x)).min()) > 0.9999
