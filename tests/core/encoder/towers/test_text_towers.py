"""Texts of a CLIP or a SigLIP get the vectors of transformers' `get_text_features`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from beam_gpte import EncoderConfig, ImageEncoder, InputError, TextEncoder
from beam_gpte.core.encoder.adapters.find import check_model
from tests.core.damage import change
from tests.core.images.tiny_towers import TEXTS, make_clip, make_siglip

KINDS = {"clip": make_clip, "siglip": make_siglip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    made = {kind: make(root / kind) for kind, make in KINDS.items()}
    return {**made, "clip, end 2": make_clip(root / "end2", end_id=2)}


def text_features(folder: Path, texts: list[str]) -> np.ndarray:
    """The vectors of transformers, with the padding that each model was trained with."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if model.config.model_type == "siglip" else True
    given = tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return model.get_text_features(**given).pooler_output.numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["clip", "siglip", "clip, end 2"])
def test_vectors_are_those_of_transformers(folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    wanted = text_features(folder, TEXTS)
    plain = TextEncoder.load(EncoderConfig(str(folder), normalize=False)).encode(TEXTS)
    np.testing.assert_allclose(plain, wanted, atol=1e-5, rtol=1e-5)
    found = TextEncoder.load(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(found, unit(wanted), atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-3) > 2  # texts differ


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_its_neighbors(folders: dict[str, Path], kind: str) -> None:
    encoder = TextEncoder.load(str(folders[kind]))
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-6)


def test_an_end_within_a_text_is_what_is_pooled(folders: dict[str, Path]) -> None:
    texts = ["a cat<|endoftext|> and a dog", "a cat"]
    wanted = unit(text_features(folders["clip"], texts))
    found = TextEncoder.load(str(folders["clip"])).encode(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)  # CLIP sees no further


def test_only_the_text_tower_is_in_the_memory(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        backbone = TextEncoder.load(str(folders[kind]))._runner.backbone
        names = [name for name, _ in backbone._model.named_parameters()]
        assert names
        assert not [name for name in names if "vision" in name or "patch" in name]


def test_tokens_are_counted_without_padding(folders: dict[str, Path]) -> None:
    counts = TextEncoder.load(str(folders["siglip"])).count_tokens(["a cat", "x" * 200])
    assert counts.tokens.tolist() == [4, 64]  # of "▁a", "▁", "cat" and the end; of what fits
    assert counts.run.tolist() == [64, 64]
    assert counts.dropped[0] == 0 < counts.dropped[1]


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"pooling": "mean"}, "pooling 'mean'"),
    ({"layers": 2}, "layers 2"),
    ({"pool_text_only": True}, "pool_text_only True"),
    ({"long_text": "late_chunks"}, "long_text 'late_chunks'"),
    ({"adapter": "some/adapter"}, "adapter"),
    ({"trust_remote_code": True}, "trust_remote_code True"),
]


@pytest.mark.parametrize(("settings", "named"), SETTINGS)
def test_settings_that_it_cannot_follow_are_refused(
    folders: dict[str, Path], settings: dict[str, Any], named: str
) -> None:
    config = EncoderConfig(str(folders["clip"]), **settings)
    for door in (TextEncoder.load, check_model):
        with pytest.raises(InputError, match=named):
            door(config)


def test_windows_and_templates_are_followed(folders: dict[str, Path]) -> None:
    folder = str(folders["clip"])
    templated = TextEncoder.load(EncoderConfig(folder, template="a photo of {text}."))
    wanted = TextEncoder.load(folder).encode(["a photo of a cat."])
    np.testing.assert_allclose(templated.encode(["a cat"]), wanted, atol=1e-5)
    windows = TextEncoder.load(EncoderConfig(folder, long_text="windows"))
    assert windows.encode_with_counts(["x" * 200]).dropped.tolist() == [0]


ALONE = ("CLIPTextModel", "CLIPTextModelWithProjection", "SiglipTextModel")


@pytest.mark.parametrize("name", ALONE)
def test_a_text_tower_that_was_saved_alone_is_pooled_as_within_its_model(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    whole = folders["siglip" if name.startswith("Siglip") else "clip"]
    settings = transformers.AutoConfig.from_pretrained(whole).text_config
    if name == "CLIPTextModelWithProjection":
        settings.projection_dim = 16
    tower = getattr(transformers, name).from_pretrained(whole, config=settings).eval()
    tower.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(whole).save_pretrained(tmp_path)
    encoder = TextEncoder.load(str(tmp_path))
    found = encoder.encode(TEXTS)
    if name == "CLIPTextModel":
        tokens = transformers.AutoTokenizer.from_pretrained(whole)
        given = tokens(TEXTS, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            wanted = tower(**given).pooler_output.numpy()
    else:
        wanted = text_features(whole, TEXTS)
    np.testing.assert_allclose(found, unit(wanted), atol=1e-5)
    assert encoder.metadata.modality == ""
    check_model(EncoderConfig(str(tmp_path)))
    with pytest.raises(InputError, match="takes no images; use one with an image tower"):
        ImageEncoder.load(str(tmp_path))
    mean = EncoderConfig(str(tmp_path), pooling="mean")
    if name == "SiglipTextModel":
        with pytest.raises(InputError, match="pooling 'mean': .* a text or an image tower"):
            TextEncoder.load(mean)
        return
    assert TextEncoder.load(mean).metadata.pooling == "mean"
    assert TextEncoder.load(mean).fingerprint != encoder.fingerprint


@pytest.mark.parametrize("kind", ["altclip_text_model", "siglip2_text_model"])
def test_a_text_tower_of_another_kind_asks_for_its_pooling(tmp_path: Path, kind: str) -> None:
    folder = make_clip(tmp_path / "m")
    change(folder / "config.json", model_type=kind)
    with pytest.raises(InputError, match=f"text tower .{kind}., which pools .* give the pooling"):
        check_model(EncoderConfig(str(folder)))


def test_a_tokenizer_that_hides_padding_is_refused(tmp_path: Path) -> None:
    folder = make_siglip(tmp_path / "m", model_input_names=["input_ids", "attention_mask"])
    with pytest.raises(InputError, match=r"asks for an attention mask.*model_input_names"):
        TextEncoder.load(str(folder))


def test_a_tokenizer_of_sentencepiece_is_read_from_its_json(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The published ones name a class that needs SentencePiece, and have a tokenizer.json."""
    folder = make_siglip(tmp_path / "m")
    change(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    wanted = TextEncoder.load(str(folders["siglip"])).encode(TEXTS)
    np.testing.assert_allclose(TextEncoder.load(str(folder)).encode(TEXTS), wanted, atol=1e-6)
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    with pytest.raises(InputError, match=r"tokenizer.json is missing, and SentencePiece is not"):
        TextEncoder.load(str(folder))


def test_padding_comes_first_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    folder = make_siglip(tmp_path / "m", padding_side="left")
    found = TextEncoder.load(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(found, unit(text_features(folder, TEXTS)), atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip2", "altclip", "clip_vision_model", "chinese_clip"])
def test_models_whose_towers_are_not_run_are_refused(tmp_path: Path, kind: str) -> None:
    folder = make_clip(tmp_path / "m")
    change(folder / "config.json", model_type=kind)
    for door in (TextEncoder.load, lambda name: check_model(EncoderConfig(name))):
        with pytest.raises(InputError, match=kind):
            door(str(folder))
