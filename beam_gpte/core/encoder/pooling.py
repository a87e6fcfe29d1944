"""Pool token vectors into text vectors, over texts that lie end to end.

All functions take ``hidden`` float (total tokens, dim), the token vectors of n texts one after the
other, and ``offsets`` int64 (n + 1,), where each begins. A text's result depends on its own tokens
only, bit for bit.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pool(
    hidden: "torch.Tensor",
    offsets: "torch.Tensor",
    modes: tuple[str, ...],
    spans: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Pool each text, or each span, in every mode and concatenate.

    Args:
      hidden: float (total tokens, dim), the token vectors of n texts end to end.
      offsets: int64 (n + 1,), where each text begins and the last ends.
      modes: of `config.POOLING_MODES`.
      spans: int64 (m, 3): text, first token and end within it. Tokens keep their position in the
        text: `weighted_mean` weighs the tokens after an excluded prompt as if the prompt were
        there, as sentence-transformers does.

    Returns:
      float (n or m, dim * len(modes)).
    """
    import torch

    starts, ends = offsets[:-1], offsets[1:]
    if spans is None:
        first = torch.zeros_like(starts)
    else:
        text, first = spans[:, 0], spans[:, 1]
        starts, ends = offsets[text] + first, offsets[text] + spans[:, 2]
        lengths = ends - starts
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        shifts = (starts - bounds[:-1]).repeat_interleave(lengths)
        rows = torch.arange(int(bounds[-1]), device=hidden.device) + shifts
        hidden, starts, ends = hidden[rows], bounds[:-1], bounds[1:]
    # a known output_size saves asking the GPU for it
    shifts = (first - starts).repeat_interleave(ends - starts, output_size=hidden.shape[0])
    positions = torch.arange(hidden.shape[0], device=hidden.device) + shifts
    return torch.cat([_pool(hidden, positions, starts, ends, mode) for mode in modes], dim=1)


def _pool(
    hidden: "torch.Tensor",
    positions: "torch.Tensor",
    starts: "torch.Tensor",
    ends: "torch.Tensor",
    mode: str,
) -> "torch.Tensor":
    import torch

    if mode == "cls":
        return hidden[starts]
    if mode == "last":
        return hidden[ends - 1]
    lengths = ends - starts
    if mode == "max":
        return torch.segment_reduce(hidden, "max", lengths=lengths, axis=0, unsafe=True)
    if mode in ("mean", "mean_sqrt_len"):
        counts = lengths.to(hidden.dtype).unsqueeze(1)
        total = torch.segment_reduce(hidden, "sum", lengths=lengths, axis=0, unsafe=True)
        return total / (counts if mode == "mean" else counts.sqrt())
    # weighted_mean: the i-th token weighs i (SGPT, arXiv 2202.08904); a skipped prompt does not
    # shift the weights
    weights = (positions + 1).to(hidden.dtype).unsqueeze(1)
    total = torch.segment_reduce(hidden * weights, "sum", lengths=lengths, axis=0, unsafe=True)
    return total / torch.segment_reduce(weights, "sum", lengths=lengths, axis=0, unsafe=True)
