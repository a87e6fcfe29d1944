"""Refuse models of which a part runs in their own code alone, where it would not run.

transformers knows some of them by their type, and would run them without that part. Loads no torch.
"""

from pathlib import Path

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import damage, read_settings
from beam_gpte.core.model_references import check_regular_files

_LATENT = "latent_attention_config"  # NV-Embed
_ADAPTERS = "lora_adaptations"  # jina-embeddings-v3


def check_needs_code(folder: Path, config: EncoderConfig) -> None:
    """Refuse a Transformer whose pooling or adapters would not run.

    Args:
      folder: of its config.json, if it has one.
      config: decides whether its code is trusted.

    Raises:
      InputError: config.json cannot be read; the model pools by latent attention (NV-Embed, arXiv
        2405.17428) and its code is not trusted, or has adapters that its code applies where each
        call says which (jina-embeddings-v3, arXiv 2409.10173).
    """
    check_regular_files(folder)
    path = folder / "config.json"
    settings = read_settings(path, {})
    if settings.get(_LATENT) and not config.trust_remote_code:
        raise InputError(
            f"model {config.model!r} pools by latent attention, in its own code; read that and set "
            "trust_remote_code=True, or give an object with encode(texts)"
        )
    if settings.get(_ADAPTERS) and config.adapter != "":
        raise damage(
            path,
            f"has {_ADAPTERS}, which only the model's own code applies, to calls that name one",
            "use a model whose adapters are folders, as jinaai/jina-embeddings-v3-hf, and name one "
            "by adapter; or give an object with encode(texts)",
        )
