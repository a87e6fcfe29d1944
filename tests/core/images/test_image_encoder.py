"""Images get the vectors of transformers and sentence-transformers, in the space of the texts."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, ImageEncoder, InputError, TextEncoder
from beam_gpte.core import canaries
from beam_gpte.core.images.canary_images import canary_images
from beam_gpte.core.images.decode import ImageError
from beam_gpte.core.metadata import check_one_model, check_same_vectors, made_alike
from beam_gpte.neighbors.plan_queries import check_one_space
from tests.core.damage import POINTER, Change, change, cut, put, remove, write
from tests.core.images.tiny_towers import SIZE, TEXTS, draw, encoded, make_clip

KINDS = ("clip", "siglip")


def opened(content: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content)))


def image_features(folder: Path, images: list[bytes]) -> np.ndarray:
    """The vectors of transformers' own pipeline, one image at a time."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        vectors = [
            model.get_image_features(**processor(opened(image), return_tensors="pt")).pooler_output
            for image in images
        ]
    return torch.cat(vectors).numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def encoders(towers: dict[str, Path]) -> dict[str, ImageEncoder]:
    return {kind: ImageEncoder.load(str(towers[kind])) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(
    towers: dict[str, Path], encoders: dict[str, ImageEncoder], images: list[bytes], kind: str
) -> None:
    wanted = image_features(towers[kind], images)
    plain = ImageEncoder.load(EncoderConfig(str(towers[kind]), normalize=False))
    np.testing.assert_allclose(plain.encode(images), wanted, atol=1e-5, rtol=1e-5)
    found = encoders[kind].encode(images)
    np.testing.assert_allclose(found, unit(wanted), atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-3) > 3  # images differ


PROCESSORS: list[dict[str, Any]] = [
    {"resample": 2},
    {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    {"size": {"shortest_edge": 40}},
    {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    {"size": {"height": 36, "width": 40}},
    {"do_normalize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 128},
]


@pytest.mark.parametrize("settings", PROCESSORS, ids=str)
def test_pixels_are_those_that_the_files_ask_for(
    tmp_path: Path, images: list[bytes], settings: dict[str, Any]
) -> None:
    folder = make_clip(tmp_path / "m", **settings)
    found = ImageEncoder.load(str(folder)).encode(images)
    np.testing.assert_allclose(found, unit(image_features(folder, images)), atol=1e-5)


def test_the_files_of_early_models_are_read(towers: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(towers["clip"], tmp_path / "m")
    nested = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    (folder / "processor_config.json").unlink()
    early = {**nested["image_processor"], "size": SIZE, "crop_size": SIZE}
    early["feature_extractor_type"] = "CLIPFeatureExtractor"
    early.pop("image_processor_type")
    write(folder / "preprocessor_config.json", early)
    image = [encoded(draw(1, 90, 40))]
    wanted = ImageEncoder.load(str(towers["clip"])).encode(image)
    np.testing.assert_array_equal(ImageEncoder.load(str(folder)).encode(image), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_neighbors(
    encoders: dict[str, ImageEncoder], images: list[bytes], kind: str
) -> None:
    encoder = encoders[kind]
    alone = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_allclose(encoder.encode(images), alone, atol=1e-6)
    many = [images[i % len(images)] for i in range(40)]
    small = ImageEncoder.load(dataclasses.replace(encoder.config, token_budget=40))
    np.testing.assert_allclose(small.encode(many)[: len(images)], alone, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_both_towers_make_one_space(towers: dict[str, Path], kind: str) -> None:
    config = EncoderConfig(str(towers[kind]), truncate_dim=8)
    text, image = TextEncoder.load(config).metadata, ImageEncoder.load(config).metadata
    assert (text.modality, image.modality) == ("text", "image")
    assert image.fingerprint == text.fingerprint
    assert (image.dim, image.normalized) == (text.dim, text.normalized) == (8, True)
    check_same_vectors(text, image, "here")
    check_one_model([text.dim, image.dim], [text.identity, image.identity])
    template = dataclasses.replace(config, template="a photo of {text}")
    check_one_space(TextEncoder.load(template).metadata, image, "NearestNeighbors")


def test_another_space_is_told_apart(towers: dict[str, Path], tmp_path: Path) -> None:
    here = ImageEncoder.load(str(towers["clip"])).metadata
    other = shutil.copytree(towers["clip"], tmp_path / "m")
    path = other / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["image_processor"]["resample"] = 0
    write(path, settings)
    assert TextEncoder.load(str(other)).fingerprint != here.fingerprint
    for config in (
        EncoderConfig(str(towers["siglip"])),
        EncoderConfig(str(other)),
        EncoderConfig(str(towers["clip"]), truncate_dim=8),
        EncoderConfig(str(towers["clip"]), normalize=False),
    ):
        assert not made_alike(here, ImageEncoder.load(config).metadata)


def test_canaries_of_images_are_compared_among_themselves(towers: dict[str, Path]) -> None:
    found = ImageEncoder.load(str(towers["clip"])).metadata
    again = ImageEncoder.load(EncoderConfig(str(towers["clip"]), token_budget=1)).metadata
    assert canaries.distance(found.canaries, again.canaries) < 1e-6
    other = np.random.default_rng(0).normal(size=(4, found.dim))
    changed = canaries.sketch(other, "fp32", "images-1")
    assert canaries.differ(found.canaries, changed)
    assert len(canary_images()) == len(canaries.TEXTS)


def test_settings_of_texts_change_nothing(towers: dict[str, Path], images: list[bytes]) -> None:
    plain = ImageEncoder.load(str(towers["clip"]))
    config = EncoderConfig(str(towers["clip"]), template="a {text}", max_tokens=9, layers=2)
    found = ImageEncoder.load(config)
    assert found.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(found.encode(images), plain.encode(images))


def test_only_the_image_tower_is_in_the_memory(encoders: dict[str, ImageEncoder]) -> None:
    for encoder in encoders.values():
        names = [name for name, _ in encoder._model.named_parameters()]
        assert any("patch_embedding" in name for name in names)
        assert not [name for name in names if "text" in name or "token" in name]


def test_a_broken_image_costs_one_and_equal_ones_are_run_once(
    encoders: dict[str, ImageEncoder], images: list[bytes]
) -> None:
    given = [images[0], b"no", images[1], images[0], b"no", ImageError("is lost")]
    found = encoders["clip"].encode_with_counts(given)
    assert found.distinct == 2
    assert sorted(found.failed) == [1, 4, 5]
    assert found.failed[1].startswith("is not an image")
    assert found.failed[5] == "is lost"
    np.testing.assert_array_equal(found.vectors[0], found.vectors[3])
    np.testing.assert_allclose(
        found.vectors[[0, 2]], encoders["clip"].encode(images[:2]), atol=1e-6
    )
    assert np.isnan(found.vectors[[1, 4, 5]]).all()
    with pytest.raises(InputError, match=r"image 1 is not an image"):
        encoders["clip"].encode(given[:2])


def test_no_images_are_no_vectors(encoders: dict[str, ImageEncoder]) -> None:
    assert encoders["clip"].encode([]).shape == (0, encoders["clip"].dim)


def test_a_strip_is_not_made_a_gigabyte(encoders: dict[str, ImageEncoder]) -> None:
    strip = encoded(Image.new("RGB", (60_000, 1)))
    found = encoders["clip"].encode_with_counts([strip, encoded(draw())])
    assert found.failed[0].startswith("is too long and narrow: 60000 x 1 pixels")
    assert list(found.failed) == [0]
    assert not encoders["siglip"].encode_with_counts([strip]).failed  # which makes a square of it


def test_a_batch_that_does_not_fit_is_halved(
    encoders: dict[str, ImageEncoder], images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ImageEncoder.load(encoders["clip"].config)
    start = encoder._start

    def small(pixels: list[np.ndarray]) -> torch.Tensor:
        if len(pixels) > 2:
            raise RuntimeError("CUDA out of memory")
        return start(pixels)

    monkeypatch.setattr(encoder, "_start", small)
    found = encoder.encode_with_counts(images)
    assert found.retries > 0
    np.testing.assert_allclose(found.vectors, encoders["clip"].encode(images), atol=1e-6)


def test_a_vector_that_is_not_finite_fails_its_image(
    towers: dict[str, Path], tmp_path: Path, images: list[bytes]
) -> None:
    folder = shutil.copytree(towers["clip"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0] = 3e38  # whose sum is infinite
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = ImageEncoder.load(str(folder)).encode_with_counts(images[:1])
    assert "not finite" in found.failed[0]


def test_bf16_is_near(towers: dict[str, Path], encoders: dict[str, ImageEncoder]) -> None:
    images = [encoded(draw(seed)) for seed in range(4)]
    try:
        half = ImageEncoder.load(EncoderConfig(str(towers["clip"]), precision="bf16"))
    except InputError as error:
        pytest.skip(str(error))
    cosines = (half.encode(images) * encoders["clip"].encode(images)).sum(axis=1)
    assert cosines.min() > 0.98


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "precision 'int8': images are embedded in fp32"),
        ({"adapter": "x/y"}, "adapter 'x/y'"),
        ({"trust_remote_code": True}, "trust_remote_code True"),
        ({"truncate_dim": 99}, "truncate_dim 99: model .* has 16 dimensions"),
    ],
)
def test_settings_that_it_cannot_follow_are_refused(
    towers: dict[str, Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ImageEncoder.load(EncoderConfig(str(towers["clip"]), **settings))


def test_the_layouts_of_sentence_transformers_give_its_vectors(
    towers: dict[str, Path], tmp_path: Path, images: list[bytes]
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    early = tmp_path / "early"
    shutil.copytree(towers["clip"], early / "0_CLIPModel")
    kind = "sentence_transformers.models.CLIPModel"
    write(early / "modules.json", [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}])
    model = sentence_transformers.SentenceTransformer(str(early), device="cpu")
    late = tmp_path / "late"
    module = sentence_transformers.models.Transformer(str(towers["clip"]))
    normalize = sentence_transformers.models.Normalize()
    saved = sentence_transformers.SentenceTransformer(modules=[module, normalize], device="cpu")
    saved.save(str(late))
    for folder, peer in ((early, model), (late, saved)):
        config = EncoderConfig(str(folder), normalize=False)
        wanted = peer.encode([opened(image) for image in images])
        np.testing.assert_allclose(ImageEncoder.load(config).encode(images), wanted, atol=1e-5)
        texts = TextEncoder.load(config)
        np.testing.assert_allclose(texts.encode(TEXTS), peer.encode(TEXTS), atol=1e-5)
        assert texts.fingerprint == ImageEncoder.load(config).fingerprint


def nested(name: str, **settings: Any) -> Change:
    """Change a part of a JSON file."""

    def edit(folder: Path) -> None:
        path = folder / name
        whole = json.loads(path.read_text(encoding="utf-8"))
        part = next(key for key in ("image_processor", "vision_config") if key in whole)
        write(path, {**whole, part: {**whole[part], **settings}})

    return edit


def drop_weight(name: str) -> Change:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return edit


PIXELS = "processor_config.json"
DAMAGE: dict[str, tuple[Change, str]] = {
    "no image processor": (remove(PIXELS), "preprocessor_config.json is missing"),
    "a processor that is cut": (cut(PIXELS), f"{PIXELS} is not whole JSON"),
    "an empty processor": (put(PIXELS, ""), f"{PIXELS} is empty"),
    "a pointer for the processor": (put(PIXELS, POINTER), f"{PIXELS} is a git-lfs pointer"),
    "a processor of another kind": (
        nested(PIXELS, image_processor_type="OwlViTImageProcessor"),
        "names the image processor 'OwlViTImageProcessor'",
    ),
    "a processor with its own code": (
        nested(PIXELS, auto_map={"AutoImageProcessor": "code.Mine"}),
        "names the image processor",
    ),
    "pixels of another size": (
        nested(PIXELS, crop_size={"height": 64, "width": 64}),
        "but the model takes 32 x 32",
    ),
    "a huge size": (nested(PIXELS, size={"shortest_edge": 10**7}), "but the model takes 32 x 32"),
    "a mean of no number": (nested(PIXELS, image_mean="x"), PIXELS),
    "a size of no number": (nested(PIXELS, size={"shortest_edge": "x"}), PIXELS),
    "no config.json": (remove("config.json"), "config.json"),
    "weights that are cut": (cut("model.safetensors"), "model.safetensors"),
    "no weights": (remove("model.safetensors"), "no safetensors weights"),
    "a projection that is missing": (
        drop_weight("visual_projection.weight"),
        "1 weights are missing, 'visual_projection.weight'",
    ),
    "a layer that is missing": (
        drop_weight("vision_model.encoder.layers.1.mlp.fc1.weight"),
        "1 weights are missing",
    ),
    "more layers than weights": (
        nested("config.json", num_hidden_layers=3),
        "weights are missing",
    ),
    "millions of layers": (
        nested("config.json", num_hidden_layers=10**7),
        "has num_hidden_layers 10,000,000",
    ),
    "a size that the weights lack": (nested("config.json", hidden_size=10**6), "config.json"),
    "another patch size": (nested("config.json", patch_size=16), "config.json"),
    "a kernel of the hub": (
        nested("config.json", attn_implementation="kernels-community/flash"),
        "attention code that is not part of transformers",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_by_the_name_of_the_file(
    towers: dict[str, Path], tmp_path: Path, name: str
) -> None:
    damage, message = DAMAGE[name]
    folder = shutil.copytree(towers["clip"], tmp_path / "m")
    damage(folder)
    with pytest.raises(InputError) as caught:
        ImageEncoder.load(str(folder))
    assert message in str(caught.value)


ST = "sentence_transformers.models."
LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pooling": (
        lambda folder: (
            write(folder / "modules.json", listed(("Transformer", ""), ("Pooling", "1_Pooling"))),
            write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"}),
        ),
        "remove the Pooling",
    ),
    "another call": (
        lambda folder: (
            write(folder / "modules.json", listed(("Transformer", ""))),
            write(
                folder / "sentence_bert_config.json",
                {"modality_config": {"image": {"method": "forward"}}},
            ),
        ),
        "takes images by 'forward'; only get_image_features",
    ),
    "arguments of the processor": (
        lambda folder: (
            write(folder / "modules.json", listed(("Transformer", ""))),
            write(
                folder / "sentence_bert_config.json",
                {"processing_kwargs": {"image": {"do_resize": False}}},
            ),
        ),
        "processing_kwargs of images",
    ),
}


def listed(*modules: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": path, "type": ST + kind}
        for i, (kind, path) in enumerate(modules)
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_ask_for_other_vectors_are_refused(
    towers: dict[str, Path], tmp_path: Path, name: str
) -> None:
    edit, message = LAYOUTS[name]
    folder = shutil.copytree(towers["clip"], tmp_path / "m")
    edit(folder)
    with pytest.raises(InputError, match=message):
        ImageEncoder.load(str(folder))


def test_a_model_of_texts_is_refused(tmp_path: Path, towers: dict[str, Path]) -> None:
    folder = shutil.copytree(towers["siglip"], tmp_path / "m")
    change(folder / "config.json", model_type="bert")
    with pytest.raises(InputError, match="takes no images; use one with an image tower"):
        ImageEncoder.load(str(folder))
