"""Attend within each of many texts that lie end to end in one row.

transformers lets a model's attention be replaced by a registered function, and its masks by a
function that receives the rule of the mask (causal, sliding window, bidirectional, ...). `attend`
runs PyTorch's SDPA once for all texts of one length, under that rule; on a GPU in half precision
flash attention runs once for all texts, if it supports the rule.
"""

import dataclasses
import itertools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# The registered name of `attend`.
NAME = "beam_gpte_unpadded"

# Arguments of attention that some models need and `attend` does not support.
_UNSUPPORTED = ("position_bias", "s_aux", "cache")

# Holds the layout of the batch that this thread runs: models do not pass one through.
_current = threading.local()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Locate the texts of a packed row.

    Attributes:
      groups: (start, number of texts, tokens of each).
      bounds: int32 (n + 1,), where each text begins and the last ends, on the GPU; None where flash
        attention must not run.
      attended: int64 (n,), how many tokens of each text, from its first, all of them attend to;
        None for all.
    """

    groups: list[tuple[int, int, int]]
    bounds: "torch.Tensor | None" = None
    attended: "torch.Tensor | None" = None

    @classmethod
    def from_lengths(
        cls,
        lengths: np.ndarray,
        bounds: "torch.Tensor | None" = None,
        attended: "torch.Tensor | None" = None,
    ) -> "Layout":
        """Group neighboring texts of equal length; sorted input gives the fewest groups."""
        edges = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        groups = [
            (int(starts[first]), int(last - first), int(lengths[first]))
            for first, last in itertools.pairwise(edges)
        ]
        return cls(groups, bounds, attended)


class Mask:
    """Evaluate the mask rule of one kind of layer for single texts."""

    def __init__(self, rule: Any, device: Any) -> None:
        self._rule = rule
        self._device = device
        self._known: dict[int, tuple[Any, bool]] = {}

    def sdpa_arguments(self, start: int, length: int) -> tuple["torch.Tensor | None", bool]:
        """Return SDPA's (attn_mask, is_causal) for a text of `length` tokens at `start`.

        Rules depend only on distances within the text, so the answer is cached by length.
        """
        import torch

        if length not in self._known:
            # on the CPU: asking a GPU would wait for it
            positions = torch.arange(start, start + length)
            zero = torch.zeros((), dtype=torch.long)
            allowed = self._rule(zero, zero, positions[:, None], positions[None, :])
            allowed = allowed.expand(length, length)
            if allowed.all():
                self._known[length] = None, False
            elif torch.equal(allowed, torch.ones_like(allowed).tril()):
                self._known[length] = None, True
            else:
                self._known[length] = allowed.to(self._device), False
        return self._known[length]

    def flash_causal(self, layout: Layout) -> bool | None:
        """Return whether attention is causal in all texts of the layout.

        None if it is neither causal nor full in all of them, which flash attention cannot do.
        """
        answers = [
            self.sdpa_arguments(start, length) for start, _, length in layout.groups if length > 1
        ]
        kinds = {None if mask is not None else causal for mask, causal in answers} or {False}
        return kinds.pop() if len(kinds) == 1 else None


def register() -> None:
    """Make `NAME` an attention implementation of transformers."""
    import transformers
    from transformers.masking_utils import AttentionMaskInterface

    transformers.AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)


def set_layout(layout: Layout) -> None:
    """Set the layout of the batch that this thread is about to run."""
    _current.layout = layout


def _mask(*_: Any, mask_function: Any, device: Any = "cpu", **__: Any) -> Mask:
    return Mask(mask_function, device)


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: Mask | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple["torch.Tensor", None]:
    """Attend within each text of this thread's layout.

    Args:
      module: the attention layer.
      query: (1, heads, tokens, dim).
      key: as `query`, possibly with fewer heads (grouped-query attention).
      value: as `key`.
      attention_mask: the result of `_mask`; None where the model asked for no mask.
      scaling: of the scores; None for one over the square root of dim.
      is_causal: overrides the layer's own setting.
      softcap: bounds the scores, as in Gemma 2.
      **others: must not hold `_UNSUPPORTED` arguments.

    Returns:
      (1, tokens, heads, dim) and no weights.

    Raises:
      NotImplementedError: the model needs unsupported arguments; `probe` then refuses it.
    """
    for name in _UNSUPPORTED:
        if others.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    layout = _current.layout
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    flash_causal = _flash_causal(layout, value, attention_mask, causal, softcap)
    if flash_causal is not None:
        return _flash(query, key, value, layout, flash_causal, scaling).unsqueeze(0), None
    if query.shape[1] != key.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    first = 0  # text of a group
    for start, count, length in layout.groups:
        stop = start + count * length
        q, k, v = (
            x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1)
            for x in (query, key, value)
        )
        if attention_mask is None:
            mask, mask_is_causal = None, causal and length > 1
        else:
            mask, mask_is_causal = attention_mask.sdpa_arguments(start, length)
        if layout.attended is not None:
            attended = layout.attended[first : first + count]
            mask, mask_is_causal = _only_first(attended, length, mask, mask_is_causal), False
        first += count
        result = _attend_texts(q, k, v, mask, mask_is_causal, scaling, softcap)
        out[start:stop] = result.transpose(1, 2).flatten(0, 1)
    return out.unsqueeze(0), None


def _only_first(
    attended: "torch.Tensor", length: int, mask: "torch.Tensor | None", causal: bool
) -> "torch.Tensor":
    """Narrow a mask to the first tokens of each text, which all of its tokens attend to.

    Args:
      attended: int64 (texts,), how many.
      length: of each text.
      mask: bool (length, length) for all texts; None for all.
      causal: whether it is that of causal attention instead.

    Returns:
      bool (texts, 1, length, length).
    """
    import torch

    allowed = torch.arange(length, device=attended.device) < attended[:, None]
    allowed = allowed[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        mask = torch.ones(length, length, dtype=torch.bool, device=attended.device).tril()
    return allowed if mask is None else allowed & mask


def _attend_texts(
    q: "torch.Tensor",
    k: "torch.Tensor",
    v: "torch.Tensor",
    mask: "torch.Tensor | None",
    causal: bool,
    scaling: float | None,
    softcap: float | None,
) -> "torch.Tensor":
    """Attend within texts of equal length: all (texts, heads, tokens, dim)."""
    import torch

    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scaling
        )
    # Gemma 2's bounded scores (arXiv 2408.00118), which SDPA does not have
    scores = (q @ k.transpose(2, 3)).float() * (q.shape[3] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def _flash_causal(
    layout: Layout,
    value: "torch.Tensor",
    attention_mask: Mask | None,
    causal: bool,
    softcap: float | None,
) -> bool | None:
    """Return whether flash attention is to be causal; None if it cannot run."""
    import torch

    # of the values: rotary positions turn queries and keys into fp32
    half = value.dtype in (torch.float16, torch.bfloat16)
    if layout.bounds is None or layout.attended is not None or not half or softcap is not None:
        return None
    return causal if attention_mask is None else attention_mask.flash_causal(layout)


def _flash(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    layout: Layout,
    causal: bool,
    scaling: float | None,
) -> "torch.Tensor":
    """Run FlashAttention over texts of several lengths (arXiv 2307.08691).

    Returns:
      (tokens, heads, dim).
    """
    from torch.nn.attention import varlen

    q, k, v = (x[0].transpose(0, 1).to(value.dtype).contiguous() for x in (query, key, value))
    bounds, max_length = layout.bounds, max(length for _, _, length in layout.groups)
    assert bounds is not None  # checked by `_flash_causal`
    out = varlen.varlen_attn(
        q,
        k,
        v,
        bounds,
        bounds,
        max_length,
        max_length,
        enable_gqa=q.shape[1] != k.shape[1],
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
        num_splits=1,  # with more, a text's bits would depend on the lengths of its neighbors
    )
    assert not isinstance(out, tuple)  # a tuple is returned only on request
    return out
