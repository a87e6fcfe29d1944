"""Measure chunks in the tokens of a model; loads its tokenizer only, not its weights."""

from pathlib import Path

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.static.load_encoder import load_tokenizer
from beam_gpte.core.text.chunking import TokenSizes


class TokenRuler:
    """Measure texts in the tokens of a model.

    Attributes:
      room: maximum tokens of a text, without special tokens and those of the prompt or template.
    """

    def __init__(
        self, config: EncoderConfig, root: Path | None = None, adapter: Path | None = None
    ) -> None:
        self._tokenizer, frame, chat = load_tokenizer(config, root, adapter)
        if chat is not None:
            assert isinstance(self._tokenizer, Tokenizer)
            self.room = self._tokenizer.max_tokens - self._tokenizer.count(chat.fill([""]))
            return
        if config.template is not None:
            frame = config.template.replace("{text}", "")
        self.room = self._tokenizer.max_content_tokens - self._tokenizer.count(frame)

    def sizes(self, texts: list[str]) -> list[TokenSizes]:
        """Measure each text."""
        encoded = self._tokenizer.content_ids_with_offsets(texts)
        return [
            TokenSizes(text, at, self._tokenizer.count)
            for text, (_, at) in zip(texts, encoded, strict=True)
        ]
