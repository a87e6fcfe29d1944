"""Load pretrained transformers models in fp32, and find out how much text they take."""

import contextlib
from collections.abc import Iterator
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import ModelFolder, check_weights
from beam_gpte.core.errors import InputError

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


def load_pretrained(folder: ModelFolder, config: EncoderConfig, classifier: bool = False) -> Any:
    """Load the model of a folder in fp32.

    Args:
      folder: holds weights and settings.
      config: decides whether the model's own code is trusted.
      classifier: load the head of a sequence classifier too.

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
                f"model {config.model!r} comes with its own code; "
                "set trust_remote_code=True to run it"
            ) from error
        raise
    if classifier:
        auto = transformers.AutoModelForSequenceClassification
    elif settings.is_encoder_decoder:
        auto = transformers.AutoModelForTextEncoding  # the encoder alone
    else:
        auto = transformers.AutoModel
    with _quiet_loading(transformers.utils.logging):
        model, report = auto.from_pretrained(
            folder.transformer,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    # without a classifier the pooler is not run
    missing = [name for name in report["missing_keys"] if classifier or "pooler" not in name]
    if missing:
        raise InputError(
            f"model {config.model!r}: {len(missing)} weights are missing, {min(missing)!r} first; "
            "random ones would be run in their place: get a complete checkpoint"
        )
    return model


def position_limit(folder: ModelFolder, config: EncoderConfig) -> int:
    """Return the maximum input length of a model in tokens, special tokens included.

    It is `config.max_tokens` if given, else sentence_bert_config.json's ``max_seq_length``, else
    what the tokenizer and the position embeddings allow: MiniLM has 256, 512 and 512, and its
    vectors are those of 256.

    Raises:
      InputError: `config.max_tokens` is more than the model has positions.
    """
    import transformers

    settings = transformers.AutoConfig.from_pretrained(
        folder.transformer, local_files_only=True, trust_remote_code=config.trust_remote_code
    )
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
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder.transformer, local_files_only=True, trust_remote_code=config.trust_remote_code
    )
    limit = min(tokenizer.model_max_length, positions)
    if limit >= _UNLIMITED:
        raise InputError(f"model {config.model!r} sets no maximum input length; give max_tokens")
    return int(limit)


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
