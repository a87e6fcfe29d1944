"""Token vectors to text vectors, over texts that lie end to end.

All functions take ``hidden`` float (total tokens, dim), the token vectors of n texts one behind the other, and
``offsets`` int64 (n + 1,), where each begins. A text's result depends on its own tokens only, bit for bit.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pool(hidden: "torch.Tensor", offsets: "torch.Tensor", modes: tuple[str, ...], skip: int = 0) -> "torch.Tensor":
    """Pool each text in every mode and concatenate.

    Args:
      modes: of `config.POOLING_MODES`.
      skip: leading tokens (of a prompt) that are not pooled; a text that has no more than these keeps all its tokens.

    Returns:
      float (n, dim * len(modes)).
    """
    import torch

    starts, ends = offsets[:-1], offsets[1:]
    positions = torch.arange(hidden.shape[0], device=hidden.device) - starts.repeat_interleave(ends - starts)
    if skip:
        skipped = torch.where(ends - starts > skip, skip, 0)
        keep = positions >= skipped.repeat_interleave(ends - starts)
        hidden, positions = hidden[keep], positions[keep]
        starts = offsets[:-1] + skipped - torch.cumsum(skipped, 0)
        ends = starts + (offsets[1:] - offsets[:-1] - skipped)
    return torch.cat([_pool(hidden, positions, starts, ends, mode) for mode in modes], dim=1)


def _pool(
    hidden: "torch.Tensor", positions: "torch.Tensor", starts: "torch.Tensor", ends: "torch.Tensor", mode: str
) -> "torch.Tensor":
    import torch

    if mode == "cls":
        return hidden[starts]
    if mode == "last":
        return hidden[ends - 1]
    lengths = ends - starts
    counts = lengths.to(hidden.dtype).unsqueeze(1)
    if mode == "max":
        return torch.segment_reduce(hidden, "max", lengths=lengths, axis=0)
    if mode == "mean":
        return torch.segment_reduce(hidden, "sum", lengths=lengths, axis=0) / counts
    if mode == "mean_sqrt_len":
        return torch.segment_reduce(hidden, "sum", lengths=lengths, axis=0) / counts.sqrt()
    # weighted_mean: the i-th token weighs i (SGPT, arXiv 2202.08904); a skipped prompt does not shift the weights
    weights = (positions + 1).to(hidden.dtype).unsqueeze(1)
    total = torch.segment_reduce(hidden * weights, "sum", lengths=lengths, axis=0)
    return total / torch.segment_reduce(weights, "sum", lengths=lengths, axis=0)
