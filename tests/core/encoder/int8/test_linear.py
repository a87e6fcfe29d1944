"""Check that int8 layers are exact in integers, near in fp32, and the same in any batch."""

import numpy as np
import pytest
import torch

from beam_gpte.core.encoder.int8 import linear as int8
from beam_gpte.core.encoder.int8.linear import WEIGHT_CODES, int8_linear_class, int8_works

pytestmark = pytest.mark.skipif(not int8_works(), reason="no int8 products here")

SHAPES = [(48, 100), (100, 36), (9, 7), (1, 1), (384, 5)]


def layer_and_plain(
    inner: int, outer: int, bias: bool = True, smoothing: torch.Tensor | None = None
) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    plain = torch.nn.Linear(inner, outer, bias=bias).requires_grad_(False)
    ones = torch.ones(inner)
    return int8_linear_class()(plain, ones if smoothing is None else smoothing), plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "outer"), SHAPES)
def test_products_are_near_those_of_fp32_whatever_the_shape(
    inner: int, outer: int, bias: bool
) -> None:
    layer, plain = layer_and_plain(inner, outer, bias)
    for shape in [(inner,), (1, inner), (70, inner), (2, 3, inner)]:
        x = torch.randn(shape)
        assert layer(x).shape == plain(x).shape
        assert float((layer(x) - plain(x)).norm() / plain(x).norm()) < 0.05
    assert not torch.equal(layer(torch.randn(70, inner)), plain(torch.randn(70, inner)))


@pytest.mark.parametrize("zero_point", int8.ZERO_POINTS)
def test_a_layer_computes_its_formula_in_whole_numbers(zero_point: int) -> None:
    """Codes, their product and both scales, worked out in int64 and float64."""
    smoothing = torch.exp2(torch.randint(-3, 4, (48,)).float())
    layer, plain = layer_and_plain(48, 100, smoothing=smoothing)
    layer.zero_point = zero_point
    x = 3 * torch.randn(70, 48)
    rows = (x * smoothing).numpy()
    step = np.maximum(
        rows.max(1, keepdims=True) / np.float32(255 - zero_point),
        rows.min(1, keepdims=True) / np.float32(-zero_point),
    )
    codes = np.rint(rows / step).astype(np.int64)
    assert codes.min() >= -zero_point
    assert codes.max() <= 255 - zero_point
    weight = (plain.weight / smoothing).numpy()
    scale = np.abs(weight).max(1) / np.float32(WEIGHT_CODES)
    product = codes @ np.rint(weight / scale[:, None]).astype(np.int64).T
    expected = product * step.astype(np.float64) * scale + plain.bias.numpy()
    assert np.allclose(layer(x).numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("inner", "outer"), SHAPES)
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads(inner: int, outer: int) -> None:
    layer, _ = layer_and_plain(inner, outer)
    x = torch.randn(500, inner) * torch.exp(3 * torch.randn(500, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    together = layer(x)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for rows in (1, 2, 7, 63, 65, 500):
                assert torch.equal(torch.cat([layer(part) for part in x.split(rows)]), together)
    finally:
        torch.set_num_threads(before)


def test_a_row_of_zeros_gives_the_bias_and_one_that_is_not_finite_nothing_finite() -> None:
    layer, plain = layer_and_plain(48, 100)
    x = torch.randn(4, 48)
    x[0], x[1, 3], x[2, 3] = 0, float("nan"), float("inf")
    y = layer(x)
    assert torch.equal(y[0], plain.bias)
    assert not y[1:3].isfinite().any()
    assert torch.equal(y[3], layer(x[3]))


def test_an_operator_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AVX2 does where weights have all eight bits."""
    real = int8._multiply

    def saturating(codes: torch.Tensor, zero_point: int, *others: torch.Tensor) -> torch.Tensor:
        return real(codes.clamp(max=254), zero_point, *others)

    monkeypatch.setattr(int8, "_multiply", saturating)
    assert not int8_works.__wrapped__()


def test_the_speedup_is_a_measured_ratio() -> None:
    assert 0.01 < int8.int8_speedup() < 100
