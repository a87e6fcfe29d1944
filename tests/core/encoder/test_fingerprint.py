"""Vectors of one fingerprint are the same vectors, or their canaries show that they are not."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core import canaries
from beam_gpte.core.encoder.linear_layers import bf16_speedup
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, different_models, made_alike
from tests.core.damage import change, write
from tests.core.encoder import whole_model

ROOT = Path(__file__).resolve().parents[3]

# Another value of every field of the configuration; None where it names the same model elsewhere.
FIELDS: dict[str, dict[str, Any] | None] = {
    "model": None,
    "revision": {"revision": "main"},
    "pooling": {"pooling": "mean"},
    "prompt_name": {"prompt_name": "query"},
    "prompt": {"prompt": "the cat "},
    "template": {"template": "the {text} sat"},
    "pool_text_only": {"template": "the {text} sat", "pool_text_only": True, "pooling": "mean"},
    "tail_tokens": {"pooling": "tail_mean", "tail_tokens": 2},
    "layers": {"layers": 2},
    "normalize": {"normalize": False},
    "truncate_dim": {"truncate_dim": 8},
    "max_tokens": {"max_tokens": 5},
    "long_text": {"long_text": "windows", "chunk_tokens": 4},
    "chunk_tokens": {"long_text": "chunks", "chunk_tokens": 4},
    "overlap_tokens": {"long_text": "windows", "chunk_tokens": 4, "overlap_tokens": 2},
    "precision": {"precision": "bf16"},
    "token_budget": {"token_budget": 16},
    "device": {"device": "cpu"},
    "trust_remote_code": {"trust_remote_code": True},
    "adapter": None,  # see tests/core/encoder/adapters
    "route": None,  # see tests/core/encoder/routes
}
SETTINGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
)
ADDED: dict[str, dict[str, Any]] = {
    "config.json": {"hidden_act": "relu", "layer_norm_eps": 0.5, "pad_token_id": 1},
    "tokenizer_config.json": {"strip_accents": False, "truncation_side": "left"},
    "special_tokens_map.json": {"cls_token": "[MASK]", "unk_token": "[PAD]"},
    "sentence_bert_config.json": {"do_lower_case": True, "max_seq_length": 5},
    "config_sentence_transformers.json": {"default_prompt_name": "query"},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "include_prompt": False},
    "2_Dense/config.json": {"activation_function": "torch.nn.ReLU"},
}


def canary_vectors(encoder: TextEncoder) -> np.ndarray:
    encoding = encoder.encode_with_counts(canaries.TEXTS)
    rows = [encoding.vectors[encoding.text == i].mean(0) for i in range(len(canaries.TEXTS))]
    return np.stack(rows)


def moved(here: np.ndarray, there: np.ndarray) -> float:
    """The largest |a - b|^2 / (2 |a| |b|): 1 - cosine of vectors of length 1."""
    if here.shape != there.shape:
        return float("inf")
    lengths = np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1)
    return float((np.square(here - there).sum(axis=1) / (2 * lengths)).max())


def assert_noticed(base: TextEncoder, other: TextEncoder) -> None:
    """A change of a canary vector changes the fingerprint, or is refused by the canaries."""
    if moved(canary_vectors(base), canary_vectors(other)) > canaries.TOLERANCES["fp32"]:
        with pytest.raises(InputError):
            check_same_vectors(base.metadata, other.metadata, "here")


def test_every_field_of_the_configuration_is_noticed(whole: Path, tmp_path: Path) -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(EncoderConfig)}
    base = TextEncoder.load(str(whole))
    for name, settings in FIELDS.items():
        if name == "precision" and not bf16_speedup():
            continue  # this CPU has no bfloat16 products
        other = TextEncoder.load(EncoderConfig(str(whole), **(settings or {})))
        assert_noticed(base, other)
    elsewhere = shutil.copytree(whole, tmp_path / "elsewhere")
    check_same_vectors(base.metadata, TextEncoder.load(str(elsewhere)).metadata, "here")


def other_values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(value // 2, 1)]
    if isinstance(value, float):
        return [value * 2 + 0.1]
    return ["[MASK]", None] if isinstance(value, str) else [True]


def mutations(whole: Path, name: str) -> Iterator[dict[str, Any]]:
    """Each key of a file with another value; keys that it does not have."""
    for key, value in json.loads((whole / name).read_text(encoding="utf-8")).items():
        yield from ({key: other} for other in other_values(value))
    yield from ({key: value} for key, value in ADDED[name].items())


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_every_setting_of_a_model_is_noticed(
    whole: Path, tmp_path: Path, name: str, normalize: bool
) -> None:
    base = TextEncoder.load(EncoderConfig(str(whole), normalize=normalize))
    loaded = 0
    for i, settings in enumerate(mutations(whole, name)):
        folder = shutil.copytree(whole, tmp_path / str(i))
        change(folder / name, **settings)
        try:
            other = TextEncoder.load(EncoderConfig(str(folder), normalize=normalize))
        except InputError:
            continue
        loaded += 1
        assert_noticed(base, other)
    assert loaded


def test_every_other_file_of_a_model_is_noticed(whole: Path, tmp_path: Path) -> None:
    config = EncoderConfig(str(whole), normalize=False)
    base = TextEncoder.load(config)

    def swapped(folder: Path) -> None:
        for name in ("vocab.txt", "tokenizer.json"):
            path = folder / name
            content = path.read_text(encoding="utf-8")
            whole_word = '"{}"' if name == "tokenizer.json" else "{}\n"
            for old, new in (("cat", "cet"), ("sat", "set")):
                content = content.replace(whole_word.format(old), whole_word.format(new))
            path.write_text(content, encoding="utf-8")

    def scaled(folder: Path, name: str) -> None:
        path = next(folder.glob(name))
        save_file({key: tensor * 1.5 for key, tensor in load_file(path).items()}, path)

    def without_normalize(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        write(folder / "modules.json", listed[:-1])

    def added(folder: Path) -> None:
        token = {"cat": len(whole_model.VOCABULARY) - 1}
        write(folder / "added_tokens.json", token)

    changes = (
        swapped,
        added,
        without_normalize,
        lambda folder: scaled(folder, "model-*.safetensors"),
        lambda folder: scaled(folder, "2_Dense/*.safetensors"),
    )
    for i, edit in enumerate(changes):
        folder = shutil.copytree(whole, tmp_path / str(i))
        edit(folder)
        other = TextEncoder.load(dataclasses.replace(config, model=str(folder)))
        assert other.fingerprint != base.fingerprint
    folder = shutil.copytree(whole, tmp_path / "moved")
    change(folder / "config.json", transformers_version="4.0", _name_or_path="me")
    (folder / "README.md").write_text("# A model")
    other = TextEncoder.load(dataclasses.replace(config, model=str(folder)))
    assert other.fingerprint == base.fingerprint


def test_a_change_that_no_file_shows_is_seen_by_the_canaries(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that reads the same files otherwise."""
    before = TextEncoder.load(str(whole)).metadata
    monkeypatch.setattr(Tokenizer, "_cased", lambda self, texts: [text[::-1] for text in texts])
    after = TextEncoder.load(str(whole)).metadata
    assert before.fingerprint == after.fingerprint
    with pytest.raises(InputError, match="table t: vectors of one fingerprint, .*cosine"):
        check_same_vectors(after, before, "table t")
    assert not made_alike(before, after)
    assert "differ on the same text" in different_models({before.identity, after.identity})
    derived = [each.derive({"quantization": "int8"}) for each in (before, after)]
    with pytest.raises(InputError, match="one fingerprint"):
        check_same_vectors(*derived, "table t")


def test_data_without_canaries_compares_by_its_fingerprint(whole: Path) -> None:
    now = TextEncoder.load(str(whole)).metadata
    earlier = dataclasses.replace(now, canaries="")
    check_same_vectors(now, earlier, "folder")
    assert made_alike(now, earlier)
    assert different_models({now.identity, earlier.identity}) == ""
    stored = json.loads(now.to_json())
    del stored["canaries"]
    assert VectorMetadata.from_json(json.dumps(stored)) == earlier


def test_canaries_are_small_and_measure_a_distance_within_a_factor_of_two() -> None:
    generator = np.random.default_rng(5)
    for dim in (8, 64, 384, 4096):
        a = generator.normal(size=(len(canaries.TEXTS), dim))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        here = canaries.sketch(a, "fp32")
        assert len(here) < 800
        for size in (1e-5, 1e-3, 0.1):
            b = a + generator.normal(size=a.shape) * np.sqrt(2 * size / dim)
            found = canaries.distance(here, canaries.sketch(b, "fp32"))
            assert 0.5 * moved(a, b) <= found <= 2 * moved(a, b)
            assert canaries.differ(here, canaries.sketch(b, "fp32"))
        noise = a + generator.normal(size=a.shape) * 1e-7
        assert not canaries.differ(here, canaries.sketch(noise, "fp32"))
        scaled = canaries.sketch(3 * a, "fp32")
        assert canaries.distance(here, scaled) == pytest.approx(2**2 / (2 * 3), rel=1e-2)


def test_zero_vectors_and_those_that_are_no_numbers_compare() -> None:
    zeros = np.zeros((len(canaries.TEXTS), 2))
    ones = np.ones_like(zeros)
    assert canaries.distance(canaries.sketch(zeros, "fp32"), canaries.sketch(zeros, "fp32")) == 0
    assert canaries.differ(canaries.sketch(zeros, "fp32"), canaries.sketch(ones, "fp32"))
    assert canaries.sketch(zeros * np.nan, "fp32") == canaries.sketch(zeros, "fp32")


def test_two_kinds_of_cpu_agree(minilm: str, encoder: TextEncoder) -> None:
    code = (
        f"from beam_gpte import TextEncoder\nprint(TextEncoder.load({minilm!r}).metadata.to_json())"
    )
    kind = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **kind, "PYTHONPATH": str(ROOT)},
    ).stdout
    other = VectorMetadata.from_json(printed.strip().splitlines()[-1])
    check_same_vectors(encoder.metadata, other, "folder")
    assert canaries.distance(encoder.metadata.canaries, other.canaries) < 1e-6
