"""Check which layers become int8, what fits them, and what becomes of the vectors."""

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core import canaries
from beam_gpte.core.encoder import backbone as backbones
from beam_gpte.core.encoder.backbone import Backbone, choose_precision
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.int8 import linear as int8
from beam_gpte.core.encoder.int8.calibration import fit, quantize_linears
from beam_gpte.core.encoder.int8.linear import int8_linear_class, int8_works
from beam_gpte.core.metadata import check_same_vectors
from tests.core.encoder.tiny_models import (
    PADDED,
    SAMPLE_LENGTHS,
    UNPADDED,
    alone,
    texts,
    tiny,
    vectors,
)

needs_int8 = pytest.mark.skipif(not int8_works(), reason="no int8 products here")

# Their attention has other last digits in another batch, which integers turn into steps.
BATCH_DEPENDENT = {"gemma2, soft-cap and window", *PADDED}

SENTENCES = [
    "A vector stands for the meaning of one text and nothing else; 42.",
    "Größe, ÀÉ naïve",
    "東京 Привет",
    "def f(x): return x + 1",
    "a cat " * 60,
    *(f"{n} green bottles hanging on the wall" for n in range(40)),
]


def seen_by(linear: torch.nn.Linear, x: torch.Tensor) -> calibration.Inputs:
    inputs = calibration.Inputs()
    inputs.add(linear, (x,))
    return inputs


@pytest.fixture(scope="module")
def int8_encoder(minilm: str) -> TextEncoder:
    return TextEncoder.load(EncoderConfig(minilm, precision="int8", device="cpu"))


@needs_int8
def test_vectors_are_near_those_of_fp32_and_named_by_what_made_them(
    encoder: TextEncoder, int8_encoder: TextEncoder
) -> None:
    cosines = (encoder.encode(SENTENCES) * int8_encoder.encode(SENTENCES)).sum(1)
    assert cosines.min() > 0.99
    assert cosines.max() < 0.99999  # integers did run
    assert int8_encoder.metadata.engine == "int8 (1 of 36 layers fp32) unpadded"
    assert int8_encoder.fingerprint != encoder.fingerprint
    with pytest.raises(InputError, match="fingerprints"):
        check_same_vectors(encoder.metadata, int8_encoder.metadata, "here")


@needs_int8
def test_a_second_load_gives_the_same_bits_and_the_same_fingerprint(
    minilm: str, int8_encoder: TextEncoder
) -> None:
    again = TextEncoder.load(EncoderConfig(minilm, precision="int8", device="cpu"))
    assert np.array_equal(again.encode(SENTENCES), int8_encoder.encode(SENTENCES))
    assert again.metadata == int8_encoder.metadata


@needs_int8
def test_another_last_digit_of_fp32_stays_within_the_tolerance(
    minilm: str, int8_encoder: TextEncoder
) -> None:
    """Another CPU rounds attention and norms otherwise: here, all embeddings, in their last bit."""
    other = TextEncoder.load(EncoderConfig(minilm, precision="int8", device="cpu"))
    model = other._runner.backbone._model
    model.embeddings.register_forward_hook(lambda *call: call[2] * (1 + 2**-23))
    changed = dataclasses.replace(
        int8_encoder.metadata,
        canaries=canaries.sketch(other.encode(canaries.TEXTS), "int8"),
    )
    assert changed.canaries != int8_encoder.metadata.canaries
    check_same_vectors(int8_encoder.metadata, changed, "here")


@needs_int8
@pytest.mark.parametrize("name", [*UNPADDED, *PADDED])
def test_any_architecture_runs_in_int8(name: str) -> None:
    settings = (UNPADDED | PADDED)[name]
    expected = alone(tiny(*settings), texts())
    backbone = Backbone.from_model(
        tiny(*settings),
        EncoderConfig("m", precision="int8", device="cpu"),
        pad_id=1,
        samples=texts(seed=1, lengths=SAMPLE_LENGTHS),
    )
    replaced = [m for m in backbone._model.modules() if isinstance(m, int8_linear_class())]
    assert len(replaced) > 3
    found = vectors(backbone, texts())
    # random weights have no outliers, nor the redundancy of trained ones
    assert float((found * expected).sum(1).mean()) > 0.97
    few = vectors(backbone, texts()[:2])
    if name in BATCH_DEPENDENT:
        assert float((few * found[:6]).sum(1).min()) > 0.999
    else:
        assert torch.equal(few, found[:6])


@needs_int8
def test_gpt2s_layers_which_are_no_linear_stay_fp32() -> None:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 200}
    model = tiny("GPT2Config", {**sizes, "pad_token_id": 1})
    kinds = {type(module) for module in model.modules()}
    Backbone.from_model(
        model, EncoderConfig("m", precision="int8", device="cpu"), 1, texts(1, SAMPLE_LENGTHS)
    )
    assert transformers.pytorch_utils.Conv1D in kinds
    assert {type(module) for module in model.modules()} == kinds


@needs_int8
def test_a_layer_with_a_large_error_stays_fp32_and_the_others_do_not() -> None:
    """Two numbers of a million cancel each other out, and leave the others less than one step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 48), torch.nn.Linear(48, 48))
    hard, easy = model.requires_grad_(False)
    hard.weight[:, 1] = hard.weight[:, 0]
    x = torch.randn(100, 48)
    canceling = x.clone()
    canceling[:, 0], canceling[:, 1] = 1e6, -1e6

    def run() -> None:
        hard(canceling)
        easy(x)

    assert quantize_linears(model, run) == (1, 1)
    assert type(model[0]) is torch.nn.Linear
    assert torch.equal(model[0](x), hard(x))
    assert not hard._forward_pre_hooks
    assert isinstance(model[1], int8_linear_class())
    assert fit(hard, seen_by(hard, x)) is not None  # it is the input that it fails on


@needs_int8
def test_the_number_of_layers_left_in_fp32_is_in_the_metadata_and_the_fingerprint(
    minilm: str, int8_encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LIMIT", 0.03)
    strict = TextEncoder.load(EncoderConfig(minilm, precision="int8", device="cpu"))
    kept = strict._runner.backbone.fp32_layers
    assert 1 < kept < 36
    assert strict.metadata.engine == f"int8 ({kept} of 36 layers fp32) unpadded"
    assert strict.fingerprint != int8_encoder.fingerprint


@needs_int8
def test_a_layer_that_the_sample_does_not_reach_stays_fp32() -> None:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(48, 48) for name in ("used", "unused")})
    assert quantize_linears(model, lambda: model["used"](torch.randn(100, 48))) == (1, 1)
    assert type(model["unused"]) is torch.nn.Linear


@needs_int8
def test_smoothing_rescues_a_channel_of_outliers() -> None:
    """One channel is 1,000 times the others, as in trained decoders; its weights are small."""
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(48, 48).requires_grad_(False), torch.randn(200, 48)
    x[:, 7] *= 1000
    linear.weight[:, 7] /= 1000
    layer = fit(linear, seen_by(linear, x))
    assert layer.smoothing[7] < 2**-8 * layer.smoothing.median()
    assert torch.equal(layer.smoothing.log2().round(), layer.smoothing.log2())
    plain = int8_linear_class()(linear, torch.ones(48))
    expected = linear(x)
    assert float((layer(x) - expected).norm()) < 0.1 * float((plain(x) - expected).norm())


@needs_int8
def test_what_a_gelu_gives_gets_more_codes_for_positive_values() -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(48, 48).requires_grad_(False), torch.randn(200, 48)
    assert fit(linear, seen_by(linear, x)).zero_point == 128
    gelu = torch.nn.functional.gelu(3 * x)
    assert fit(linear, seen_by(linear, gelu)).zero_point < 128


def test_without_int8_products_it_is_refused(minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "int8_works", lambda: False)
    message = "precision 'int8': this CPU or this build of torch has no exact int8 products; use"
    with pytest.raises(InputError, match=message):
        TextEncoder.load(EncoderConfig(minilm, precision="int8", device="cpu"))


@pytest.mark.parametrize("missing", [AttributeError, RuntimeError])
def test_a_build_without_the_operator_has_no_int8(
    monkeypatch: pytest.MonkeyPatch, missing: type[Exception]
) -> None:
    def gone(*_: Any) -> Any:
        raise missing("no such operator")

    monkeypatch.setattr(int8, "_pack", gone)
    assert not int8_works.__wrapped__()


def test_a_gpu_does_not_run_int8() -> None:
    config = EncoderConfig("m", precision="int8", device="cuda:0")
    with pytest.raises(InputError, match="'int8' needs a CPU, but this runs on cuda:0; use bf16"):
        Backbone.from_model(tiny(*UNPADDED["bert"]), config, 1, texts(1, SAMPLE_LENGTHS))


@needs_int8
@pytest.mark.parametrize(("speedup", "warned"), [(0.5, True), (1.5, False)])
def test_a_cpu_that_multiplies_integers_slower_is_warned_of(
    speedup: float, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(int8, "int8_speedup", lambda: speedup)
    with caplog.at_level(logging.WARNING):
        model = torch.nn.Sequential(torch.nn.Linear(48, 48))
        quantize_linears(model, lambda: model(torch.randn(9, 48)))
    assert ("int8 products take 2.0 times as long as fp32" in caplog.text) == warned


@pytest.mark.parametrize(
    ("speedup", "taken"), [(0.0, "fp32"), (0.5, "fp32"), (1.1, "fp32"), (1.3, "bf16")]
)
def test_auto_takes_bf16_where_it_is_clearly_faster(
    speedup: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "bf16_speedup", lambda: speedup)
    config = EncoderConfig("m", precision="auto", device="cpu", normalize=False)
    assert choose_precision(config) == dataclasses.replace(config, precision=taken)


@pytest.mark.parametrize(("has_bf16", "taken"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_half_precision_on_a_gpu(
    has_bf16: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    config = EncoderConfig("m", precision="auto", device="cuda:0")
    assert choose_precision(config).precision == taken


def test_auto_asks_nothing_where_a_precision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "bf16_speedup", lambda: 1 / 0)
    for precision in ("fp32", "bf16", "int8"):
        config = EncoderConfig("m", precision=precision, device="cpu")
        assert choose_precision(config) is config


def test_vectors_of_auto_are_those_of_the_precision_that_it_took(
    minilm: str, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "bf16_speedup", lambda: 1.0)
    found = TextEncoder.load(EncoderConfig(minilm, precision="auto", device="cpu"))
    assert found.metadata == encoder.metadata
    assert found.metadata.engine == "fp32 unpadded"
    assert np.array_equal(found.encode(SENTENCES), encoder.encode(SENTENCES))


def test_auto_runs_bfloat16_where_the_cpu_has_it_and_says_so(
    minilm: str, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not backbones.bf16_speedup():
        pytest.skip("this CPU has no bfloat16 products")
    monkeypatch.setattr(backbones, "bf16_speedup", lambda: 2.0)
    found = TextEncoder.load(EncoderConfig(minilm, precision="auto", device="cpu"))
    assert found.metadata.engine == "bf16 unpadded"
    assert found.fingerprint != encoder.fingerprint
    bf16 = TextEncoder.load(EncoderConfig(minilm, precision="bf16", device="cpu"))
    assert found.fingerprint == bf16.fingerprint
