"""Run a transformer: token ids in, one vector per token out.

torch and transformers are imported only when a model is loaded.
"""

import contextlib
import dataclasses
import inspect
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.devices import choose_device
from beam_gpte.core.encoder.attention import register
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.int8.calibration import quantize_linears
from beam_gpte.core.encoder.linear_layers import bf16_speedup, pack_linears
from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.own_code.own_pooling import (
    MASK,
    TOLERANCE,
    has_own_code,
    is_pooled,
    pooled_vectors,
)
from beam_gpte.core.encoder.pretrained import first_position, load_pretrained
from beam_gpte.core.encoder.unpadded import Unpadded, probe, to_device
from beam_gpte.core.errors import InputError
from beam_gpte.core.process import tune_process

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

# Largest difference of a token vector of length 1, flash attention against SDPA, both in half
# precision.
HALF_TOLERANCE = 2e-2

# How many times as fast as fp32 the products of a CPU are in bfloat16 for precision auto to take
# it: what the measurement varies by, and what attention and norms, which stay fp32, are worth.
AUTO_SPEEDUP = 1.2


def import_torch() -> Any:
    """Import torch after tuning a process of ours: torch reads variables on import."""
    tune_process()
    import torch

    return torch


def choose_precision(config: EncoderConfig) -> EncoderConfig:
    """Replace precision ``auto`` by the one that pays on this machine; see `EncoderConfig`."""
    if config.precision != "auto":
        return config
    torch = import_torch()
    device = choose_device(config.device)
    if device.startswith("cuda"):
        # fp16 has more digits, but overflows in some models
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        precision = "bf16" if device == "cpu" and bf16_speedup() >= AUTO_SPEEDUP else "fp32"
    _log.info("precision auto is %s here", precision)
    return dataclasses.replace(config, precision=precision)


def start_torch(config: EncoderConfig | str) -> EncoderConfig:
    """Import torch, and complete a configuration; a string means a model with all defaults."""
    import_torch()
    return choose_precision(EncoderConfig(config) if isinstance(config, str) else config)


def checked_device(config: EncoderConfig) -> str:
    """Return the device that a model runs on.

    Raises:
      InputError: it cannot compute in the configured precision.
    """
    device = choose_device(config.device)
    if device == "cpu" and config.precision == "fp16":
        raise InputError("precision 'fp16' needs a GPU, but this runs on a CPU; use bf16 or fp32")
    if device != "cpu" and config.precision == "int8":
        raise InputError(
            f"precision 'int8' needs a CPU, but this runs on {device}; use bf16 or fp16"
        )
    return device


class Backbone:
    """Run a transformers model over micro-batches of texts, unpadded where possible.

    Attributes:
      unpadded: whether texts run end to end; otherwise they are padded.
      reason: why not unpadded, empty if it is.
      device: the device of the model.
      autocast: the type of products by PyTorch's autocast, on a GPU; None for fp32. On a CPU the
        packed layers do it.
      precision: describes it for people: ``bf16``, ``int8 (4 of 72 layers fp32)``.
      fp32_layers: linear layers whose error in int8 is too large, see `int8.calibration`; 0 in
        other precisions.
      pools: whether the model's own code pools; then `run_pooled` runs it.
      takes_mask: whether that code takes the tokens to pool.
    """

    def __init__(
        self, model: Any, device: Any, pad_id: int, samples: list[np.ndarray], position_offset: int
    ) -> None:
        self.device = device
        self.autocast: torch.dtype | None = None
        self.precision, self.fp32_layers = "fp32", 0
        self._model = model
        self._pad_id = pad_id
        self._accepted = set(inspect.signature(model.forward).parameters)
        self.takes_mask = MASK in self._accepted
        self.pools = has_own_code(model) and self._try_own_pooling(samples)
        self._packed = Unpadded(model, self._accepted, position_offset)
        if self.pools:
            self.reason = f"{type(model).__name__} pools by its own code"
        else:
            self.reason = probe(model, self._packed, samples, device) or ""
        self.unpadded = not self.reason
        way = "unpadded" if self.unpadded else f"padded: {self.reason}"
        _log.info("%s runs %s", type(model).__name__, way)

    @classmethod
    def load(
        cls, folder: ModelFolder, config: EncoderConfig, pad_id: int, samples: list[np.ndarray]
    ) -> "Backbone":
        """Load the model and find out how it can run.

        Args:
          folder: holds weights and settings.
          config: device, precision and trust.
          pad_id: the token that fills padded rows.
          samples: token ids of some texts of different lengths, to try unpadded execution with,
            and to fit int8 to.
        """
        return cls.from_model(load_pretrained(folder, config), config, pad_id, samples)

    @classmethod
    def from_model(
        cls, model: Any, config: EncoderConfig, pad_id: int, samples: list[np.ndarray]
    ) -> "Backbone":
        """Find out how a loaded model can run, as `load` does; the model is changed in place."""
        torch = import_torch()
        register()
        device = checked_device(config)
        model = model.to(device).eval()
        if getattr(model, "pooler", None) is not None:
            # its output is never used; without it there is one product less per text
            model.pooler = None
        backbone = cls(model, torch.device(device), pad_id, samples, first_position(model.config))
        backbone.precision = config.precision
        if device == "cpu":  # after the probe, which compares in fp32
            backbone.pack(config, samples)
        elif config.precision != "fp32":
            backbone.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
            backbone.try_flash(samples)
        return backbone

    @property
    def attention(self) -> str:
        """Describe it for people: ``unpadded``, ``unpadded, flash attention``, or why padded."""
        if not self.unpadded:
            return f"padded: {self.reason}"
        return "unpadded, flash attention" if self._packed.flash else "unpadded"

    def pack(self, config: EncoderConfig, samples: list[np.ndarray]) -> None:
        """Replace the linear layers by those of `config.precision`, on a CPU."""
        try:
            if config.precision == "int8":
                self._quantize(samples)
            pack_linears(self._model, bf16=config.precision == "bf16")
        except NotImplementedError as error:
            raise InputError(f"precision {config.precision!r}: {error}") from error

    def _quantize(self, samples: list[np.ndarray]) -> None:
        whole = [np.array([[0, len(one)]]) for one in samples]

        def run() -> object:
            return self.run_pooled(samples, whole) if self.pools else self.run(samples)

        replaced, self.fp32_layers = quantize_linears(self._model, run)
        if self.fp32_layers:
            layers = replaced + self.fp32_layers
            self.precision = f"int8 ({self.fp32_layers} of {layers} layers fp32)"

    def try_flash(self, samples: list[np.ndarray]) -> None:
        """Turn on flash attention if it runs here and agrees with SDPA on `samples`."""
        import torch

        if not self.unpadded:
            return
        with torch.inference_mode():
            expected = torch.nn.functional.normalize(self.run(samples)[0], dim=1)
            self._packed.flash = True
            try:
                found = torch.nn.functional.normalize(self.run(samples)[0], dim=1)
                difference = float((found - expected).abs().max())
                differs = difference > HALF_TOLERANCE
                reason = f"differs from SDPA by {difference:.1e}" if differs else ""
            except Exception as error:  # of any kind: SDPA remains
                reason = repr(error)
        self._packed.flash = not reason
        _log.info("flash attention %s", f"is not used: {reason}" if reason else "is used")

    def run(
        self,
        batch: list[np.ndarray],
        layers: int = 1,
        types: list[np.ndarray] | None = None,
        attended: list[int] | None = None,
    ) -> tuple["torch.Tensor", "torch.Tensor", int]:
        """Run one forward pass.

        Args:
          batch: token ids of each text.
          layers: average the outputs of this many last layers.
          types: token types of each text; None for zeros.
          attended: how many tokens of each text, from its first, all of them attend to; None for
            all.

        Returns:
          The token vectors of all texts end to end, float32 (total tokens, dim); where each text
          begins and the last ends, int64 (n + 1,); how many tokens were computed, padding included.
        """
        import torch

        output, kept, offsets, computed = self._forward(batch, types, layers > 1, attended)
        if layers == 1:
            hidden = output.last_hidden_state[kept].float()
        else:
            last = [hidden[kept].float() for hidden in output.hidden_states[-layers:]]
            hidden = torch.stack(last).mean(0)
        return hidden, offsets, computed

    def run_pooled(
        self, batch: list[np.ndarray], spans: list[np.ndarray]
    ) -> tuple["torch.Tensor", int]:
        """Run one forward pass of a model that pools by its own code.

        Args:
          batch: token ids of each text.
          spans: int64 (1, 2) of each: the first token to pool and the end, if `takes_mask`.

        Returns:
          float32 (n, dim), and how many tokens were computed.
        """
        import torch

        places = torch.arange(max(map(len, batch)))
        mask = places < torch.tensor([len(ids) for ids in batch]).unsqueeze(1)
        inputs = {"input_ids": padded(batch, mask, self._pad_id), "attention_mask": mask.long()}
        if self.takes_mask:
            first, end = torch.from_numpy(np.concatenate(spans)).unsqueeze(2).unbind(1)
            inputs[MASK] = ((places >= first) & (places < end)).long()
        on_device = {name: to_device(values, self.device) for name, values in inputs.items()}
        with self.in_precision():
            output = self._model(**on_device)
        return pooled_vectors(output, self._model), mask.numel()

    def _try_own_pooling(self, samples: list[np.ndarray]) -> bool:
        """Find out whether the model's own code pools, and alike with padding and without.

        Raises:
          InputError: padding changes its vectors.
        """
        import torch

        with torch.inference_mode():
            ids = torch.from_numpy(samples[0]).unsqueeze(0).to(self.device)
            mask = {MASK: torch.ones_like(ids)} if self.takes_mask else {}
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **mask)
            if not is_pooled(output):
                return False
            spans = [np.array([[0, len(one)]]) for one in samples]
            alone = [
                self.run_pooled([one], [span])[0] for one, span in zip(samples, spans, strict=True)
            ]
            together, _ = self.run_pooled(samples, spans)
        normal = torch.nn.functional.normalize
        difference = float((normal(together, dim=1) - normal(torch.cat(alone), dim=1)).abs().max())
        if difference > TOLERANCE:
            raise InputError(
                f"{type(self._model).__name__} pools by its own code, and padding changes its "
                f"vectors by {difference:.1e}; give an object with encode(texts)"
            )
        return True

    def run_first(
        self, batch: list[np.ndarray], types: list[np.ndarray] | None = None
    ) -> tuple["torch.Tensor", int]:
        """Run one forward pass for the first token of each text; see `run`.

        Returns:
          Its vectors of all layers, those of the embeddings first, float32 (layers, n, dim); how
          many tokens were computed.
        """
        import torch

        output, kept, offsets, computed = self._forward(batch, types, all_layers=True)
        first = [hidden[kept][offsets[:-1]].float() for hidden in output.hidden_states]
        return torch.stack(first), computed

    def _forward(
        self,
        batch: list[np.ndarray],
        types: list[np.ndarray] | None,
        all_layers: bool,
        attended: list[int] | None = None,
    ) -> tuple[Any, Any, "torch.Tensor", int]:
        """Return the model's output, what of it are tokens of texts, their offsets, and a count."""
        import torch

        lengths = torch.tensor([len(ids) for ids in batch])
        offsets = to_device(torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), self.device)
        options = {"output_hidden_states": True} if all_layers else {}
        firsts = None if attended is None else torch.tensor(attended)
        with self.in_precision():
            if self.unpadded:
                output = self._packed(batch, self.device, types, firsts, **options)
                return output, 0, offsets, int(lengths.sum())
            output, kept, computed = self._run_padded(batch, lengths, types, options, firsts)
            return output, kept, offsets, computed

    def in_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which products are those of the precision, on a GPU."""
        import torch

        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def _run_padded(
        self,
        batch: list[np.ndarray],
        lengths: "torch.Tensor",
        types: list[np.ndarray] | None,
        options: dict[str, Any],
        firsts: "torch.Tensor | None",
    ) -> tuple[Any, Any, int]:
        import torch

        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        kept = to_device(mask, self.device)
        inputs = {"input_ids": padded(batch, mask, self._pad_id)}
        if types is not None and "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = padded(types, mask, 0)
        on_device = {name: to_device(values, self.device) for name, values in inputs.items()}
        seen = kept
        if firsts is not None:
            seen = to_device(torch.arange(mask.shape[1]) < firsts.unsqueeze(1), self.device)
        output = self._model(**on_device, attention_mask=seen.long(), **options)
        return output, kept, mask.numel()


def padded(rows: list[np.ndarray], mask: "torch.Tensor", value: int) -> "torch.Tensor":
    """Fill int64 of the shape of `mask`: the rows where it is true, in order, `value` elsewhere."""
    import torch

    filled = torch.full(mask.shape, value)
    filled[mask] = torch.from_numpy(np.concatenate(rows))
    return filled
