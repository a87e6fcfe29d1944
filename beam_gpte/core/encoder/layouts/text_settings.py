"""Read what a model's files say about its texts: limits, arguments, and prompts. Loads no torch."""

from pathlib import Path
from typing import Any

from beam_gpte.core.errors import shown
from beam_gpte.core.model_files import damage, read_settings, setting

# Arguments that sentence_bert_config.json may give to transformers and that change no vector here:
# weights are read in fp32, attention is ours, batches are not padded to a side.
_NO_EFFECT = (
    "add_pooling_layer",
    "attn_implementation",
    "dtype",
    "model_max_length",
    "padding_side",
    "torch_dtype",
    "trust_remote_code",
    "unpad_inputs",
    "use_memory_efficient_attention",
    "use_safetensors",
)
# The same of processing_kwargs: parts for other inputs than texts, and arguments.
_OTHER_MODALITIES = ("audio", "image", "video")
_NO_EFFECT_ON_TEXT = ("logits_to_keep", "padding", "padding_side", "return_tensors")
# Arguments of transformers' apply_chat_template that are not variables of a template.
_CHAT_RESERVED = (
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "padding",
    "processor_kwargs",
    "restore_suffix",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
)
_ARGUMENTS = (
    "config_args",
    "config_kwargs",
    "model_args",
    "model_kwargs",
    "processor_kwargs",
    "tokenizer_args",
)


def transformer_settings(folder: Path) -> dict[str, Any]:
    """Read sentence_bert_config.json or a historical name (sentence_roberta_config.json, ...).

    Raises:
      InputError: it is damaged, or sets what is not followed here.
    """
    for path in sorted(folder.glob("sentence_*_config.json")):
        settings = read_settings(path)
        limit = setting(path, settings, "max_seq_length", int)
        if limit is not None and limit < 1:
            raise damage(path, f"has max_seq_length {limit}", "give a positive whole number")
        setting(path, settings, "do_lower_case", bool)
        setting(path, settings, "modality_config", dict)
        _check_processing(path, setting(path, settings, "processing_kwargs", dict) or {})
        for name in _ARGUMENTS:
            unknown = sorted(set(setting(path, settings, name, dict) or {}) - set(_NO_EFFECT))
            if unknown:
                raise damage(
                    path, f"sets {unknown[0]!r} in {name}, which is not supported", "remove it"
                )
        return settings
    return {}


def _check_processing(path: Path, arguments: dict[str, Any]) -> None:
    """Refuse arguments of the tokenizer, or of the chat template, that are not followed here.

    Raises:
      InputError: there is one; names it.
    """
    for part, given in arguments.items():
        if part in _OTHER_MODALITIES:
            continue
        if not isinstance(given, dict):
            raise damage(path, f"has processing_kwargs {part} {shown(given)}, not an object")
        for name, value in given.items():
            if part == "chat_template":
                is_known = name not in _CHAT_RESERVED and isinstance(value, str | int | float)
                is_known = is_known or (name == "restore_suffix" and value is True)
            else:
                is_known = name in _NO_EFFECT_ON_TEXT
            if not is_known:
                raise damage(
                    path,
                    f"sets {name!r} in processing_kwargs {part}, which is not supported",
                    "remove it",
                )
    arguments.get("chat_template", {}).pop("restore_suffix", None)


def read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Read the prompts of a model, and the name of the default one.

    Raises:
      InputError: the file is damaged.
    """
    saved = read_settings(path, {})
    prompts = setting(path, saved, "prompts", dict) or {}
    default = setting(path, saved, "default_prompt_name", str)
    if not all(text is None or isinstance(text, str) for text in prompts.values()):
        raise damage(path, "has prompts that are not texts by name")
    if default is not None and default not in prompts:
        raise damage(path, f"has default_prompt_name {default!r}, but no such prompt")
    return {name: text for name, text in prompts.items() if text is not None}, default
