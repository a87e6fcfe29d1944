"""Score pairs of texts: `CrossEncoder.score(pairs) -> float32 (n,)`, in input order.

pairs --> tokens, both texts in one input --> batches by length --> backbone --> the model's head

A cross-encoder is a sequence classifier. Its body runs as every `Backbone` does,
unpadded where possible. Its head is run by the model's own code, whose body is replaced by one that
passes the token vectors through; a head that scores differently this way than in the plain model is
refused.
"""

import inspect
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import Backbone, choose_precision, import_torch, padded
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.pretrained import load_pretrained
from beam_gpte.core.encoder.tokenizer import PairTokens, Tokenizer
from beam_gpte.core.encoder.unpadded import to_device
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.model_files import read_settings
from beam_gpte.core.scorers.pair_scorer import (
    PairRunner,
    PairScorer,
    activation_of,
    pieces_of,
)
from beam_gpte.core.scorers.settings import ScoreSettings, check_scorer_config

if TYPE_CHECKING:
    import torch

# Largest difference of a logit, relative above 1: the head over token vectors against the plain
# model.
TOLERANCE = 1e-5

# Pairs of several lengths, to test whether the head runs on token vectors.
_SAMPLES = [
    ("one", "two"),
    ("a short question", "an answer to it"),
    ("a question", "an answer of many words " * 8),
]


class CrossEncoder(PairScorer):
    """Score pairs with a loaded pretrained cross-encoder.

    Scores are those of sentence-transformers' `CrossEncoder.predict`: after a sigmoid, unless the
    model's files name another activation. Of several labels the score is the probability of one:
    a softmax, or a sigmoid where a pair may have several.
    """

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, runner: PairRunner) -> None:
        super().__init__(config, runner)
        self._tokenizer = tokenizer

    def tokenize(self, pairs: list[tuple[str, str]]) -> PairTokens:
        """Make one input of each pair, both texts between the tokenizer's special tokens."""
        return self._tokenizer.encode_pairs(pairs)

    @classmethod
    @one_at_a_time
    def load(
        cls,
        config: EncoderConfig | str,
        root: Path | None = None,
        adapter: Path | None = None,
        settings: ScoreSettings | None = None,
    ) -> "CrossEncoder":
        """Load a model from a hub name or a folder.

        Weights are safetensors only, and none of the model's code is run unless trusted.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: that of the adapter where `config.adapter` names a remote place.
          settings: name the label that is the score.

        Raises:
          InputError: the model does not exist, is not a classifier, has several labels of which
            none is named, or a head that cannot be run.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_scorer_config(config)
        settings = settings or ScoreSettings()
        _check_for_classifier(config, settings)
        torch = import_torch()
        config = choose_precision(config)
        folder = open_model_folder(config, root, adapter)
        if folder.has_chat_template:
            raise InputError(
                f"model {config.model!r} is a classifier that puts pairs into its chat template, "
                "which is not supported; use a causal language model, or another cross-encoder"
            )
        tokenizer = Tokenizer.of(folder, config)
        model = load_pretrained(folder, config, head="classifier").eval()
        named = read_settings(folder.root / "config_sentence_transformers.json", {})
        activation = _score_of(model.config, named, settings.label, config.model)
        samples = tokenizer.encode_pairs(_SAMPLES)
        body = getattr(model, model.base_model_prefix)
        pieces = pieces_of(samples)
        with torch.inference_mode():
            plain = [run_alone(model, piece).logits for piece in pieces]
            hidden = [run_alone(body, piece).last_hidden_state[0] for piece in pieces]
        head = detach_head(model, tokenizer.pad_id)
        check_head(head, pieces, hidden, torch.cat(plain), type(model).__name__)
        if config.precision == "int8":
            texts = calibration.TEXTS
            samples = tokenizer.encode_pairs(list(itertools.pairwise(texts)))
        backbone = Backbone.from_model(body, config, tokenizer.pad_id, samples.ids)
        return cls(config, tokenizer, PairRunner(backbone, head, activation, config))


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


def check_head(
    head: Any, pieces: list[Piece], hidden: list["torch.Tensor"], plain: "torch.Tensor", name: str
) -> None:
    """Refuse a head that gives other logits over token vectors than in the plain model.

    Args:
      head: token vectors and ids to logits.
      pieces: some inputs.
      hidden: the token vectors of each.
      plain: the logits of the plain model, (n, labels).
      name: of the model's class.
    """
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


def run_alone(model: Any, piece: Piece) -> Any:
    """Return the plain model's output for one pair."""
    import torch

    inputs = {"input_ids": piece.ids}
    if piece.types is not None and "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = piece.types
    return model(**{name: torch.from_numpy(values).unsqueeze(0) for name, values in inputs.items()})


def _check_for_classifier(config: EncoderConfig, settings: ScoreSettings) -> None:
    """Refuse what is for causal language models."""
    given = {name: getattr(settings, name) for name in ("template", "true_token", "false_token")}
    given |= {name: getattr(config, name) for name in ("prompt", "prompt_name")}
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"{name} {value!r}: model {config.model!r} is a classifier, which takes pairs as "
                "they are; leave it out"
            )


def _score_of(
    config: Any, named: dict[str, Any], label: str | None, model: str
) -> "torch.nn.Module":
    """Return what turns logits (n, labels) into the score, (n, 1).

    Raises:
      InputError: there are several labels and none is chosen, or one that the model lacks.
    """
    import torch

    labels = {str(one): int(i) for i, one in (config.id2label or {}).items()}
    if label is not None and label not in labels:
        raise InputError(f"label {label!r}: model {model!r} has {', '.join(labels)}; name one")
    if config.num_labels == 1:
        return activation_of(config, named, "torch.nn.Sigmoid")
    if label is None:
        raise InputError(
            f"model {model!r} has {config.num_labels} labels, {', '.join(labels)}; name that whose "
            "probability is the score: ScoreSettings(label=...)"
        )
    position = labels[label]
    several = config.problem_type == "multi_label_classification"

    class Probability(torch.nn.Module):
        """Pick the probability of one label."""

        def forward(self, logits: "torch.Tensor") -> "torch.Tensor":
            values = logits.sigmoid() if several else logits.softmax(1)
            return values[:, position : position + 1]

    return Probability()
