"""Models in the layout of CometKiwi, compared with a plain implementation of what COMET defines.

No package has the weights of a real one.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, InputError, ScoreSettings
from beam_gpte.core.scorers.load_scorer import load_scorer
from beam_gpte.core.scorers.quality_estimator import QUALITY, QualityEstimator, sparsemax
from tests.core.damage import change
from tests.core.scorers import tiny_estimators
from tests.embedding.test_rerank import pairs


def plain_sparsemax(scores: torch.Tensor) -> torch.Tensor:
    """Find the threshold below which all is zero by bisection."""
    low, high = float(scores.max()) - 1, float(scores.max())
    for _ in range(60):
        middle = (low + high) / 2
        if float((scores - middle).clamp(min=0).sum()) > 1:
            low = middle
        else:
            high = middle
    return (scores - low).clamp(min=0)


def plain_scores(folder: Path, texts: list[tuple[str, str]]) -> list[float]:
    """Run the encoder, the mix of its layers and the head on one pair at a time."""
    about = json.loads((folder / f"{QUALITY}.json").read_text(encoding="utf-8"))
    weights = load_file(folder / QUALITY / "model.safetensors")
    model = transformers.XLMRobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scalars = torch.cat([weights[f"layerwise_attention.scalar_parameters.{i}"] for i in range(3)])
    is_sparse = about["layer_transformation"] == "sparsemax"
    shares = plain_sparsemax(scalars) if is_sparse else scalars.softmax(0)
    scores = []
    for source, target in texts:
        tokens = tokenizer(target, source, return_tensors="pt", truncation=True, max_length=40)
        with torch.inference_mode():
            layers = model(**tokens, output_hidden_states=True).hidden_states
            mixed = sum(share * layer for share, layer in zip(shares, layers, strict=True))
            vector = (weights["layerwise_attention.gamma"] * mixed)[0, 0]
            for i in (0, 3, 6):
                vector = weights[f"estimator.ff.{i}.weight"] @ vector
                vector = vector + weights[f"estimator.ff.{i}.bias"]
                vector = vector.tanh() if i < 6 else vector
        last = about["final_activation"]
        scores.append(float(vector.sigmoid() if last == "Sigmoid" else vector))
    return scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_estimators.save(tmp_path_factory.mktemp("kiwi") / "model"))


@pytest.mark.parametrize(
    "changed",
    [{}, {"layer_transformation": "softmax"}, {"final_activation": "Sigmoid"}],
    ids=["sparsemax", "softmax", "final activation"],
)
def test_scores_are_those_of_the_definition(
    folder: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    change(model / f"{QUALITY}.json", **changed)
    ours = load_scorer(EncoderConfig(str(model), device="cpu"))
    assert isinstance(ours, QualityEstimator)
    assert ours.unpadded
    expected = np.array(plain_scores(model, pairs()))
    assert expected.std() > 0.02
    assert np.abs(ours.score(pairs()) - expected).max() < 1e-5
    alone = np.concatenate([ours.score([pair]) for pair in pairs()])
    assert np.abs(ours.score(pairs()[::-1])[::-1] - alone).max() < 1e-6


def test_it_matters_which_text_is_the_translation(folder: Path) -> None:
    ours = QualityEstimator.load(str(folder))
    there, back = ours.score([("w1 w2 w3", "w4")]), ours.score([("w4", "w1 w2 w3")])
    assert abs(there - back) > 1e-3
    scoring = ours.score_with_counts([("w1 " * 30, "w2 " * 30)])
    assert scoring.tokens.tolist() == [40]
    assert scoring.dropped.tolist() == [24]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_sparsemax_is_the_projection_onto_the_simplex(scores: list[float]) -> None:
    given_ = torch.tensor(scores, dtype=torch.float64)
    found = sparsemax(given_)
    assert float(found.sum()) == pytest.approx(1)
    assert torch.allclose(found, plain_sparsemax(given_), atol=1e-9)


def edited(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / QUALITY / "model.safetensors")
        edit(weights)
        save_file(weights, folder / QUALITY / "model.safetensors")

    return rewrite


def with_setting(**changed: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / f"{QUALITY}.json", **changed)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (
        lambda folder: (folder / "quality.json").unlink(),
        "no quality.json, so it is not a quality estimator",
    ),
    "settings that are cut": (
        lambda folder: (folder / "quality.json").write_text("{"),
        "quality.json is not whole JSON",
    ),
    "no weights": (
        lambda folder: shutil.rmtree(folder / QUALITY),
        "quality: model.safetensors is missing",
    ),
    "weights that are cut": (
        lambda folder: (folder / QUALITY / "model.safetensors").write_bytes(b"\x00\x01"),
        "quality: model.safetensors",
    ),
    "a layer less": (
        edited(lambda weights: weights.pop("layerwise_attention.scalar_parameters.2")),
        "model.safetensors does not agree with quality.json .*scalar_parameters.2",
    ),
    "a layer more": (
        edited(
            lambda weights: weights.update(
                {"layerwise_attention.scalar_parameters.3": torch.ones(1)}
            )
        ),
        "model.safetensors does not agree with quality.json",
    ),
    "no factor": (
        edited(lambda weights: weights.pop("layerwise_attention.gamma")),
        "model.safetensors does not agree with quality.json",
    ),
    "a head of another size": (
        with_setting(hidden_sizes=[24, 13]),
        "model.safetensors does not agree with quality.json",
    ),
    "a head without a layer": (
        edited(lambda weights: weights.pop("estimator.ff.3.weight")),
        "model.safetensors does not agree with quality.json",
    ),
    "sizes in words": (with_setting(hidden_sizes="24"), "has hidden_sizes '24', not a list"),
    "references": (
        with_setting(input_segments=["mt", "src", "ref"]),
        "quality.json has input_segments",
    ),
    "one layer alone": (with_setting(sent_layer=24), "has sent_layer 24, not 'mix'"),
    "a layer norm": (with_setting(layer_norm=True), "has layer_norm True, not False"),
    "another mix": (with_setting(layer_transformation="entmax"), "layer_transformation 'entmax'"),
    "code as an activation": (
        with_setting(activations="Module.forward"),
        "activation 'torch.nn.Module.forward' is not one of",
    ),
    "an encoder without weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "no safetensors weights",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_estimator_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    damage, message = DAMAGE[name]
    damage(model)
    with pytest.raises(InputError, match=message) as error:
        QualityEstimator.load(str(model))
    assert "\n" not in str(error.value)


def test_settings_for_other_kinds_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="a quality estimator has none; leave it out"):
        load_scorer(EncoderConfig(str(folder)), settings=ScoreSettings(label="good"))
    with pytest.raises(InputError, match="a quality estimator takes pairs as they are"):
        load_scorer(EncoderConfig(str(folder), prompt="rate"))
