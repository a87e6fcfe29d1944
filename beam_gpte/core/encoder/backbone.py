"""The transformer itself: token ids in, one vector a token out. torch and transformers are imported on load only."""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.linear_layers import bound_caches, pack_linears
from beam_gpte.core.encoder.model_folder import ModelFolder, check_weights
from beam_gpte.core.encoder.unpadded import Unpadded, probe, register, to_device
from beam_gpte.core.errors import InputError
from beam_gpte.core.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

HALF_TOLERANCE = (
    2e-2  # of a token vector of length 1, flash attention against SDPA, both in half precision
)

# Position embeddings of these count from pad_token_id + 1, so two of them are never used.
_OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "roberta-prelayernorm",
    "data2vec-text",
)


def set_thread_policy() -> None:
    """Ask for threads that suit a worker among others; to be called before torch is imported, which reads it then.

    Threads that wait must not spin: active waiting on a busy worker was 3.2 times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def import_torch() -> Any:
    set_thread_policy()
    import torch

    return torch


class Backbone:
    """A transformers model that runs micro-batches of texts: unpadded where it can, padded where it cannot.

    Attributes:
      unpadded: which of the two.
      reason: why not unpadded, empty if it is.
      device: where it runs.
      autocast: the type of products by PyTorch's autocast, on a GPU; None for fp32. On a CPU the packed layers do it.
    """

    def __init__(
        self, model: Any, device: Any, pad_id: int, samples: list[np.ndarray], position_offset: int
    ) -> None:
        self.device = device
        self.autocast: torch.dtype | None = None
        self._model = model
        self._pad_id = pad_id
        self._accepted = set(inspect.signature(model.forward).parameters)
        self._packed = Unpadded(model, self._accepted, position_offset)
        self.reason = probe(model, self._packed, samples, device) or ""
        self.unpadded = not self.reason
        _log.info(
            "%s runs %s",
            type(model).__name__,
            "unpadded" if self.unpadded else f"padded: {self.reason}",
        )

    @classmethod
    def load(
        cls, folder: ModelFolder, config: EncoderConfig, pad_id: int, samples: list[np.ndarray]
    ) -> "Backbone":
        """Load the model and find out how it can run.

        Args:
          samples: token ids of some texts of different lengths, to try unpadded execution with.
        """
        return cls.of(load_pretrained(folder, config), config, pad_id, samples)

    @classmethod
    def of(
        cls, model: Any, config: EncoderConfig, pad_id: int, samples: list[np.ndarray]
    ) -> "Backbone":
        """The same for a model that is loaded; it is changed."""
        bound_caches()
        keep_freed_memory()
        torch = import_torch()
        register()
        device = (
            config.device
            if config.device != "auto"
            else ("cuda" if torch.cuda.is_available() else "cpu")
        )
        if device == "cpu" and config.precision == "fp16":
            raise InputError(
                "precision 'fp16' is for a GPU, and this runs on a CPU; use bf16 or fp32"
            )
        model = model.to(device).eval()
        if getattr(model, "pooler", None) is not None:
            model.pooler = (
                None  # its output is never used; without it there is one product less a text
            )
        backbone = cls(model, torch.device(device), pad_id, samples, _position_offset(model.config))
        if device == "cpu":  # after the probe, which compares in fp32
            _pack(model, config)
        elif config.precision != "fp32":
            backbone.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
            backbone.try_flash(samples)
        return backbone

    @property
    def attention(self) -> str:
        """For people: ``unpadded``, ``unpadded, flash attention`` or ``padded`` and why."""
        if not self.unpadded:
            return f"padded: {self.reason}"
        return "unpadded, flash attention" if self._packed.flash else "unpadded"

    def try_flash(self, samples: list[np.ndarray]) -> None:
        """Have flash attention run if it runs here, and gives what SDPA gives."""
        import torch

        if not self.unpadded:
            return
        with torch.inference_mode():
            expected = torch.nn.functional.normalize(self.run(samples)[0], dim=1)
            self._packed.flash = True
            try:
                found = torch.nn.functional.normalize(self.run(samples)[0], dim=1)
                difference = float((found - expected).abs().max())
                reason = (
                    f"differs from SDPA by {difference:.1e}" if difference > HALF_TOLERANCE else ""
                )
            except Exception as error:  # whatever it is, SDPA is there
                reason = repr(error)
        self._packed.flash = not reason
        _log.info("flash attention %s", f"is not used: {reason}" if reason else "is used")

    def run(
        self, batch: list[np.ndarray], layers: int = 1, types: list[np.ndarray] | None = None
    ) -> tuple["torch.Tensor", "torch.Tensor", int]:
        """One forward pass.

        Args:
          batch: token ids of each text.
          layers: the mean of the outputs of this many last layers is given.
          types: token types of each text; None for zeros.

        Returns:
          The token vectors of all texts end to end, float32 (total tokens, dim); where each text begins and the last
          ends, int64 (n + 1,); how many tokens were computed, padding included.
        """
        import torch

        lengths = torch.tensor([len(ids) for ids in batch])
        offsets = to_device(torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), self.device)
        options = {} if layers == 1 else {"output_hidden_states": True}
        with (
            torch.autocast(self.device.type, self.autocast)
            if self.autocast
            else contextlib.nullcontext()
        ):
            if self.unpadded:
                output, kept, computed = (
                    self._packed(batch, self.device, types, **options),
                    0,
                    int(lengths.sum()),
                )
            else:
                output, kept, computed = self._run_padded(batch, lengths, types, options)
        if layers == 1:
            return output.last_hidden_state[kept].float(), offsets, computed
        return (
            torch.stack([hidden[kept].float() for hidden in output.hidden_states[-layers:]]).mean(
                0
            ),
            offsets,
            computed,
        )

    def _run_padded(
        self,
        batch: list[np.ndarray],
        lengths: "torch.Tensor",
        types: list[np.ndarray] | None,
        options: dict[str, Any],
    ) -> tuple[Any, Any, int]:
        import torch

        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        kept = to_device(mask, self.device)
        inputs = {"input_ids": padded(batch, mask, self._pad_id)}
        if types is not None and "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = padded(types, mask, 0)
        on_device = {name: to_device(values, self.device) for name, values in inputs.items()}
        output = self._model(**on_device, attention_mask=kept.long(), **options)
        return output, kept, mask.numel()


def padded(rows: list[np.ndarray], mask: "torch.Tensor", value: int) -> "torch.Tensor":
    """int64, of the shape of `mask`: the rows where it is true, in order, `value` elsewhere."""
    import torch

    filled = torch.full(mask.shape, value)
    filled[mask] = torch.from_numpy(np.concatenate(rows))
    return filled


def position_limit(folder: ModelFolder, config: EncoderConfig) -> int:
    """The longest input of a model in tokens, special tokens included.

    What the user asks for, else sentence_bert_config.json's ``max_seq_length``, else what the tokenizer and the position
    embeddings allow: MiniLM says 256, 512 and 512, and its vectors are those of 256.

    Raises:
      InputError: more is asked for than the model has positions.
    """
    import transformers

    settings = transformers.AutoConfig.from_pretrained(
        folder.transformer, local_files_only=True, trust_remote_code=config.trust_remote_code
    )
    positions = getattr(settings.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions <= 0:  # relative positions: T5, XLNet (-1)
        positions = 1 << 30
    else:
        positions -= _position_offset(settings)
    if config.max_tokens is not None:
        if config.max_tokens > positions:
            raise InputError(
                f"max_tokens {config.max_tokens}: model {config.model!r} has {positions} positions"
            )
        return config.max_tokens
    if folder.max_tokens is not None:
        return min(folder.max_tokens, positions)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder.transformer, local_files_only=True, trust_remote_code=config.trust_remote_code
    )
    limit = min(tokenizer.model_max_length, positions)
    if limit >= 1 << 30:
        raise InputError(f"model {config.model!r} names no longest input; give max_tokens")
    return int(limit)


def _pack(model: Any, config: EncoderConfig) -> None:
    try:
        pack_linears(model, bf16=config.precision == "bf16")
    except NotImplementedError as error:
        raise InputError(f"precision {config.precision!r}: {error}") from error


def _position_offset(settings: Any) -> int:
    """The position of a text's first token."""
    return (settings.pad_token_id or 0) + 1 if settings.model_type in _OFFSET_POSITIONS else 0


def load_pretrained(folder: ModelFolder, config: EncoderConfig, classifier: bool = False) -> Any:
    """The model of a folder in fp32, without a head or, `classifier`, with that of a sequence classifier.

    Raises:
      InputError: it has no safetensors, lacks weights, or brings code that is not trusted.
    """
    import torch
    import transformers

    check_weights(folder, config)
    options = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    try:
        settings = transformers.AutoConfig.from_pretrained(folder.transformer, **options)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"model {config.model!r} brings its own code; trust_remote_code=True runs it"
            ) from error
        raise
    # of an encoder-decoder model the encoder alone
    auto = (
        transformers.AutoModelForTextEncoding
        if settings.is_encoder_decoder
        else transformers.AutoModel
    )
    auto = transformers.AutoModelForSequenceClassification if classifier else auto
    with _quiet_loading(transformers.utils.logging):
        model, report = auto.from_pretrained(
            folder.transformer,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    missing = [
        name for name in report["missing_keys"] if classifier or "pooler" not in name
    ]  # an encoder's is not run
    if missing:
        raise InputError(
            f"model {config.model!r}: {len(missing)} weights are missing, {min(missing)!r} first; "
            "what would be run in their place is random: get a complete checkpoint"
        )
    return model


@contextlib.contextmanager
def _quiet_loading(logging_: Any) -> Iterator[None]:
    """Without progress bars and reports, which are made for notebooks."""
    shown, verbosity = logging_.is_progress_bar_enabled(), logging_.get_verbosity()
    logging_.disable_progress_bar()
    logging_.set_verbosity_error()
    try:
        yield
    finally:
        logging_.set_verbosity(verbosity)
        if shown:
            logging_.enable_progress_bar()
