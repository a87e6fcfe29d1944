"""Estimate the quality of translations without references: `QualityEstimator.score(pairs)`.

    source and translation --> one input, translation first --> encoder --> mix of all layers
                                                                              |
                               feed-forward head <-- first token's vector <---+

The layout is that of CometKiwi (Rei et al., WMT 2022, 2022.wmt-1.60): a multilingual encoder, one
weight per layer and a common factor, and a regressor over the first token. Its checkpoints are
pickles, which run code when they are opened and are never loaded here: a folder holds them as
safetensors, see `QUALITY`.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import Backbone, choose_precision, import_torch
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.heads import make_activation
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.pretrained import check_finite, load_pretrained, named_failure
from beam_gpte.core.encoder.tokenizer import PairTokens, Tokenizer
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.model_files import check_weight_files, damage, read_settings, setting
from beam_gpte.core.scorers.pair_scorer import PairRunner, PairScorer
from beam_gpte.core.scorers.settings import ScoreSettings, check_scorer_config

if TYPE_CHECKING:
    import torch

# Beside the files of the encoder: quality.json, the head's settings by their names in COMET's
# hparams.yaml, and quality/model.safetensors, its weights by their names in the checkpoint.
QUALITY = "quality"
_TRANSFORMATIONS = ("softmax", "sparsemax")
_WHOLE = {  # settings that have one value here, and what COMET takes where there is none
    "input_segments": (["mt", "src"], ["mt", "src", "ref"]),
    "sent_layer": ("mix", "mix"),
    "layer_norm": (False, True),
}
# Of a checkpoint: dropout, and the head over words, which is not run.
_NOT_RUN = ("layerwise_attention.dropout_", "hidden2tag.")


class QualityEstimator(PairScorer):
    """Estimate the quality of translations with a loaded model.

    A pair is a source and its translation. The score is the model's output as it is, about 0 for a
    bad and 1 for a good translation. A pair that is too long loses tokens of its longer text first.
    """

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, runner: PairRunner) -> None:
        super().__init__(config, runner)
        self._tokenizer = tokenizer

    def tokenize(self, pairs: list[tuple[str, str]]) -> PairTokens:
        """Make one input of each pair: the translation, then the source."""
        return self._tokenizer.encode_pairs([(target, source) for source, target in pairs])

    @classmethod
    @one_at_a_time
    def load(
        cls,
        config: EncoderConfig | str,
        root: Path | None = None,
        adapter: Path | None = None,
        settings: ScoreSettings | None = None,
    ) -> "QualityEstimator":
        """Load a model from a hub name or a folder.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: that of the adapter where `config.adapter` names a remote place.
          settings: has to be the default.

        Raises:
          InputError: the model does not exist, has no head of this kind, or is damaged.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_scorer_config(config)
        if settings not in (None, ScoreSettings()):
            raise InputError(f"scoring {settings!r}: a quality estimator has none; leave it out")
        if config.prompt is not None or config.prompt_name is not None:
            raise InputError("prompt: a quality estimator takes pairs as they are; leave it out")
        import_torch()
        config = choose_precision(config)
        folder = open_model_folder(config, root, adapter)
        tokenizer = Tokenizer.of(folder, config)
        model = load_pretrained(folder, config).eval()
        text = model.config.get_text_config()
        head = load_quality_head(folder.root, text.num_hidden_layers + 1, text.hidden_size)
        pairs = list(itertools.pairwise(calibration.TEXTS))
        samples = tokenizer.encode_pairs(pairs if config.precision == "int8" else pairs[:6])
        backbone = Backbone.from_model(model, config, tokenizer.pad_id, samples.ids)
        return cls(config, tokenizer, QualityRunner(backbone, head, config))


class QualityRunner(PairRunner):
    """Run pairs in batches; the head reads all layers of each first token."""

    def __init__(self, backbone: Backbone, head: "torch.nn.Module", config: EncoderConfig) -> None:
        import torch

        super().__init__(backbone, head, torch.nn.Identity(), config)

    def start(self, pieces: list[Piece]) -> tuple["torch.Tensor", int]:
        """Start one forward pass; see `PairRunner.start`."""
        import torch

        with torch.inference_mode():
            ids = [piece.ids for piece in pieces]
            types = [piece.types for piece in pieces if piece.types is not None]
            layers, computed = self.backbone.run_first(ids, types)
            return self._head(layers), computed


def load_quality_head(root: Path, layers: int, dim: int) -> "torch.nn.Module":
    """Load the mix of layers and the feed-forward head.

    Args:
      root: the model's folder.
      layers: outputs of the encoder, that of its embeddings included.
      dim: of its token vectors.

    Returns:
      A module: first tokens' vectors of all layers, float (layers, n, dim), to scores (n, 1).

    Raises:
      InputError: there is none, or it is damaged; the message names the file.
    """
    import safetensors.torch
    import torch

    path = root / f"{QUALITY}.json"
    if not path.exists():
        raise InputError(
            f"model folder {root}: no {path.name}, so it is not a quality estimator; name one in "
            "the layout of COMET without references, as safetensors"
        )
    given = read_settings(path)
    for name, (wanted, default) in _WHOLE.items():
        if given.get(name, default) != wanted:
            raise damage(path, f"has {name} {shown(given.get(name, default))}, not {wanted!r}")
    sizes = given.get("hidden_sizes")
    if not isinstance(sizes, list) or not sizes or not all(type(n) is int and n > 0 for n in sizes):
        raise damage(path, f"has hidden_sizes {shown(sizes)}, not a list of positive numbers")
    kind = setting(path, given, "layer_transformation", str) or "sparsemax"
    if kind not in _TRANSFORMATIONS:
        raise damage(
            path, f"has layer_transformation {kind!r}, not {' or '.join(_TRANSFORMATIONS)}"
        )
    weights = root / QUALITY / "model.safetensors"
    if not weights.exists():
        raise damage(weights, "is missing")
    check_weight_files(weights.parent)
    owner = f"model folder {root}"
    between = f"torch.nn.{setting(path, given, 'activations', str) or 'Tanh'}"
    last = setting(path, given, "final_activation", str)
    steps = itertools.chain.from_iterable(
        (torch.nn.Linear(a, b, device="meta"), make_activation(between, owner), torch.nn.Identity())
        for a, b in itertools.pairwise([dim, *sizes])
    )  # where dropout is in training, which counts in the names of the weights
    ends = [make_activation(f"torch.nn.{last}", owner)] if last else []
    ff = torch.nn.Sequential(*steps, torch.nn.Linear(sizes[-1], 1, device="meta"), *ends)

    class QualityHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff = ff
            self.gamma = torch.nn.Parameter(torch.empty(1, device="meta"))
            self.scalars = torch.nn.Parameter(torch.empty(layers, device="meta"))

        def forward(self, vectors: "torch.Tensor") -> "torch.Tensor":
            shares = self.scalars.softmax(0) if kind == "softmax" else sparsemax(self.scalars)
            return self.ff(self.gamma * torch.einsum("l,lnd->nd", shares, vectors.float())).float()

    head = QualityHead()
    with named_failure(weights, f"does not agree with {path.name}"):
        loaded = {k: v.to(torch.float32) for k, v in safetensors.torch.load_file(weights).items()}
        head.load_state_dict(_by_name(loaded, layers), assign=True)
    check_finite(weights, loaded.items())
    return head.eval()


def _by_name(loaded: dict[str, "torch.Tensor"], layers: int) -> dict[str, "torch.Tensor"]:
    """Name the tensors of a checkpoint as the head does."""
    import torch

    mix, ff = "layerwise_attention.", "estimator."
    loaded = {k: v for k, v in loaded.items() if not k.startswith(_NOT_RUN)}
    scalars = [loaded.pop(f"{mix}scalar_parameters.{i}") for i in range(layers)]
    named = {"gamma": loaded.pop(f"{mix}gamma"), "scalars": torch.cat(scalars)}
    return named | {name.removeprefix(ff): tensor for name, tensor in loaded.items()}


def sparsemax(scores: "torch.Tensor") -> "torch.Tensor":
    """Project scores (n,) onto the simplex: a softmax with zeros (arXiv 1602.02068)."""
    import torch

    ordered = scores.sort(descending=True).values
    counts = torch.arange(1, len(scores) + 1, device=scores.device)
    sums = ordered.cumsum(0)
    kept = int((1 + counts * ordered > sums).sum())
    return (scores - (sums[kept - 1] - 1) / kept).clamp(min=0)
