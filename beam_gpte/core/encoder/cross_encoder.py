"""Score pairs of texts: `CrossEncoder.score(pairs) -> float32 (n,)`, in input order.

pairs --> tokens, both texts in one input --> batches by length --> backbone --> the model's head

A cross-encoder is a sequence classifier with one label. Its body runs as every `Backbone` does,
unpadded where possible. Its head is run by the model's own code, whose body is replaced by one that
passes the token vectors through; a head that scores differently this way than in the plain model is
refused.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import Backbone, choose_precision, import_torch, padded
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.heads import make_activation
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.linear_layers import pack_linears
from beam_gpte.core.encoder.pretrained import load_pretrained, position_limit
from beam_gpte.core.encoder.tokenizer import PairTokens, Tokenizer
from beam_gpte.core.encoder.unpadded import to_device
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.model_files import read_settings
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

if TYPE_CHECKING:
    import torch

# Largest difference of a logit, relative above 1: the head over token vectors against the plain
# model.
TOLERANCE = 1e-5

# The settings of a configuration that a cross-encoder supports.
SUPPORTED = (
    "model",
    "revision",
    "max_tokens",
    "precision",
    "token_budget",
    "device",
    "trust_remote_code",
    "adapter",
)

# Pairs of several lengths, to test whether the head runs on token vectors.
_SAMPLES = [
    ("one", "two"),
    ("a short question", "an answer to it"),
    ("a question", "an answer of many words " * 8),
]


def check_scorer_config(config: EncoderConfig) -> None:
    """Refuse settings of how token vectors become a text's vector: a cross-encoder makes none.

    Raises:
      InputError: such a setting is not the default.
    """
    plain = EncoderConfig(config.model)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in SUPPORTED and value != getattr(plain, field.name):
            raise InputError(
                f"{field.name} {value!r}: a cross-encoder supports only {', '.join(SUPPORTED)}; "
                "leave it out"
            )


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


class CrossEncoder:
    """Score pairs with a loaded pretrained cross-encoder; safe to share between threads.

    A pair's score does not depend on its neighbors beyond 1e-5 in fp32. Scores are those of
    sentence-transformers' `CrossEncoder.predict`: after a sigmoid, unless the model's files name
    another activation.
    """

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, runner: "PairRunner") -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._runner = runner

    @classmethod
    @one_at_a_time
    def load(
        cls, config: EncoderConfig | str, root: Path | None = None, adapter: Path | None = None
    ) -> "CrossEncoder":
        """Load a model from a hub name or a folder.

        Weights are safetensors only, and none of the model's code is run unless trusted.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: that of the adapter where `config.adapter` names a remote place.

        Raises:
          InputError: the model does not exist, is not a classifier with one label, or has a head
            that cannot be run.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_scorer_config(config)
        torch = import_torch()
        config = choose_precision(config)
        folder = open_model_folder(config, root, adapter)
        tokenizer = Tokenizer.load(folder, position_limit(folder, config), config.trust_remote_code)
        model = load_pretrained(folder, config, classifier=True).eval()
        if model.config.num_labels != 1:
            raise InputError(
                f"model {config.model!r} has {model.config.num_labels} labels, but a cross-encoder "
                "has one; use a model that was made for reranking"
            )
        settings = read_settings(folder.root / "config_sentence_transformers.json", {})
        activation = _activation(model.config, settings)
        samples = tokenizer.encode_pairs(_SAMPLES)
        body = getattr(model, model.base_model_prefix)
        pieces = _pieces(samples)
        with torch.inference_mode():
            plain = [_run_alone(model, piece).logits for piece in pieces]
            hidden = [_run_alone(body, piece).last_hidden_state[0] for piece in pieces]
        head = detach_head(model, tokenizer.pad_id)
        _check_head(head, pieces, hidden, torch.cat(plain), type(model).__name__)
        if config.precision == "int8":
            texts = calibration.TEXTS
            samples = tokenizer.encode_pairs(list(itertools.pairwise(texts)))
        backbone = Backbone.from_model(body, config, tokenizer.pad_id, samples.ids)
        if backbone.device.type == "cpu":
            pack_linears(head)  # the same bits whatever the batch
        return cls(config, tokenizer, PairRunner(backbone, head, activation, config))

    @property
    def unpadded(self) -> bool:
        """Return whether pairs run end to end, without padding; see `core.encoder.unpadded`."""
        return self._runner.backbone.unpadded

    def score(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """Return float32 (n,), in the order of the pairs.

        Raises:
          InputError: a pair cannot be scored; the message names its position.
        """
        scoring = self.score_with_counts(pairs)
        for position, reason in scoring.failed.items():
            raise InputError(f"pair {position}: {reason}")
        return scoring.scores

    def score_with_counts(self, pairs: list[tuple[str, str]]) -> Scoring:
        """Score pairs, each distinct input once, and count the work; see `Scoring`.

        Raises:
          InputError: `pairs` is not a list of pairs of strings.
        """
        check_pairs(pairs)
        empty = {i: EMPTY for i, pair in enumerate(pairs) if not all(map(is_visible, pair))}
        tokens = self._tokenizer.encode_pairs(pairs)
        pieces = _pieces(tokens)
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


def detach_head(model: Any, pad_id: int) -> "torch.nn.Module":
    """Take the head off a sequence classifier, which loses its body.

    Returns:
      A module: token vectors of n texts end to end, float (total tokens, dim), and their ids, to
      logits (n, labels).
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

    class PassThroughBody(torch.nn.Module):
        """Return the input as if it were this body's output."""

        def __init__(self, pooler: Any) -> None:
            super().__init__()
            self.pooler = pooler

        def forward(self, *_: Any, inputs_embeds: Any = None, **__: Any) -> Any:
            pooled = None if self.pooler is None else self.pooler(inputs_embeds)
            return BaseModelOutputWithPoolingAndCrossAttentions(
                last_hidden_state=inputs_embeds, pooler_output=pooled
            )

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, hidden: "torch.Tensor", ids: list[np.ndarray]) -> "torch.Tensor":
            lengths = torch.tensor([len(text) for text in ids])
            mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
            tokens = to_device(padded(ids, mask, pad_id), hidden.device)
            mask = to_device(mask, hidden.device)
            vectors = hidden.new_zeros(*mask.shape, hidden.shape[1])
            vectors[mask] = hidden
            output = self.model(input_ids=tokens, attention_mask=mask.long(), inputs_embeds=vectors)
            return output.logits.float()

    body = getattr(model, model.base_model_prefix)
    setattr(model, model.base_model_prefix, PassThroughBody(getattr(body, "pooler", None)))
    return Head().eval()


def _check_head(
    head: Any, pieces: list[Piece], hidden: list["torch.Tensor"], plain: "torch.Tensor", name: str
) -> None:
    import torch

    try:
        with torch.inference_mode():
            found = head(torch.cat(hidden), [piece.ids for piece in pieces])
        difference = float(((found - plain).abs() / plain.abs().clamp(min=1)).max())
    except Exception as error:  # of any kind: such a head is not run
        raise InputError(
            f"{name}: its head does not run on token vectors ({error!r}); use another cross-encoder"
        ) from error
    if not difference < TOLERANCE:
        raise InputError(
            f"{name}: its head scores token vectors differently, by {difference:.1e}; "
            "use another cross-encoder"
        )


def _run_alone(model: Any, piece: Piece) -> Any:
    """Return the plain model's output for one pair."""
    import torch

    inputs = {"input_ids": piece.ids}
    if piece.types is not None and "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = piece.types
    return model(**{name: torch.from_numpy(values).unsqueeze(0) for name, values in inputs.items()})


def check_pairs(pairs: list[tuple[str, str]]) -> None:
    """Refuse what is not a list of pairs of strings.

    Raises:
      InputError: it is not; the message names the position.
    """
    for position, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"pair {position} is {pair!r}, not two texts; call score([(a, b)])")
    check_texts([text for pair in pairs for text in pair], "score")


def _pieces(tokens: PairTokens) -> list[Piece]:
    unused = np.zeros((1, 2), np.int64)
    return [
        Piece(ids, unused, unused, np.array([len(ids)]), types)
        for ids, types in zip(tokens.ids, tokens.types, strict=True)
    ]


def _activation(config: Any, settings: dict[str, Any]) -> "torch.nn.Module":
    """Return the activation that sentence-transformers applies to the logits; default sigmoid.

    Files name it under one of several historical keys.
    """
    about = getattr(config, "sentence_transformers", None)
    named = (
        settings.get("activation_fn")
        or (about.get("activation_fn") if isinstance(about, dict) else None)
        or getattr(config, "sbert_ce_default_activation_function", None)
        or "torch.nn.Sigmoid"
    )
    return make_activation(named, "cross-encoder")
