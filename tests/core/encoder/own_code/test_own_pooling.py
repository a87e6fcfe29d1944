"""A model that pools by its own code runs where that is trusted, and is refused elsewhere."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.static.load_encoder import check_encoder
from tests.core.damage import change
from tests.core.encoder.own_code import latent_model
from tests.core.encoder.own_code.latent_model import CODE

TEXTS = ["The cat sat on the mat.", "two cats, w17 w18", "cat", "w1 w2 w3 w4 w5 w6 w7 w8 w9"]


@pytest.fixture(autouse=True, scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what transformers imports of models out of the user's cache."""
    from transformers import dynamic_module_utils

    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", cache)
        yield
    sys.path[:] = path


@pytest.fixture(scope="module")
def latent(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("latent") / "model"
    return latent_model.make(folder, whole, include_prompt=False)


def load(folder: str, **settings: Any) -> TextEncoder:
    config = EncoderConfig(folder, trust_remote_code=True, device="cpu", **settings)
    check_encoder(config)
    return TextEncoder.load(config)


def ids_of(folder: str, text: str) -> list[int]:
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    return list(tokenizer(text)["input_ids"])


def expected(folder: str, prompt: str = "") -> np.ndarray:
    left_out = len(ids_of(folder, prompt)) - 1 if prompt else 0
    return np.stack(
        [latent_model.vector_of(folder, ids_of(folder, prompt + text), left_out) for text in TEXTS]
    )


def test_the_models_own_pooling_gives_its_vectors(latent: str) -> None:
    encoder = load(latent)
    assert np.abs(encoder.encode(TEXTS) - expected(latent)).max() < 1e-5
    assert encoder.metadata.pooling == "own code"
    assert "pools by its own code" in encoder.metadata.engine
    assert not encoder.unpadded


def test_a_prompt_is_left_out_of_the_models_own_mean(latent: str) -> None:
    encoder = load(latent, prompt="two blanks ")
    assert np.abs(encoder.encode(TEXTS) - expected(latent, "two blanks ")).max() < 1e-5


def test_windows_and_a_head_follow_the_models_own_pooling(latent: str) -> None:
    cut = load(latent, truncate_dim=8)
    whole = expected(latent)[:, :8]
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    assert np.abs(cut.encode(TEXTS) - whole).max() < 1e-5
    windows = load(latent, long_text="windows", chunk_tokens=4)
    assert np.abs(windows.encode(["cat"]) - expected(latent)[2]).max() < 1e-5


@pytest.mark.parametrize("is_known", [False, True])
def test_without_trust_it_is_refused_before_a_job(
    whole: Path, tmp_path: Path, is_known: bool
) -> None:
    folder = latent_model.make(tmp_path / "model", whole)
    if is_known:  # whose type transformers would run without the latent attention
        change(tmp_path / "model" / "config.json", model_type="bert", auto_map=None)
    message = "pools by latent attention, in its own code; read that and set trust_remote_code"
    for check in (check_encoder, TextEncoder.load):
        with pytest.raises(InputError, match=message):
            check(EncoderConfig(folder))


def test_the_code_is_part_of_the_fingerprint(latent: str, whole: Path, tmp_path: Path) -> None:
    code = CODE.replace(" ** 0.5", " ** 0.4")
    other = load(latent_model.make(tmp_path / "model", whole, code, include_prompt=False))
    assert other.fingerprint != load(latent).fingerprint
    assert np.abs(other.encode(TEXTS) - load(latent).encode(TEXTS)).max() > 1e-3


CODES = {
    "padding": (
        CODE.replace("(attention_mask if pool_mask is None else pool_mask)", "(input_ids >= 0)"),
        {},
        "padding changes its vectors by",
    ),
    "tokens": (
        CODE.replace("(hidden * mask).sum(1) / mask.sum(1)", "hidden"),
        {},
        r"gave sentence_embeddings of shape \(1, \d+, 32\), not a vector per text",
    ),
    "no mask": (
        CODE.replace("attention_mask=None, pool_mask=None", "attention_mask=None").replace(
            "(attention_mask if pool_mask is None else pool_mask)", "attention_mask"
        ),
        {"prompt": "two blanks "},
        "takes no pool_mask: it cannot leave the tokens of a prompt out",
    ),
    "pooling": (CODE, {"pooling": "cls"}, "pooling 'cls': model .* pools by its own code"),
    "layers": (CODE, {"layers": 2}, "layers 2: model .* pools by its own code"),
    "late chunks": (CODE, {"long_text": "late_chunks"}, "'late_chunks': model .* whole texts"),
}


@pytest.mark.parametrize("name", CODES)
def test_what_its_code_does_not_do_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    code, settings, message = CODES[name]
    folder = latent_model.make(tmp_path / "model", whole, code, include_prompt=False)
    with pytest.raises(InputError, match=message):
        load(folder, **settings)


def test_code_that_gives_tokens_is_pooled_as_any_other(whole: Path, tmp_path: Path) -> None:
    code = CODE.replace(
        '{"sentence_embeddings": (hidden * mask).sum(1) / mask.sum(1)}',
        "BaseModelOutput(last_hidden_state=hidden)",
    ).replace(
        "import torch\n",
        "import torch\nfrom transformers.modeling_outputs import BaseModelOutput\n",
        1,
    )
    folder = latent_model.make(tmp_path / "model", whole, code)
    encoder = load(folder)
    assert np.abs(encoder.encode(TEXTS) - expected(folder)).max() < 1e-5
    assert encoder.metadata.pooling == "mean"


def test_adapters_that_only_code_applies_are_refused(whole: Path, tmp_path: Path) -> None:
    """jina-embeddings-v3: its type is that of a plain XLM-RoBERTa."""
    folder = latent_model.make(tmp_path / "model", whole)
    change(tmp_path / "model" / "config.json", lora_adaptations=["retrieval.query"])
    for settings in ({}, {"adapter": "retrieval.query"}):
        with pytest.raises(InputError, match="has lora_adaptations, which only the model's own"):
            check_encoder(EncoderConfig(folder, trust_remote_code=True, **settings))
    load(folder, adapter="")
