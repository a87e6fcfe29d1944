"""Multiply a linear layer in 8-bit integers, with one scale per token and one per output.

    x (rows, in)       * smoothing, / step of its row, rounded    -> 0..255
    weight (out, in)   / smoothing, / scale of its row, rounded   -> -64..64
    their product: whole numbers, exact                           -> * step * scale + bias, fp32

Whole numbers have one sum whatever its order, so a row has the same bits in any batch, with any
number of threads and on any CPU; nothing in a row's numbers depends on other rows. Products,
unlike these, are rounded by what is around them: attention, norms and GELUs stay fp32.

The operator is private to PyTorch, so it is tried on numbers whose products are known.
"""

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from beam_gpte.core.encoder.linear_layers import ROWS, fp32_linear

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

# Largest code of a weight. AVX2 adds two products to 16 bits and saturates beyond 32,767:
# 2 x 255 x 64 = 32,640. Activations, which have outliers, keep all eight bits: with seven for them
# and eight for weights the error of a layer is 2.4 % instead of 1.9 %.
WEIGHT_CODES = 64

# Zero of the codes of activations. 128 for values of both signs; the others have more codes for
# positive values, most of what a GELU gives.
ZERO_POINTS = (128, 64, 32)

# Numbers of activations that are rounded at once: 256 KB, which stay in the cache between steps.
_CACHED = 1 << 16

# A row of zeros has no step; in fp32 this one divides nothing to infinity.
_SMALLEST = 1e-30


@functools.cache
def int8_linear_class() -> Any:
    """Return the class of int8 layers; torch is imported when a model is loaded, not before."""
    import torch

    class Int8Linear(torch.nn.Module):
        """Apply a `torch.nn.Linear` in integers: fp32 to fp32.

        Args:
          linear: the layer.
          smoothing: float32 (in,), what inputs are multiplied and weights divided by: powers of
            two, which change no digit.
          zero_point: one of `ZERO_POINTS`.
        """

        def __init__(
            self, linear: "torch.nn.Linear", smoothing: "torch.Tensor", zero_point: int = 128
        ) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.smoothing, self.zero_point = smoothing, zero_point
            weight = linear.weight.detach().float()
            # models read the dtype and device of .weight; one stored number represents it
            self.weight = torch.zeros(1, dtype=linear.weight.dtype).expand(weight.shape)
            self.bias = None if linear.bias is None else linear.bias.detach().float()
            smooth = weight / smoothing
            scale = smooth.abs().amax(1).clamp(min=_SMALLEST) / WEIGHT_CODES
            codes = (smooth / scale.unsqueeze(1)).round().to(torch.int8)
            self._scale = scale
            self._packed = _pack(codes)

        def multiply(self, x: "torch.Tensor", zero_point: int) -> "torch.Tensor":
            """Return the products without bias, float32 (rows, out), of any x (..., in)."""
            rows = x.reshape(-1, self.in_features)
            codes = torch.empty(rows.shape, dtype=torch.uint8)
            step = torch.empty(len(rows), 1)
            at_once = max(1, _CACHED // max(1, self.in_features))
            parts = (part.split(at_once) for part in (rows, codes, step))
            for part, into, steps in zip(*parts, strict=True):
                smooth = part.float() * self.smoothing
                # not aminmax, which is not vectorized along rows: 12 times as long as both
                low, high = smooth.amin(1, keepdim=True), smooth.amax(1, keepdim=True)
                torch.maximum(high / (255 - zero_point), low / -zero_point, out=steps)
                smooth.div_(steps.clamp_(min=_SMALLEST))
                # rounded here: the operator would round the last numbers of a tensor otherwise
                into.copy_(smooth.round_().add_(zero_point))
            return _multiply(codes, zero_point, self._packed, self._scale).mul_(step)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            y = self.multiply(x, self.zero_point)
            if self.bias is not None:
                y.add_(self.bias)
            return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    return Int8Linear


def _pack(codes: "torch.Tensor") -> "torch.Tensor":
    """Lay out int8 (out, in) as the operator wants it."""
    import torch

    return torch.ops.onednn.qlinear_prepack(codes.contiguous(), [ROWS, codes.shape[1]])


def _multiply(
    codes: "torch.Tensor",
    zero_point: int,
    packed: "torch.Tensor",
    scale: "torch.Tensor",
) -> "torch.Tensor":
    """Return (codes - zero_point) @ weight.T * scale, float32 (rows, out)."""
    import torch

    zeros = torch.zeros(len(scale), dtype=torch.int32)
    return torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, zero_point, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@functools.cache
def int8_works() -> bool:
    """Return whether the operator exists, and is exact where it could saturate."""
    import torch

    def is_exact(codes: "torch.Tensor", weight: "torch.Tensor") -> bool:
        expected = (codes.double() - 64) @ weight.double().T
        found = _multiply(codes, 64, _pack(weight), torch.ones(len(weight)))
        return bool(torch.equal(found.double(), expected))

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (67, 48), generator=generator, dtype=torch.uint8)
    weight = torch.randint(
        -WEIGHT_CODES, WEIGHT_CODES + 1, (36, 48), generator=generator, dtype=torch.int8
    )
    largest = torch.full((36, 48), WEIGHT_CODES, dtype=torch.int8)
    try:
        return (
            is_exact(drawn, weight)
            and is_exact(torch.full_like(drawn, 255), largest)
            and is_exact(torch.full_like(drawn, 255), -largest)
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def warn_if_slower() -> None:
    """Log it where integers multiply slower than fp32 here, as `pack_linears` does for bfloat16."""
    if (speedup := int8_speedup()) < 1:
        _log.warning(
            "int8 products take %.1f times as long as fp32 on this CPU; precision fp32 is faster",
            1 / speedup,
        )


def int8_speedup() -> float:
    """Measure how many times faster an int8 layer is than one in fp32, rounding included.

    Takes 30 ms where they are about as fast. 0 if the CPU cannot.
    """
    import torch

    if not int8_works():
        return 0.0
    # random weights would advance the user's random generator
    linear = torch.nn.utils.skip_init(torch.nn.Linear, 512, 512, bias=False)
    torch.nn.init.ones_(linear.weight)
    make, x = fp32_linear(), torch.ones(512, 512)
    plain = linear if make is None else make(linear)
    layers = (plain, int8_linear_class()(linear, torch.ones(512)))
    fastest = [float("inf")] * 2
    with torch.inference_mode():
        for _ in range(6):  # alternating, and the fastest of each: others share the CPU
            for i, layer in enumerate(layers):
                began = time.perf_counter()
                layer(x)
                fastest[i] = min(fastest[i], time.perf_counter() - began)
    return fastest[0] / fastest[1]
