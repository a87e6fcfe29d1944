"""Replace linear layers by faster ones for CPUs that give the same bits in any batch.

PyTorch reorders a layer's weights at every call. oneDNN keeps them in the order that its kernel
wants, which gives 85-92 % of the sgemm peak, and the same bits for any number of rows and threads,
in fp32 and in bfloat16. The operators are private to PyTorch, so they are tested before they are
used, and the plain layer stays where they fail.

Without AVX-512 MKL's products in fp32, PyTorch's own, are faster: 87 GFLOP/s against 79 of oneDNN,
and against 56 with the GELU inside, on a core of AMD's Zen 3. A row has the same bits there too,
unless it comes with fewer than four rows per thread: `BatchInvariantLinear` pads them.

bfloat16 pays where the CPU multiplies it faster than fp32, which its flags do not tell. AMD's Zen 4
is twice as fast. Intel's Sapphire Rapids without AMX, which virtual machines often hide, is half as
fast: it starts one vdpbf16ps, 32 products, in two cycles, but two fp32 multiply-adds, 32 products,
in every cycle. `bf16_speedup` measures it.
"""

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

# Rows that the weight's layout is chosen for: a full micro-batch.
ROWS = 4096

# MKL takes another kernel for fewer than 4 rows per thread.
INVARIANT_ROWS = 64


def pack_linears(model: Any, bf16: bool = False) -> int:
    """Replace every `torch.nn.Linear` below `model` by a packed or a batch-invariant one.

    Nothing is replaced where PyTorch's operators are missing or fail; with `bf16` that raises
    instead, because plain layers would give other vectors.

    Returns:
      The number of layers replaced.

    Raises:
      NotImplementedError: `bf16` on a machine that cannot multiply in bfloat16.
    """
    import torch

    if not bf16:
        make = fp32_linear()
        return 0 if make is None else _replace_linears(model, make)
    if not _operators_work(torch.bfloat16):
        raise NotImplementedError("this CPU has no bfloat16 products; use precision fp32")
    if (speedup := bf16_speedup()) < 1:
        _log.warning(
            "bfloat16 products take %.1f times as long as fp32 on this CPU; "
            "precision fp32 is faster",
            1 / speedup,
        )
    return _replace_linears(model, functools.partial(packed_linear_class(), dtype=torch.bfloat16))


def fp32_linear() -> Any:
    """Return what makes a plain layer fast on this CPU; None where nothing does."""
    import torch

    if _mkl_is_faster():
        return batch_invariant_linear_class()
    if not _operators_work(torch.float32):
        return None
    return functools.partial(packed_linear_class(), dtype=torch.float32)


def _replace_linears(model: Any, make: Any) -> int:
    import torch

    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, make(child))
                count += 1
        _fuse_gelu(parent)
    return count


def _fuse_gelu(parent: Any) -> None:
    """Let the first product of a BERT-type feed-forward layer apply the GELU that follows.

    Its output is still in the cache, and the bits are those of the two steps. At a full micro-batch
    the widest tensor is written once instead of twice: 8 % of the time of MiniLM, most of it in
    page faults.
    """
    import torch

    children = dict(parent.named_children())
    if list(children) != ["dense", "intermediate_act_fn"]:
        return
    dense, activation = children.values()
    if not isinstance(dense, packed_linear_class()):
        return
    if getattr(activation, "act", None) is not torch.nn.functional.gelu:
        return  # tanh approximations and others
    with torch.inference_mode():
        x = torch.linspace(-1, 1, dense.in_features).unsqueeze(0)
        before = parent(x)
        dense.activation, parent.intermediate_act_fn = "gelu", torch.nn.Identity()
        rtol = 1e-2 if dense.dtype == torch.bfloat16 else 1e-5
        if not torch.allclose(parent(x), before, rtol=rtol, atol=1e-5):
            # a module that only looks like BERT's
            dense.activation, parent.intermediate_act_fn = "none", activation


@functools.cache
def packed_linear_class() -> Any:
    """Return the class of packed layers; torch is imported when a model is loaded, not before."""
    import torch

    multiply = torch.ops.mkldnn._linear_pointwise

    class PackedLinear(torch.nn.Module):
        """Apply a `torch.nn.Linear` with a prepacked weight: fp32 to fp32, products in `dtype`."""

        def __init__(self, linear: "torch.nn.Linear", dtype: "torch.dtype") -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.dtype = dtype
            self.activation = "none"
            weight = linear.weight.detach()
            # models read the dtype and device of .weight; one stored number represents it
            self.weight = torch.zeros(1, dtype=weight.dtype).expand(weight.shape)
            self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
            self._packed = _pack(weight.to(dtype))

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            # the last "none" is for GELU: by erf, not its tanh approximation
            y = multiply(x.to(self.dtype), self._packed, self.bias, self.activation, [], "none")
            return y.to(x.dtype)

    return PackedLinear


@functools.cache
def batch_invariant_linear_class() -> Any:
    """Return the class of MKL's layers; see `packed_linear_class`."""
    import torch

    class BatchInvariantLinear(torch.nn.Module):
        """Apply a `torch.nn.Linear`, padded with zeros where MKL treats few rows differently."""

        def __init__(self, linear: "torch.nn.Linear") -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.weight, self.bias = linear.weight, linear.bias

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            rows = x.reshape(-1, self.in_features)
            if len(rows) >= INVARIANT_ROWS:
                return torch.nn.functional.linear(x, self.weight, self.bias)
            rows = torch.nn.functional.pad(rows, (0, 0, 0, INVARIANT_ROWS - len(rows)))
            filled = torch.nn.functional.linear(rows, self.weight, self.bias)
            return filled[: x.numel() // self.in_features].reshape(*x.shape[:-1], self.out_features)

    return BatchInvariantLinear


@functools.cache
def _mkl_is_faster() -> bool:
    """Return whether MKL multiplies faster than oneDNN here, and each row to the same bits."""
    import torch

    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(384, 96, bias=False, device="meta")  # which draws no numbers
    linear.weight = torch.nn.Parameter(torch.randn(96, 384, generator=generator))
    x, layer = torch.randn(512, 384, generator=generator), batch_invariant_linear_class()(linear)
    with torch.inference_mode():
        whole = layer(x)
        return all(
            torch.equal(layer(x[first : first + rows]), whole[first : first + rows])
            for rows in (1, 7, 65, 200)
            for first in range(0, len(x), 73)
        )


def _pack(weight: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def _operators_work(dtype: "torch.dtype") -> bool:
    """Return whether the operators exist, run, and are correct."""
    import torch

    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        generator = torch.Generator().manual_seed(0)
        weight, x = (torch.randn(64, 64, generator=generator) for _ in range(2))
        packed = _pack(weight.to(dtype))
        y = torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, None, "none", [], "")
        atol = 1e-4 if dtype == torch.float32 else 0.3
        return bool(torch.allclose(y.float(), x @ weight.T, rtol=0, atol=atol))
    except (RuntimeError, AttributeError):
        return False


def bf16_speedup() -> float:
    """Measure how many times faster this CPU multiplies in bfloat16 than in fp32, casts included.

    Takes 30 ms. 0 if the CPU cannot.
    """
    import torch

    if not (_operators_work(torch.float32) and _operators_work(torch.bfloat16)):
        return 0.0
    packed = packed_linear_class()
    # random weights would advance the user's random generator
    linear = torch.nn.utils.skip_init(torch.nn.Linear, 512, 512, bias=False)
    torch.nn.init.ones_(linear.weight)
    x = torch.ones(512, 512)
    layers = {dtype: packed(linear, dtype) for dtype in (torch.float32, torch.bfloat16)}
    fastest = dict.fromkeys(layers, float("inf"))
    with torch.inference_mode():
        for _ in range(6):  # alternating, and the fastest of each: others share the CPU
            for dtype, layer in layers.items():
                began = time.perf_counter()
                layer(x)
                fastest[dtype] = min(fastest[dtype], time.perf_counter() - began)
    return fastest[torch.float32] / fastest[torch.bfloat16]
