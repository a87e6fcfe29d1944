"""Run a model over texts that lie end to end in one row, without padding.

Everything in a transformer but attention works token by token, so padding is needed nowhere else;
`attention` keeps each text to itself. Models with their own attention code ignore its registration
and would let texts attend to one another: `probe` detects them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.attention import NAME, Layout, set_layout

if TYPE_CHECKING:
    import torch

# Largest difference of a token vector of length 1, packed against alone, in fp32.
TOLERANCE = 1e-5


def to_device(tensor: "torch.Tensor", device: Any) -> "torch.Tensor":
    """Move a tensor; to a GPU from pinned memory, without waiting for it."""
    import torch

    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Unpadded:
    """Run a model over packed rows.

    Attributes:
      flash: whether flash attention runs where it can.
    """

    def __init__(self, model: Any, accepted: set[str], position_offset: int) -> None:
        self.flash = False
        self._model = model
        # decoders would keep all keys and values for a next token
        model.config.get_text_config().use_cache = False
        self._accepted = accepted
        self._position_offset = position_offset

    def __call__(
        self,
        batch: list[np.ndarray],
        device: Any,
        types: list[np.ndarray] | None = None,
        attended: "torch.Tensor | None" = None,
        **options: Any,
    ) -> Any:
        """Return the model's output over `batch` end to end.

        Args:
          batch: token ids of each text.
          device: the model's device.
          types: token types of each text; None for zeros.
          attended: see `Layout`.
          **options: passed to the model.

        Returns:
          The model's output; hidden states are (1, total tokens, dim).
        """
        import torch

        lengths = np.array([len(ids) for ids in batch])
        positions = np.concatenate([np.arange(length) for length in lengths])
        ids, at = (
            to_device(torch.from_numpy(x).unsqueeze(0), device)
            for x in (np.concatenate(batch), positions + self._position_offset)
        )
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": at}
        if "token_type_ids" in self._accepted:
            # BERT's own default is as long as its positions; a packed row is longer
            if types is None:
                inputs["token_type_ids"] = torch.zeros_like(ids)
            else:
                packed = torch.from_numpy(np.concatenate(types)).unsqueeze(0)
                inputs["token_type_ids"] = to_device(packed, device)
        bounds = None
        if self.flash:
            starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
            bounds = to_device(starts.int(), device)
        if attended is not None:
            attended = to_device(attended, device)
        set_layout(Layout.from_lengths(lengths, bounds, attended))
        return self._model(**inputs, **options)


def warm_up_vector_math() -> None:
    """Make MKL choose its kernels now, in one thread.

    It chooses at the first call of each function, and a first call by several threads may compute a
    part of the tensor with a kernel of half the digits: a GELU off by 5e-5, once
    (https://github.com/pytorch/pytorch/issues/188792, MKL 2024.2).
    """
    import torch

    for name in ("tanh", "exp", "expm1", "erf", "log", "log1p", "sqrt", "sin", "cos"):
        getattr(torch, name)(torch.ones(1))


def probe(model: Any, unpadded: Unpadded, samples: list[np.ndarray], device: Any) -> str | None:
    """Compare `samples` run packed with `samples` run alone, the plain way.

    Leaves the model on unpadded attention if they agree, else on PyTorch's SDPA (or eager where
    there is none).

    Returns:
      None if the model can run unpadded, else why it cannot.
    """
    import torch

    warm_up_vector_math()
    plain = model.config._attn_implementation
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has its own attention code"
    with torch.inference_mode():
        alone = [
            model(input_ids=torch.from_numpy(ids).unsqueeze(0).to(device)).last_hidden_state[0]
            for ids in samples
        ]
        model.set_attn_implementation(NAME)
        try:
            packed = unpadded(samples, device).last_hidden_state[0]
        except Exception as error:  # of any kind: the padded way remains
            model.set_attn_implementation(plain)
            return f"{type(model).__name__} cannot be packed: {error!r}"
    expected = torch.nn.functional.normalize(torch.cat(alone).float(), dim=1)
    found = torch.nn.functional.normalize(packed.float(), dim=1)
    difference = float((found - expected).abs().max())
    if difference < TOLERANCE:
        return None
    model.set_attn_implementation(plain)
    return (
        f"{type(model).__name__} lets packed texts see one another: "
        f"a difference of {difference:.1e}"
    )
