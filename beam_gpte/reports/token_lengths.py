"""Count the tokens of a sample's texts, with the tokenizer of the model that embedded them."""

import dataclasses

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.files.remote_model import is_remote_model

FATES = {  # of a text that is longer than the limit
    "truncate": "truncated",
    "windows": "embedded in windows",
    "chunks": "cut into chunks",
    "late_chunks": "cut into chunks",
}


@dataclasses.dataclass(frozen=True)
class TokenLengths:
    """Hold the tokens of some texts.

    Attributes:
      counts: int64 (n,), of the whole texts, prompt and special tokens included.
      limit: the maximum length of an input.
      fate: what happens to longer texts.
    """

    counts: np.ndarray
    limit: int
    fate: str

    @property
    def share_above(self) -> float:
        """Return the share of texts that are longer than the limit; 0 without texts."""
        return float((self.counts > self.limit).mean()) if len(self.counts) else 0.0


def token_lengths(
    texts: list[str], characters: np.ndarray, config: EncoderConfig | None
) -> TokenLengths | None:
    """Count the tokens of texts as the model sees them.

    Args:
      texts: the beginnings of n texts.
      characters: of the whole texts, int (n,); a text that is longer than its beginning has tokens
        in proportion.
      config: of the model; None if there is none.

    Returns:
      None where no tokenizer is at hand: without a model, or with one in a bucket.
    """
    if config is None or is_remote_model(config.model) or not texts:
        return None
    # imported late: transformers takes seconds, and most pages need no tokenizer
    from beam_gpte.core.static.load_encoder import count_whole

    whole = dataclasses.replace(config, long_text="truncate", chunk_tokens=None, overlap_tokens=0)
    try:
        counts, limit = count_whole(whole, texts)
    except (InputError, ImportError):  # the machine that starts a job may have no model
        return None
    shown = np.maximum([len(text) for text in texts], 1)
    scaled = np.ceil(counts * np.maximum(characters, shown) / shown).astype(np.int64)
    return TokenLengths(scaled, limit, FATES[config.long_text])
