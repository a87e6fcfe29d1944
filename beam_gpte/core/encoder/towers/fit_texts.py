"""Make of a text's tokens what the text tower of a model takes, and find what it pools."""

import dataclasses

import numpy as np

from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.encoder.towers.tower_folder import Towers
from beam_gpte.core.model_files import damage

# The end that transformers takes for a mistake of early configurations: the largest token is it.
_MISTAKEN_END = 2


@dataclasses.dataclass(frozen=True)
class FitTexts:
    """Fit pieces to a text tower, whose vector is that of the last token of each span.

    CLIP pools the end of the text, the first one where a text has several. SigLIP pools the last
    position of all that the model has, padding included: its tokens attend to padding, as they did
    in training.

    Attributes:
      kind: of `tower_folder.KINDS`.
      end_id: the token that ends a text.
      pad_id: the token that fills what is left.
      length: positions of the model.
      pads_left: whether padding comes first.
    """

    kind: str
    end_id: int
    pad_id: int
    length: int
    pads_left: bool

    @classmethod
    def of(cls, towers: Towers, tokenizer: Tokenizer, settings: object) -> "FitTexts":
        """Read how a model takes texts.

        Args:
          towers: of the model.
          tokenizer: of the model.
          settings: transformers' configuration of its text tower.

        Raises:
          InputError: the tokenizer hides padding, which a SigLIP model is to see.
        """
        if towers.kind == "siglip" and tokenizer.masks_padding:
            raise damage(
                towers.folder / "tokenizer_config.json",
                "asks for an attention mask, but tokens of a siglip model attend to padding",
                'set model_input_names to ["input_ids"]',
            )
        end_id, length = (
            getattr(settings, name) for name in ("eos_token_id", "max_position_embeddings")
        )
        return cls(towers.kind, end_id, tokenizer.pad_id, length, tokenizer.pads_left)

    def __call__(self, piece: Piece) -> Piece:
        """Return the piece with the tokens that are run, and the span whose end is pooled."""
        ids = piece.ids
        if self.kind == "siglip":
            padding = np.full(self.length - len(ids), self.pad_id, np.int64)
            ids = np.concatenate([padding, ids] if self.pads_left else [ids, padding])
            return dataclasses.replace(piece, ids=ids, spans=np.array([[0, len(ids)]]))
        ends = ids if self.end_id == _MISTAKEN_END else ids == self.end_id
        return dataclasses.replace(piece, spans=np.array([[0, int(np.argmax(ends)) + 1]]))
