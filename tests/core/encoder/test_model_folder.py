"""Check that models run as their folders say: modules, prompts, limits; others are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.model_folder import public_name

LONG = "word " * 600


def variant(minilm: str, folder: Path, **files: dict) -> str:
    """Make a clone of the model with some JSON files replaced; the weights are linked."""
    shutil.copytree(minilm, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".json")
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(content))
    return str(folder)


def test_prompts_by_name_by_text_and_by_default(
    minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    prompts = {
        "prompts": {"query": "query: ", "passage": "passage: "},
        "default_prompt_name": "passage",
    }
    folder = variant(minilm, tmp_path / "model", config_sentence_transformers=prompts)
    plain = {text: encoder.encode([text]) for text in ("x", "query: x", "passage: x")}
    for config, text in [
        (EncoderConfig(folder), "passage: x"),
        (EncoderConfig(folder, prompt_name="query"), "query: x"),
        (EncoderConfig(folder, prompt="query: "), "query: x"),
        (EncoderConfig(folder, prompt=""), "x"),
    ]:
        assert np.abs(TextEncoder.load(config).encode(["x"]) - plain[text]).max() < 1e-6
    with pytest.raises(InputError, match="prompt_name 'doc': model .* has passage, query"):
        TextEncoder.load(EncoderConfig(folder, prompt_name="doc"))


def test_concatenated_pooling_and_excluded_prompts_follow_the_model(
    minilm: str, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    pooling = {
        "word_embedding_dimension": 384,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_weightedmean_tokens": True,
        "include_prompt": False,
    }
    prompts = {"prompts": {"search": "Represent this for searching: "}}
    folder = variant(
        minilm,
        tmp_path / "model",
        **{"1_Pooling__config": pooling, "config_sentence_transformers": prompts},
    )
    texts = ["a first text", "another, longer text for good measure"]
    ours = TextEncoder.load(EncoderConfig(folder, prompt_name="search"))
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    assert ours.dim == 3 * 384
    assert ours.metadata.pooling == "cls+mean+weighted_mean"
    assert np.abs(ours.encode(texts) - theirs.encode(texts, prompt_name="search")).max() < 1e-5


def test_a_dense_module_is_run(minilm: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers import models

    torch.manual_seed(0)
    body = models.Transformer(minilm, max_seq_length=32)
    after = [models.Dense(384, 16), models.LayerNorm(16), models.Normalize()]
    parts = [body, models.Pooling(384), *after]
    model = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    model.save(str(tmp_path / "dense"))
    ours = TextEncoder.load(str(tmp_path / "dense"))
    assert ours.dim == 16
    assert np.abs(ours.encode(["a text", LONG]) - model.encode(["a text", LONG])).max() < 1e-6


def test_unknown_modules_are_refused_by_name(minilm: str, tmp_path: Path) -> None:
    package = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
        {"idx": 1, "name": "1", "path": "1", "type": f"{package}.WeightedLayerPooling"},
    ]
    with pytest.raises(
        InputError, match=r"module 'sentence_transformers\.models\.WeightedLayerPooling'"
    ):
        TextEncoder.load(variant(minilm, tmp_path / "model", modules=modules))


def test_a_model_that_needs_a_chat_template_is_not_run_without_one(
    minilm: str, tmp_path: Path
) -> None:
    how = {"method": "forward", "method_output_name": "last_hidden_state"}
    settings = {
        "max_seq_length": 256,
        "modality_config": {"text": how, "message": {**how, "format": "flat"}},
    }
    folder = variant(minilm, tmp_path / "model", sentence_bert_config=settings)
    with pytest.raises(InputError, match="no chat template in its files; give a template"):
        TextEncoder.load(folder)
    config = EncoderConfig(folder, template="user: {text}", pooling="mean")
    assert TextEncoder.load(config).encode(["a"]).shape == (1, 384)


def test_a_plain_transformers_folder_is_pooled_by_mean(
    minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    names = ("config.json", "model.safetensors")
    for name in (*names, "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).symlink_to(Path(minilm) / name)
    plain = TextEncoder.load(str(folder))
    assert np.abs(plain.encode(["some text"]) - encoder.encode(["some text"])).max() < 1e-6
    assert plain.encode_with_counts([LONG]).tokens.tolist() == [512]


def test_models_that_are_not_there_are_named(tmp_path: Path, minilm: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        TextEncoder.load(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"neither modules\.json nor config\.json"):
        TextEncoder.load(str(tmp_path))
    with pytest.raises(InputError, match="truncate_dim 999: model .* has 384 dimensions"):
        TextEncoder.load(EncoderConfig(minilm, truncate_dim=999))
    with pytest.raises(InputError, match="max_tokens 600: model .* has 512 positions"):
        TextEncoder.load(EncoderConfig(minilm, max_tokens=600))


def test_weights_that_can_run_code_are_refused(minilm: str, tmp_path: Path) -> None:
    folder = Path(variant(minilm, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no safetensors weights"):
        TextEncoder.load(str(folder))


def test_an_incomplete_checkpoint_is_refused(minilm: str, tmp_path: Path) -> None:
    import safetensors.torch

    folder = Path(variant(minilm, tmp_path / "model"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["encoder.layer.3.output.dense.weight"]
    (folder / "model.safetensors").unlink()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"1 weights are missing, 'encoder\.layer\.3\.output\.dense\.weight' first"
    ):
        TextEncoder.load(str(folder))


def test_the_fingerprint_changes_with_what_changes_vectors_and_with_nothing_else(
    minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    def fingerprint(**settings: Any) -> str:
        return TextEncoder.load(EncoderConfig(minilm, **settings)).fingerprint

    resolved = fingerprint(pooling="mean", prompt="")
    same = [encoder.fingerprint, fingerprint(token_budget=100), resolved]
    same.append(TextEncoder.load(variant(minilm, tmp_path / "elsewhere")).fingerprint)
    assert len(set(same)) == 1
    changes = ({"pooling": "cls"}, {"prompt": "q: "}, {"truncate_dim": 64}, {"max_tokens": 9})
    other = [fingerprint(**settings) for settings in changes]
    assert len({*same, *other}) == 5


def test_a_model_is_named_without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--some-model" / "snapshots" / ("0" * 40)
    for folder in (tmp_path / "minilm", snapshot):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "minilm")
    names = {
        str(tmp_path / "minilm"): "minilm",
        f"{tmp_path}/minilm/": "minilm",
        f"file://{tmp_path}/minilm": "minilm",
        "../minilm": "minilm",
        ".": "minilm",
        "/no/such/folder": "folder",
        str(snapshot): "org/some-model",
        "sentence-transformers/all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
        "gs://bucket/models/minilm": "gs://bucket/models/minilm",
    }
    assert {name: public_name(name) for name in names} == names
