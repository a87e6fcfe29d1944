"""Score pairs of texts: `PairScorer.score(pairs) -> float32 (n,)`, in input order.

pairs --> tokens, both texts in one input --> batches by length --> backbone --> the model's head

What the kinds of models share. Each makes the inputs of a pair and runs its own head.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.heads import make_activation
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.tokenizer import PairTokens
from beam_gpte.core.errors import InputError
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Hold the scores of some pairs, and count the work.

    Attributes:
      scores: float32 (n,); NaN for a pair that failed.
      tokens: int64 (n,), tokens of each pair that were run, special tokens included.
      dropped: int64 (n,), tokens cut off each pair.
      needed: tokens of the distinct pairs, each of which was run once.
      computed: tokens that the backbone ran over, padding included.
      retries: how often a batch was halved because it did not fit the memory.
      failed: why a pair has no score, by position.
      counts: what else the work has cost, by the name of a counter.
    """

    scores: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray
    needed: int
    computed: int
    retries: int
    failed: dict[int, str]
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def checked(self) -> np.ndarray:
        """Return the scores.

        Raises:
          InputError: a pair failed; the message names its position.
        """
        for position, reason in self.failed.items():
            raise InputError(f"pair {position}: {reason}")
        return self.scores


class PairScorer:
    """Score pairs with a loaded model; safe to share between threads.

    A pair's score does not depend on its neighbors beyond 1e-5 in fp32.
    """

    def __init__(self, config: EncoderConfig, runner: "PairRunner") -> None:
        self.config = config
        self._runner = runner

    def tokenize(self, pairs: list[tuple[str, str]]) -> PairTokens:
        """Make the inputs of pairs, cut to what the model takes."""
        raise NotImplementedError

    @property
    def unpadded(self) -> bool:
        """Return whether pairs run end to end, without padding; see `core.encoder.unpadded`."""
        return self._runner.backbone.unpadded

    def score(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """Return float32 (n,), in the order of the pairs.

        Raises:
          InputError: a pair cannot be scored; the message names its position.
        """
        return self.score_with_counts(pairs).checked()

    def score_with_counts(self, pairs: list[tuple[str, str]]) -> Scoring:
        """Score pairs, each distinct input once, and count the work; see `Scoring`.

        Raises:
          InputError: `pairs` is not a list of pairs of strings.
        """
        check_pairs(pairs)
        empty = {i: EMPTY for i, pair in enumerate(pairs) if not all(map(is_visible, pair))}
        tokens = self.tokenize(pairs)
        pieces = pieces_of(tokens)
        inputs = {piece.key: piece for piece in pieces}
        run = self._runner.run(list(inputs.values()))
        score_of = dict(zip(inputs, run.vectors, strict=True))
        found = [score_of[piece.key] for piece in pieces]
        scores = [np.nan if score is None else score[0, 0] for score in found]
        failed = {i: run.too_large for i, score in enumerate(found) if score is None} | empty
        for i in np.flatnonzero(~np.isfinite(scores)).tolist():
            failed.setdefault(i, "the model gave a score that is not finite")
        return Scoring(
            scores=np.array(scores, np.float32),
            tokens=tokens.lengths,
            dropped=tokens.dropped,
            needed=sum(len(piece.ids) for piece in inputs.values()),
            computed=run.computed,
            retries=run.retries,
            failed=failed,
        )


class PairRunner(BatchRunner):
    """Run pairs in batches of the token budget, halved where memory runs out; one score each."""

    def __init__(
        self,
        backbone: Backbone,
        head: "torch.nn.Module",
        activation: "torch.nn.Module",
        config: EncoderConfig,
    ) -> None:
        super().__init__(backbone, head, (), config)
        self._activation = activation

    def start(self, pieces: list[Piece]) -> tuple["torch.Tensor", int]:
        """Start one forward pass.

        Returns:
          float32 (pieces, 1), on the backbone's device, and the number of tokens computed.
        """
        import torch

        with torch.inference_mode():
            ids = [piece.ids for piece in pieces]
            types = [piece.types for piece in pieces if piece.types is not None]
            hidden, _, computed = self.backbone.run(ids, types=types)
            return self._activation(self._head(hidden, ids)), computed


def check_pairs(pairs: list[tuple[str, str]]) -> None:
    """Refuse what is not a list of pairs of strings.

    Raises:
      InputError: it is not; the message names the position.
    """
    for position, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"pair {position} is {pair!r}, not two texts; call score([(a, b)])")
    check_texts([text for pair in pairs for text in pair], "score")


def pieces_of(tokens: PairTokens) -> list[Piece]:
    """Make the inputs of the backbone, one per pair."""
    unused = np.zeros((1, 2), np.int64)
    return [
        Piece(ids, unused, unused, np.array([len(ids)]), types)
        for ids, types in zip(tokens.ids, tokens.types, strict=True)
    ]


def activation_of(config: Any, settings: dict[str, Any], default: str) -> "torch.nn.Module":
    """Return the activation that sentence-transformers applies to the logits.

    Files name it under one of several historical keys.

    Args:
      config: of the transformers model.
      settings: of config_sentence_transformers.json.
      default: the class path of that where none is named.
    """
    about = getattr(config, "sentence_transformers", None)
    named = (
        settings.get("activation_fn")
        or (about.get("activation_fn") if isinstance(about, dict) else None)
        or getattr(config, "sbert_ce_default_activation_function", None)
        or default
    )
    return make_activation(named, "cross-encoder")
