"""Pack texts into requests: as many as fit by items and by tokens, texts of one length together."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import find_model, read_model_folder
from beam_gpte.core.encoder.pretrained import position_limit
from beam_gpte.core.encoder.tokenizer import Tokenizer

# Of UTF-8: English has 4 to 5, code 3, Chinese 2 to 3, digits down to 1.
BYTES_PER_TOKEN = 2
SPECIAL_TOKENS = 2  # of a text

CountTokens = Callable[[Sequence[str]], np.ndarray]


def estimated_tokens(texts: Sequence[str]) -> np.ndarray:
    """Estimate the tokens of each text by its bytes, seldom too few: int64 (n,)."""
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return -(-np.array(sizes, np.int64) // BYTES_PER_TOKEN) + SPECIAL_TOKENS


def token_counter(tokenizer: str | None) -> CountTokens:
    """Return what counts the tokens of texts: a model's tokenizer, or the estimate.

    Args:
      tokenizer: hub name or folder of the model; None for the estimate.

    Raises:
      InputError: it does not exist, or has no fast tokenizer.
    """
    if tokenizer is None:
        return estimated_tokens
    config = EncoderConfig(tokenizer)
    folder = read_model_folder(Path(find_model(config, weights=False)), config)
    limit = position_limit(folder, config)
    loaded = Tokenizer.load(folder, limit, config.trust_remote_code)

    def count(texts: Sequence[str]) -> np.ndarray:
        tokens = loaded.encode(list(texts))
        return tokens.lengths + tokens.dropped

    return count


def pack(tokens: np.ndarray, max_items: int, max_tokens: int | None = None) -> list[np.ndarray]:
    """Divide texts among requests.

    Args:
      tokens: int64 (n,), of each text.
      max_items: texts of a request.
      max_tokens: of all texts of a request, where a text is not longer alone; None for no limit.

    Returns:
      The positions of the texts of each request, the longest texts first: every text once.
    """
    order = np.argsort(-tokens, kind="stable")
    if max_tokens is None:
        return [order[at : at + max_items] for at in range(0, len(order), max_items)]
    packed, start, size = [], 0, 0
    for at, i in enumerate(order.tolist()):
        if at > start and (at - start == max_items or size + int(tokens[i]) > max_tokens):
            packed.append(order[start:at])
            start, size = at, 0
        size += int(tokens[i])
    return [*packed, order[start:]] if len(order) else []
