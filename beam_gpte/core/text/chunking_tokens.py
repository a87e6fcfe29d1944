"""A model's tokenizer as a ruler for chunks; its weights are not needed."""

from pathlib import Path

from beam_gpte.core.encoder.backbone import position_limit
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import find_model, read_model_folder
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.text.chunking import TokenSizes


class TokenRuler:
    """Measures texts in the tokens of a model.

    Attributes:
      room: tokens of a text that the model takes, beside its special tokens and the prompt or template.
    """

    def __init__(self, config: EncoderConfig, root: Path | None = None) -> None:
        folder = read_model_folder(root or find_model(config, weights=False))
        self._tokenizer = Tokenizer.load(
            folder, position_limit(folder, config), config.trust_remote_code
        )
        around = (
            folder.prompt(config)
            if config.template is None
            else config.template.replace("{text}", "")
        )
        self.room = self._tokenizer.room - self._tokenizer.count(around)

    def sizes(self, texts: list[str]) -> list[TokenSizes]:
        """A measure for each text."""
        encoded = self._tokenizer.bare_with_offsets(texts)
        return [
            TokenSizes(text, at, self._tokenizer.count)
            for text, (_, at) in zip(texts, encoded, strict=True)
        ]
