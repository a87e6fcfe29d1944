"""Load a model of pairs, whatever its kind."""

from pathlib import Path

from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.layouts.model_kinds import makes_token_vectors
from beam_gpte.core.encoder.model_folder import ModelFolder, find_model
from beam_gpte.core.model_files import read_settings
from beam_gpte.core.scorers.causal_reranker import CausalReranker
from beam_gpte.core.scorers.cross_encoder import CrossEncoder
from beam_gpte.core.scorers.late_interaction import LateInteraction
from beam_gpte.core.scorers.pair_scorer import PairScorer
from beam_gpte.core.scorers.quality_estimator import QUALITY, QualityEstimator
from beam_gpte.core.scorers.settings import ScoreSettings


def load_scorer(
    config: EncoderConfig,
    root: Path | None = None,
    adapter: Path | None = None,
    settings: ScoreSettings | None = None,
) -> PairScorer | LateInteraction:
    """Load a cross-encoder, a causal language model that answers, or a quality estimator.

    Or a model of token vectors, from a hub name or a folder; see the kinds.
    """
    root = root or find_model(config)
    if makes_token_vectors(root):
        return LateInteraction.load(config, root, adapter, settings)
    folder = open_model_folder(config, root, adapter)
    kind: type[CausalReranker | CrossEncoder | QualityEstimator] = CrossEncoder
    if (folder.root / f"{QUALITY}.json").exists():
        kind = QualityEstimator
    elif is_causal(folder):
        kind = CausalReranker
    return kind.load(config, root, adapter, settings)


def is_causal(folder: ModelFolder) -> bool:
    """Check whether a model is one of language, with a head over its vocabulary."""
    if any(module.kind == "LogitScore" for module in folder.modules):
        return True
    named = read_settings(folder.transformer / "config.json").get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return str(first).endswith("ForCausalLM")
