"""Load pretrained transformers models in fp32, and find out how much text they take."""

import contextlib
import copy
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.adapters.merge import merge_adapter
from beam_gpte.core.encoder.batching import is_out_of_memory
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import ModelFolder, require_weights
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.model_files import damage, read_settings
from beam_gpte.core.model_references import names_flash_attention

# Position embeddings of these count from pad_token_id + 1, so the positions before are never used.
_OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "roberta-prelayernorm",
    "data2vec-text",
)

# Relative positions, and tokenizers without a limit, allow any length.
_UNLIMITED = 1 << 30

_WEIGHTS_PER_BYTE = 4  # of two bits
_ADDED_WEIGHTS = 1 << 26  # that need not be in a checkpoint: a pooler, positions that are computed


def load_pretrained(folder: ModelFolder, config: EncoderConfig, head: str = "") -> Any:
    """Load the model of a folder in fp32.

    Args:
      folder: holds weights, settings and an adapter, which is merged.
      config: decides whether the model's own code is trusted.
      head: to load too: ``classifier``, of a sequence classifier, ``causal``, of a language model,
        ``masked``, of a masked one, or none; of a model with two towers ``text tower`` or
        ``image tower``.

    Raises:
      InputError: it has no safetensors, lacks weights, has some for which the configuration has no
        place, or brings code that is not trusted.
    """
    import torch
    import transformers

    require_weights(folder, config)
    settings = _load_settings(folder, config)
    if head.endswith("tower"):
        auto, settings = _tower(settings, head)
    elif head:
        auto = {
            "classifier": transformers.AutoModelForSequenceClassification,
            "causal": transformers.AutoModelForCausalLM,
            "masked": transformers.AutoModelForMaskedLM,
        }[head]
    elif settings.is_encoder_decoder:
        auto = transformers.AutoModelForTextEncoding  # the encoder alone
    else:
        auto = transformers.AutoModel
    agree = named_failure(folder.transformer / "config.json", "does not agree with the weights")
    with _quiet_loading(transformers.utils.logging), agree, _without_symbols_class()():
        _check_sizes(auto, settings, folder, config)
        model, report = auto.from_pretrained(
            folder.transformer,
            config=settings,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=config.trust_remote_code,
        )
    check_finite(_weights_file(folder.transformer), model.named_parameters())
    replaced = set() if folder.adapter is None else merge_adapter(model, folder.adapter)
    # without a head the pooler is not run
    missing = [
        name
        for name in report["missing_keys"]
        if name not in replaced and (head or "pooler" not in name)
    ]
    if missing:
        raise InputError(
            f"model {config.model!r}: {len(missing)} weights are missing, {min(missing)!r} first; "
            "random ones would be run in their place: get a complete checkpoint"
        )
    extra = _without_place(model, report["unexpected_keys"])
    if extra:
        raise damage(
            folder.transformer / "config.json",
            f"has no place for {len(extra)} weights of the checkpoint, {min(extra)!r} first",
            "get the configuration that belongs to the weights",
        )
    return model


def check_finite(path: Path, tensors: Iterable[tuple[str, Any]]) -> None:
    """Refuse weights that are NaN or infinite: so would every vector be that they have a part in.

    Args:
      path: of their file, for the message.
      tensors: by their names.

    Raises:
      InputError: one is; names it.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            ends = tensor.detach().aminmax()  # NaN where there is one; one pass, without a copy
            if not all(math.isfinite(end) for end in ends):
                raise damage(path, f"has values in {name!r} that are not finite")


def _weights_file(place: Path) -> Path:
    """Name the file of the weights of a folder, for a message: all where there are several."""
    files = sorted(place.glob("*.safetensors"))
    return files[0] if len(files) == 1 else place / "*.safetensors"


def _tower(settings: Any, head: str) -> tuple[Any, Any]:
    """Return the class of one of two towers, with its projection, and its settings."""
    import transformers

    if not hasattr(settings, "text_config"):  # a text tower that was saved alone
        projects = "CLIPTextModelWithProjection" in (settings.architectures or ())
        clip = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
        classes = {"clip_text_model": clip, "siglip_text_model": "SiglipTextModel"}
        return getattr(transformers, classes[settings.model_type]), settings
    if head == "text tower":
        part = settings.text_config
        classes = {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel"}
    else:
        part = settings.vision_config
        classes = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
    if settings.model_type == "clip":
        part.projection_dim = settings.projection_dim  # each tower has a default of its own
    return getattr(transformers, classes[settings.model_type]), part


def _check_sizes(auto: Any, settings: Any, folder: ModelFolder, config: EncoderConfig) -> None:
    """Refuse sizes in config.json that the weights do not have, before memory is taken for them.

    Code that is trusted may do as it likes.
    """
    import torch

    if config.trust_remote_code:
        return
    plan = getattr(auto, "from_config", None) or auto._from_config  # of a tower's class
    with torch.device("meta"):
        planned = plan(copy.deepcopy(settings))
    tensors = itertools.chain(planned.parameters(), planned.buffers())
    wanted = sum(tensor.numel() for tensor in tensors)
    stored = sum(path.stat().st_size for path in folder.transformer.glob("*.safetensors"))
    if wanted > _WEIGHTS_PER_BYTE * stored + _ADDED_WEIGHTS:
        raise damage(
            folder.transformer / "config.json",
            f"asks for {wanted:,} weights, but the files of weights have {stored:,} bytes",
        )


@functools.cache
def _without_symbols_class() -> Any:
    """Return the class of a context in which tensors without memory need no SymPy.

    Torch draws their values, and copies their shapes, symbolically. Importing SymPy for it takes
    longer than importing a model's module.
    """
    import torch

    class WithoutSymbols(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = kwargs or {}
            tensor = given["tensor"] if "tensor" in given else next(iter(args), None)
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                if getattr(func, "__module__", None) == torch.nn.init.__name__:
                    return tensor
                if func is torch.empty_like and tensor.is_contiguous() and set(given) == {"device"}:
                    return torch.empty(tensor.shape, dtype=tensor.dtype, **given)
            return func(*args, **given)

    return WithoutSymbols


def _without_place(model: Any, unexpected: list[str]) -> list[str]:
    """Find weights that were not read and belong into the part of the model that runs.

    They are of a further layer, or of a module that has other weights, such as an adapter. Heads
    and whole other parts, as the decoder of a T5, are not run.
    """
    if not unexpected:
        return []
    prefix = f"{model.base_model_prefix}."
    names = (name.removeprefix(prefix) for name, _ in model.named_parameters())
    forms = {re.sub(r"\d+", "#", name) for name in names}
    owners = {form.rpartition(".")[0] for form in forms} - {""}
    extra = []
    for name in unexpected:
        form = re.sub(r"\d+", "#", name.removeprefix(prefix))
        parts = form.split(".")
        parents = {".".join(parts[:i]) for i in range(1, len(parts))}
        if form in forms or parents & owners:
            extra.append(name)
    return extra


def _load_settings(folder: ModelFolder, config: EncoderConfig) -> Any:
    """Read config.json by its model type.

    Raises:
      InputError: it cannot be read, or names code that is not trusted.
    """
    import transformers

    with named_failure(folder.transformer / "config.json", "is not the configuration of a model"):
        try:
            settings = transformers.AutoConfig.from_pretrained(
                folder.transformer,
                local_files_only=True,
                trust_remote_code=config.trust_remote_code,
            )
            if names_flash_attention(read_settings(folder.transformer / "config.json")):
                settings._attn_implementation = None  # of parts too: attention is ours
        except ValueError as error:
            if "trust_remote_code" in str(error):
                raise InputError(
                    f"model {config.model!r} comes with its own code; "
                    "set trust_remote_code=True to run it"
                ) from error
            raise
    return settings


@contextlib.contextmanager
def named_failure(path: Path, problem: str) -> Iterator[None]:
    """Turn what loading raises into an `InputError` that names the file."""
    try:
        yield
    except (InputError, MemoryError, ImportError):
        raise
    except Exception as error:  # libraries raise any kind for a damaged file
        if is_out_of_memory(error):
            raise
        raise damage(path, f"{problem} ({_first_line(error)})") from error
    except BaseException as error:  # tokenizers is written in Rust, whose panics are of no kind
        if type(error).__name__ != "PanicException":
            raise
        raise damage(path, f"{problem} ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def position_limit(folder: ModelFolder, config: EncoderConfig) -> int:
    """Return the maximum input length of a model in tokens, special tokens included.

    It is `config.max_tokens` if given, else sentence_bert_config.json's ``max_seq_length``, else
    what the tokenizer and the position embeddings allow: MiniLM has 256, 512 and 512, and its
    vectors are those of 256.

    Raises:
      InputError: `config.max_tokens` is more than the model has positions.
    """
    settings = _load_settings(folder, config)
    positions = getattr(settings.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions <= 0:  # relative positions: T5, XLNet (-1)
        positions = _UNLIMITED
    else:
        positions -= first_position(settings)
    if config.max_tokens is not None:
        if config.max_tokens > positions:
            raise InputError(
                f"max_tokens {config.max_tokens}: model {config.model!r} has {positions} "
                "positions; give at most that"
            )
        return config.max_tokens
    if folder.max_tokens is not None:
        return min(folder.max_tokens, positions)
    tokenizer = load_tokenizer(folder, config.trust_remote_code)
    limit = min(tokenizer.model_max_length, positions)
    if limit >= _UNLIMITED:
        raise InputError(f"model {config.model!r} sets no maximum input length; give max_tokens")
    return int(limit)


@one_at_a_time
def load_tokenizer(folder: ModelFolder, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a model.

    Raises:
      InputError: its files cannot be read.
    """
    import transformers

    path = folder.tokenizer / "tokenizer.json"
    if not path.exists():
        path = path.with_name("tokenizer_config.json")
    auto = transformers.AutoTokenizer
    if folder.towers is not None and _needs_sentencepiece(folder):
        auto = transformers.PreTrainedTokenizerFast  # of tokenizer.json, whatever the class
    with named_failure(path, "and the files beside it give no tokenizer"):
        return auto.from_pretrained(
            folder.tokenizer, local_files_only=True, trust_remote_code=trust_remote_code
        )


def _needs_sentencepiece(folder: ModelFolder) -> bool:
    """Check for the class of SigLIP's first tokenizers, which runs on SentencePiece alone.

    Raises:
      InputError: there is no tokenizer.json, which is read in its place.
    """
    path = folder.tokenizer / "tokenizer.json"
    named = read_settings(path.with_name("tokenizer_config.json"), {}).get("tokenizer_class")
    if str(named).removesuffix("Fast") != "SiglipTokenizer":
        return False
    if not path.exists():
        raise damage(
            path, "is missing, and SentencePiece is not read", "use a model that has tokenizer.json"
        )
    return True


def first_position(settings: Any) -> int:
    """Return the position of a text's first token."""
    return (settings.pad_token_id or 0) + 1 if settings.model_type in _OFFSET_POSITIONS else 0


@contextlib.contextmanager
def _quiet_loading(logging_: Any) -> Iterator[None]:
    """Hide progress bars and loading reports, which are made for notebooks."""
    shown, verbosity = logging_.is_progress_bar_enabled(), logging_.get_verbosity()
    logging_.disable_progress_bar()
    logging_.set_verbosity_error()
    try:
        yield
    finally:
        logging_.set_verbosity(verbosity)
        if shown:
            logging_.enable_progress_bar()
