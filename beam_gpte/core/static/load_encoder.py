"""Load a pretrained model of any kind by what is in its folder: `load_encoder(config)`.

folder --> a static model? --> StaticEncoder
                  |
                  +----------> TextEncoder
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_gpte.core.encoder.adapters.find import check_model, open_model_folder
from beam_gpte.core.encoder.chat_template import ChatFrame, chat_frame
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.inputs import Preparer
from beam_gpte.core.encoder.layouts.model_kinds import is_static
from beam_gpte.core.encoder.model_folder import find_model
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.static.static_encoder import StaticEncoder
from beam_gpte.core.static.static_folder import (
    check_static,
    check_static_config,
    read_static_folder,
)
from beam_gpte.core.static.static_tokenizer import StaticTokenizer

Pretrained = TextEncoder | StaticEncoder


def load_encoder(
    config: EncoderConfig, root: Path | None = None, adapter: Path | None = None
) -> Pretrained:
    """Load a model from a hub name or a folder.

    Args:
      config: of the model.
      root: the local folder that holds the model where `config.model` names a remote place.
      adapter: the same of `config.adapter`.

    Raises:
      InputError: it does not exist, or cannot be loaded.
    """
    root = root or find_model(config)
    if is_static(root, config):
        return StaticEncoder.load(config, root)
    return TextEncoder.load(config, root, adapter)


def check_encoder(config: EncoderConfig) -> None:
    """Refuse, before a job starts and without torch, a model that its workers could not load.

    Raises:
      InputError: there is no such model, or it does not suit the configuration.
    """
    is_one = is_static(find_model(config, weights=False), config)
    check_static(config) if is_one else check_model(config)


class LoadedTokenizer(NamedTuple):
    """Hold a tokenizer, and what a model puts around each text.

    Attributes:
      tokenizer: of the model.
      prompt: that is put before each text; empty where there is a template.
      frame: the model's chat template; None where it has none to use.
    """

    tokenizer: Tokenizer | StaticTokenizer
    prompt: str
    frame: ChatFrame | None


def load_tokenizer(
    config: EncoderConfig, root: Path | None = None, adapter: Path | None = None
) -> LoadedTokenizer:
    """Load the tokenizer of a model without its weights.

    Raises:
      InputError: the model does not exist, or has no tokenizer or no such prompt.
    """
    root = root or find_model(config, weights=False)
    if is_static(root, config):
        check_static_config(config)
        static = read_static_folder(root, config)
        return LoadedTokenizer(StaticTokenizer.load(static, config), static.prompt(config), None)
    folder = open_model_folder(config, root, adapter, weights=False)
    tokenizer = Tokenizer.of(folder, config)
    prompt = "" if config.template else folder.prompt(config)
    return LoadedTokenizer(tokenizer, prompt, chat_frame(folder, config))


def count_whole(config: EncoderConfig, texts: list[str]) -> tuple[np.ndarray, int]:
    """Count the tokens of whole texts as a model sees them, without its weights.

    Returns:
      int64 (n,), prompt, special and dropped tokens included; and the model's limit.

    Raises:
      InputError: the model does not exist, or has no tokenizer.
    """
    tokenizer, prompt, frame = load_tokenizer(config)
    if isinstance(tokenizer, StaticTokenizer):
        found = tokenizer.encode([prompt + text for text in texts])
        return found.counts + found.dropped, tokenizer.max_content_tokens
    prepared = Preparer(tokenizer, config, prompt, True, frame).prepare(texts)
    counts = [sum(len(piece.ids) for piece in one.pieces) + one.dropped for one in prepared]
    return np.array(counts, np.int64), tokenizer.max_tokens
