"""Unpadded execution: texts lie end to end in one row, and attention runs within each.

Everything in a transformer but attention works token by token, so padding is needed nowhere else. transformers lets a
model's attention be replaced by a registered function, and its masks by a function that is handed the rule of the mask
(causal, sliding window, bidirectional, ...). `attend` runs PyTorch's SDPA once for all texts of one length, under that rule;
on a GPU in half precision flash attention runs once for all texts, if the rule is one that it knows.

Models with attention code of their own ignore the registration and would let texts see one another: `probe` finds out.
"""

import dataclasses
import itertools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

NAME = "beam_gpte_unpadded"
TOLERANCE = 1e-5  # of a token vector of length 1, packed against alone, in fp32

_running = (
    threading.local()
)  # the layout of the batch that this thread runs: models do not pass one through


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the texts of a packed row lie.

    Attributes:
      groups: (start, number of texts, tokens of each).
      bounds: int32 (n + 1,), where each text begins and the last ends, on the GPU; None where flash attention is not to run.
    """

    groups: list[tuple[int, int, int]]
    bounds: "torch.Tensor | None" = None

    @classmethod
    def of(cls, lengths: np.ndarray, flash_on: Any = None) -> "Layout":
        """Neighbouring texts of equal length form a group; sorted input gives the fewest."""
        import torch

        edges = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        groups = [
            (int(starts[first]), int(last - first), int(lengths[first]))
            for first, last in itertools.pairwise(edges)
        ]
        return cls(
            groups,
            None if flash_on is None else to_device(torch.from_numpy(starts).int(), flash_on),
        )


def to_device(tensor: "torch.Tensor", device: Any) -> "torch.Tensor":
    """Without waiting for it, if there is a GPU: out of pinned memory."""
    import torch

    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Mask:
    """The rule of one kind of layer, as transformers hands it to a mask function; answers for a stretch of tokens."""

    def __init__(self, rule: Any, device: Any) -> None:
        self._rule = rule
        self._device = device
        self._known: dict[int, tuple[Any, bool]] = {}

    def of(self, start: int, length: int) -> tuple["torch.Tensor | None", bool]:
        """SDPA's (attn_mask, is_causal) for a text of `length` tokens at `start`; rules know only distances within it."""
        import torch

        if length not in self._known:
            at = torch.arange(start, start + length)  # on the CPU: asking a GPU would wait for it
            zero = torch.zeros((), dtype=torch.long)
            allowed = self._rule(zero, zero, at[:, None], at[None, :]).expand(length, length)
            if allowed.all():
                self._known[length] = None, False
            elif torch.equal(allowed, torch.ones_like(allowed).tril()):
                self._known[length] = None, True
            else:
                self._known[length] = allowed.to(self._device), False
        return self._known[length]

    def flash_causal(self, layout: Layout) -> bool | None:
        """Whether attention is causal, all texts of the layout taken together; None if it is neither that nor full."""
        answers = [self.of(start, length) for start, _, length in layout.groups if length > 1]
        kinds = {None if mask is not None else causal for mask, causal in answers} or {False}
        return kinds.pop() if len(kinds) == 1 else None


def register() -> None:
    """Make `NAME` an attention implementation of transformers."""
    import transformers
    from transformers.masking_utils import AttentionMaskInterface

    transformers.AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)


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
    """Attention within each text of the running layout.

    Args:
      query: (1, heads, tokens, dim); `key` and `value` may have fewer heads (grouped-query attention).
      attention_mask: what `_mask` gave; None where the model asked for no mask.

    Returns:
      (1, tokens, heads, dim) and no weights.

    Raises:
      NotImplementedError: the model needs what this does not do; `probe` turns it down.
    """
    import torch

    for name in ("position_bias", "s_aux", "cache"):
        if others.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    layout, half = (
        _running.layout,
        value.dtype in (torch.float16, torch.bfloat16),
    )  # rotary positions make others fp32
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if layout.bounds is not None and half and softcap is None:
        one_rule = causal if attention_mask is None else attention_mask.flash_causal(layout)
        if one_rule is not None:
            longest = max(length for _, _, length in layout.groups)
            return _flash(query, key, value, layout.bounds, longest, one_rule, scaling).unsqueeze(
                0
            ), None
    if query.shape[1] != key.shape[1]:
        key, value = (
            x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value)
        )
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    for start, count, length in layout.groups:
        stop = start + count * length
        q, k, v = (
            x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1)
            for x in (query, key, value)
        )
        mask, is_triangle = (
            (None, causal and length > 1)
            if attention_mask is None
            else attention_mask.of(start, length)
        )
        if softcap is None:
            result = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=is_triangle, scale=scaling
            )
        else:
            result = _softcapped(q, k, v, mask, is_triangle, scaling, softcap)
        out[start:stop] = result.transpose(1, 2).flatten(0, 1)
    return out.unsqueeze(0), None


def _flash(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    bounds: "torch.Tensor",
    longest: int,
    causal: bool,
    scaling: float | None,
) -> "torch.Tensor":
    """FlashAttention over texts of several lengths (arXiv 2307.08691); (tokens, heads, dim)."""
    from torch.nn.attention import varlen

    q, k, v = (x[0].transpose(0, 1).to(value.dtype).contiguous() for x in (query, key, value))
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0) if causal else (-1, -1)}
    options["num_splits"] = (
        1  # with more, a text's bits would depend on how long its neighbours are
    )
    out = varlen.varlen_attn(
        q, k, v, bounds, bounds, longest, longest, enable_gqa=q.shape[1] != k.shape[1], **options
    )
    assert not isinstance(out, tuple)  # that is what it gives if asked for more
    return out


def _softcapped(
    q: "torch.Tensor",
    k: "torch.Tensor",
    v: "torch.Tensor",
    mask: "torch.Tensor | None",
    causal: bool,
    scaling: float | None,
    softcap: float,
) -> "torch.Tensor":
    """Gemma 2's bounded scores (arXiv 2408.00118), which SDPA does not have."""
    import torch

    scores = (q @ k.transpose(2, 3)).float() * (q.shape[3] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


class Unpadded:
    """Runs a model over packed rows.

    Attributes:
      flash: whether flash attention is to run where it can.
    """

    def __init__(self, model: Any, accepted: set[str], position_offset: int) -> None:
        self.flash = False
        self._model = model
        model.config.get_text_config().use_cache = (
            False  # decoders would keep all keys and values for a next token
        )
        self._accepted = accepted
        self._position_offset = position_offset

    def __call__(
        self,
        batch: list[np.ndarray],
        device: Any,
        types: list[np.ndarray] | None = None,
        **options: Any,
    ) -> Any:
        """The model's output over `batch` end to end; hidden states are (1, total tokens, dim).

        Args:
          types: token types of each text; None for zeros.
        """
        import torch

        lengths = np.array([len(ids) for ids in batch])
        positions = (
            np.concatenate([np.arange(length) for length in lengths]) + self._position_offset
        )
        ids, at = (
            to_device(torch.from_numpy(x).unsqueeze(0), device)
            for x in (np.concatenate(batch), positions)
        )
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": at}
        if (
            "token_type_ids" in self._accepted
        ):  # BERT's own default is as long as its positions, a packed row is longer
            known = None if types is None else torch.from_numpy(np.concatenate(types)).unsqueeze(0)
            inputs["token_type_ids"] = (
                torch.zeros_like(ids) if known is None else to_device(known, device)
            )
        _running.layout = Layout.of(lengths, device if self.flash else None)
        return self._model(**inputs, **options)


def settle_vector_math() -> None:
    """Have MKL choose its kernels now, in one thread.

    It chooses at the first call of each function, and a first call by several threads may compute a part of the tensor with
    a kernel of half the digits: a GELU off by 5e-5, once (https://github.com/pytorch/pytorch/issues/188792, MKL 2024.2).
    """
    import torch

    for function in (
        torch.tanh,
        torch.exp,
        torch.expm1,
        torch.erf,
        torch.log,
        torch.log1p,
        torch.sqrt,
        torch.sin,
        torch.cos,
    ):
        function(torch.ones(1))


def probe(model: Any, unpadded: Unpadded, samples: list[np.ndarray], device: Any) -> str | None:
    """Run `samples` packed and, the plain way, alone.

    Leaves the model on the unpadded attention if they agree, else on PyTorch's SDPA (or eager where there is none).

    Returns:
      None if the model can run unpadded, else why it cannot.
    """
    import torch

    settle_vector_math()
    plain = model.config._attn_implementation
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has attention code of its own"
    with torch.inference_mode():
        alone = [
            model(input_ids=torch.from_numpy(ids).unsqueeze(0).to(device)).last_hidden_state[0]
            for ids in samples
        ]
        model.set_attn_implementation(NAME)
        try:
            packed = unpadded(samples, device).last_hidden_state[0]
        except Exception as error:  # whatever it is, the padded way is there
            model.set_attn_implementation(plain)
            return f"{type(model).__name__} cannot be packed: {error!r}"
    expected = torch.nn.functional.normalize(torch.cat(alone).float(), dim=1)
    difference = float(
        (torch.nn.functional.normalize(packed.float(), dim=1) - expected).abs().max()
    )
    if difference < TOLERANCE:
        return None
    model.set_attn_implementation(plain)
    return f"{type(model).__name__} lets packed texts see one another: a difference of {difference:.1e}"
