"""An adapter that is named is merged exactly; one that is not, or that is damaged, is refused."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.adapters.adapter_folder import CONFIG, WEIGHTS
from beam_gpte.core.encoder.adapters.find import check_model
from beam_gpte.core.metadata import made_alike
from beam_gpte.core.scorers.cross_encoder import CrossEncoder
from tests.core.damage import change, write
from tests.core.encoder.adapters import tiny_adapters
from tests.core.encoder.whole_model import TEXTS

EMBEDDING = "base_model.model.embeddings.word_embeddings"
DENSE = [f"base_model.model.encoder.layer.{i}.intermediate.dense" for i in range(2)]
QUERY = "base_model.model.encoder.layer.1.attention.self.query"


def encoder(base: Path, adapter: Path | str | None, **settings: Any) -> TextEncoder:
    named = None if adapter is None else str(adapter)
    return TextEncoder.load(EncoderConfig(str(base), adapter=named, device="cpu", **settings))


def embedding_of(rows: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {
        f"{EMBEDDING}.lora_embedding_A": torch.randn(4, rows, generator=random),
        f"{EMBEDDING}.lora_embedding_B": torch.randn(32, 4, generator=random) * 0.3,
    }


def rows_of(base: Path) -> int:
    return int(json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"])


KINDS: dict[str, Callable[[int], tuple[dict[str, torch.Tensor], dict[str, Any]]]] = {
    "linear layers": lambda rows: (tiny_adapters.tensors(), {}),
    "by the root of the rank": lambda rows: (tiny_adapters.tensors(), {"use_rslora": True}),
    "ranks and scales by module": lambda rows: (
        tiny_adapters.tensors({"output.dense": 2}),
        {"rank_pattern": {"output.dense": 2}, "alpha_pattern": {"output.dense": 0.5}},
    ),
    "embeddings": lambda rows: (
        {**tiny_adapters.tensors(), **embedding_of(rows)},
        {"target_modules": ["query", "output.dense", "word_embeddings"]},
    ),
    "embeddings that were changed before": lambda rows: (
        {
            **tiny_adapters.tensors(),
            **embedding_of(rows),
            f"{EMBEDDING}.base_layer.weight": torch.eye(rows, 32) * 3,
        },
        {"target_modules": ["query", "output.dense", "word_embeddings"]},
    ),
    "biases that were trained": lambda rows: (
        {**tiny_adapters.tensors(), f"{QUERY}.base_layer.bias": torch.ones(32)},
        {"bias": "lora_only"},
    ),
    "modules that were trained whole": lambda rows: (
        {
            **tiny_adapters.tensors(),
            **{f"{dense}.weight": torch.eye(48, 32) for dense in DENSE},
            **{f"{dense}.bias": torch.ones(48) for dense in DENSE},
        },
        {"modules_to_save": ["intermediate.dense"]},
    ),
    "one layer of two": lambda rows: (
        {name: one for name, one in tiny_adapters.tensors().items() if "layer.1" in name},
        {"layers_to_transform": [1]},
    ),
    "targets by a pattern": lambda rows: (
        tiny_adapters.tensors(),
        {"target_modules": r".*(query|layer\.\d\.output\.dense)"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_equals_the_weights_that_it_describes(
    base: Path, tmp_path: Path, kind: str
) -> None:
    made, settings = KINDS[kind](rows_of(base))
    adapter = tiny_adapters.make(tmp_path / "adapter", made, **settings)
    merged = tiny_adapters.merge(shutil.copytree(base, tmp_path / "merged"), adapter)
    expected = encoder(merged, None).encode(TEXTS)
    found = encoder(base, adapter)
    assert np.abs(found.encode(TEXTS) - expected).max() < 1e-6
    assert np.abs(encoder(base, None).encode(TEXTS) - expected).max() > 1e-2
    assert found.unpadded


def test_names_with_and_without_the_prefix_of_a_head_are_the_same(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    made = {
        name.replace("model.encoder", "model.bert.encoder"): one
        for name, one in tiny_adapters.tensors().items()
    }
    other = tiny_adapters.make(tmp_path / "adapter", made)
    found, expected = encoder(base, other).encode(TEXTS), encoder(base, lora).encode(TEXTS)
    assert np.array_equal(found, expected)


def test_vectors_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    for kind in KINDS:
        made, settings = KINDS[kind](rows_of(base))
        adapter = tiny_adapters.make(tmp_path / kind, made, **settings)
        model = transformers.AutoModel.from_pretrained(base)
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
        plain = shutil.copytree(base, tmp_path / f"{kind} merged")
        for path in plain.glob("model*"):
            path.unlink()
        model.save_pretrained(plain)
        expected = encoder(plain, None).encode(TEXTS)
        assert np.abs(encoder(base, adapter).encode(TEXTS) - expected).max() < 1e-6, kind


def test_an_adapter_is_part_of_the_fingerprint_and_of_the_name(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    plain, adapted = encoder(base, None), encoder(base, lora)
    assert not made_alike(plain.metadata, adapted.metadata)
    assert adapted.metadata.model == "whole + lora"
    moved = encoder(base, shutil.copytree(lora, tmp_path / "lora"))
    assert moved.metadata == adapted.metadata
    change(tmp_path / "lora" / CONFIG, lora_dropout=0.5, inference_mode=False)
    assert encoder(base, tmp_path / "lora").fingerprint == adapted.fingerprint
    change(tmp_path / "lora" / CONFIG, lora_alpha=7)
    assert encoder(base, tmp_path / "lora").fingerprint != adapted.fingerprint


def test_models_without_adapters_keep_their_fingerprints(base: Path) -> None:
    fields = {field.name for field in dataclasses.fields(EncoderConfig)}
    assert "adapter" in fields
    assert encoder(base, "").fingerprint == encoder(base, None).fingerprint


def test_adapters_for_tasks_lie_in_the_model_and_are_named(
    base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(base, tmp_path / "whole")
    shutil.copytree(lora, model / "retrieval_query")
    tiny_adapters.make(model / "adapters" / "text-matching", lora_alpha=12)
    expected = encoder(base, lora).encode(TEXTS)
    assert np.array_equal(encoder(model, "retrieval_query").encode(TEXTS), expected)
    assert not np.array_equal(encoder(model, "text-matching").encode(TEXTS), expected)
    plain = encoder(base, None).encode(TEXTS)
    assert np.array_equal(encoder(model, "").encode(TEXTS), plain)
    for name, message in (
        (None, "has the adapters retrieval_query, text-matching; name one by adapter"),
        ("passage", "adapter 'passage': no such folder; model .* has retrieval_query, text-match"),
    ):
        with pytest.raises(InputError, match=message):
            check_model(EncoderConfig(str(model), adapter=name))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(lora, tmp_path / "retrieval_query")
    with pytest.raises(InputError, match="is one of the model and a folder here"):
        check_model(EncoderConfig(str(model), adapter="retrieval_query"))
    found = encoder(model, "./retrieval_query").encode(TEXTS)
    assert np.array_equal(found, expected)


def test_the_modules_and_prompts_of_an_adapter_replace_those_of_its_base(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    """As sentence-transformers saves a model with an adapter: all but the base's weights."""
    adapter = shutil.copytree(lora, tmp_path / "trained")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(base / name, adapter)
    module = "sentence_transformers.sentence_transformer.modules.{}"
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": module.format(kind)}
        for i, (kind, path) in enumerate(names.items())
    ]
    write(adapter / "modules.json", listed)
    write(adapter / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(adapter / "config_sentence_transformers.json", {"prompts": {"ask": "the mat "}})
    merged = tiny_adapters.merge(shutil.copytree(base, tmp_path / "merged"), lora)
    listed_there = json.loads((merged / "modules.json").read_text(encoding="utf-8"))
    write(merged / "modules.json", listed_there[:2])
    write(merged / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    expected = encoder(merged, None, prompt="the mat ").encode(TEXTS)
    found = encoder(base, adapter, prompt_name="ask")
    assert np.abs(found.encode(TEXTS) - expected).max() < 1e-6
    write(adapter / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    assert encoder(base, adapter, prompt_name="ask").fingerprint != found.fingerprint
    (adapter / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="trained: tokenizer.json"):
        encoder(base, adapter, prompt_name="ask")


def test_an_adapter_of_another_model_is_said(
    base: Path, lora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_model(EncoderConfig(str(base), adapter=str(lora)))
        assert caplog.messages == []
        other = tiny_adapters.make(tmp_path / "lora", base_model_name_or_path="Qwen/Qwen3-0.6B")
        check_model(EncoderConfig(str(base), adapter=str(other)))
    assert caplog.messages == [
        f"adapter {str(other)!r} was trained on 'Qwen/Qwen3-0.6B', and is merged into 'whole'"
    ]


def edited(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return rewrite


def with_setting(**settings: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / CONFIG, **settings)


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-20])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors"),
    "weights that are cut": (cut, "adapter_model.safetensors has .* bytes in place of"),
    "weights of no bytes": (
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        "adapter_model.safetensors is empty",
    ),
    "a pointer": (
        lambda folder: (folder / WEIGHTS).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 90868376\n"
        ),
        "adapter_model.safetensors is a git-lfs pointer",
    ),
    "no tensors": (edited(dict.clear), "adapter_model.safetensors has no tensors"),
    "a configuration that is cut": (
        lambda folder: (folder / CONFIG).write_text('{"peft'),
        "adapter_config.json is not whole JSON",
    ),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json"),
    "half of a pair": (
        edited(lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight")),
        "has no 'encoder.layer.1.attention.self.query.lora_B.weight'",
    ),
    "the other half": (
        edited(lambda tensors: tensors.pop(f"{QUERY}.lora_A.weight")),
        "has 'encoder.layer.1.attention.self.query.lora_B.weight', for which there is no place",
    ),
    "a module without its pair": (
        edited(lambda tensors: [tensors.pop(f"{QUERY}.lora_{side}.weight") for side in "AB"]),
        "no tensors for 'encoder.layer.1.attention.self.query', a module that it targets",
    ),
    "a layer that the model lacks": (
        edited(
            lambda tensors: [
                tensors.update(
                    {f"{QUERY}.lora_{side}.weight".replace("r.1", "r.2"): torch.ones(4, 4)}
                )
                for side in "AB"
            ]
        ),
        "has 'encoder.layer.2.attention.self.query', a module that the model lacks",
    ),
    "a target that the model lacks": (
        with_setting(target_modules=["query", "output.dense", "q_proj"]),
        "targets 'q_proj', but there are no tensors",
    ),
    "another rank than the file's": (with_setting(r=8), "and the rank is 8"),
    "another shape than the model's": (
        edited(lambda tensors: tensors.update({f"{QUERY}.lora_A.weight": torch.ones(4, 16)})),
        r"has 'encoder.layer.1.attention.self.query' of shapes \(4, 16\) and \(32, 4\)",
    ),
    "a module that is not linear": (
        edited(
            lambda tensors: [
                tensors.update(
                    {f"base_model.model.embeddings.LayerNorm.lora_{side}.weight": torch.ones(shape)}
                )
                for side, shape in (("A", (4, 32)), ("B", (32, 4)))
            ]
        ),
        "has 'embeddings.LayerNorm', a LayerNorm, which is not supported",
    ),
    "a whole tensor without a reason": (
        edited(lambda tensors: tensors.update({f"{QUERY}.weight": torch.ones(32, 32)})),
        "has 'encoder.layer.1.attention.self.query.weight', for which there is no place",
    ),
    "a whole tensor of another shape": (
        lambda folder: (
            change(folder / CONFIG, bias="all"),
            edited(lambda tensors: tensors.update({f"{QUERY}.bias": torch.ones(5)}))(folder),
        ),
        r"of shape \(5,\), but the model's has \(32,\)",
    ),
    "values that are not finite": (
        edited(lambda tensors: tensors[f"{QUERY}.lora_A.weight"].fill_(float("nan"))),
        "has a 'encoder.layer.1.attention.self.query.lora_A.weight' that is not finite",
    ),
    "DoRA": (with_setting(use_dora=True), "has use_dora True, which is not supported; merge it"),
    "another method": (with_setting(peft_type="IA3"), "has peft_type 'IA3', but only LORA"),
    "no method": (with_setting(peft_type=None), "has peft_type None, but only LORA"),
    "a beginning that changes the base": (
        with_setting(init_lora_weights="pissa"),
        "has init_lora_weights 'pissa', not supported",
    ),
    "replicated layers": (
        with_setting(layer_replication=[[0, 2], [1, 2]]),
        "has layer_replication .*, which is not supported",
    ),
    "a setting of a later version": (
        with_setting(use_magic=True),
        "has use_magic True, which is not supported",
    ),
    "a pattern of ranks that is not a name": (
        with_setting(rank_pattern={"(a+)+b": 4}),
        r"has '\(a\+\)\+b' in rank_pattern, not the name of a module",
    ),
    "a rank of zero": (with_setting(r=0), "has r 0, not a positive number"),
    "a scale in words": (
        with_setting(lora_alpha="8"),
        "has lora_alpha '8', not a positive number",
    ),
    "targets by number": (with_setting(target_modules=[1]), "has target_modules .*, not a list"),
    "a root in words": (with_setting(use_rslora="no"), "has use_rslora 'no', not true or false"),
    "settings that lead elsewhere": (
        with_setting(auto_mapping={"attn_implementation": "evil/kernel"}),
        "attn_implementation",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_is_refused_by_the_name_of_its_part(
    base: Path, lora: Path, tmp_path: Path, name: str
) -> None:
    adapter = shutil.copytree(lora, tmp_path / "lora")
    damage, message = DAMAGE[name]
    damage(adapter)
    with pytest.raises(InputError, match=message) as error:
        encoder(base, adapter)
    assert "\n" not in str(error.value)


def test_adapters_are_found_or_refused_by_their_names(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    beside = shutil.copytree(base, tmp_path / "beside")
    shutil.copytree(lora, beside, dirs_exist_ok=True)
    for model, adapter, message in (
        (lora, None, "the folder is an adapter of 'models/whole'; name that as model"),
        (base, tmp_path / "nothing", "no such folder; give one that exists"),
        (base, base, "the folder has no adapter_config.json"),
        (base, "lora", "adapter 'lora': no such folder"),
        (beside, None, "has the adapters|is an adapter beside the weights"),
        (beside, beside, "is an adapter beside the weights of a model; move its files"),
    ):
        with pytest.raises(InputError, match=message):
            encoder(model, adapter)
    with pytest.raises(InputError, match="adapter 3: give a folder or a name"):
        EncoderConfig("m", adapter=3)  # type: ignore[arg-type]


def test_the_launcher_refuses_what_it_can_see_without_loading(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    for name in ("no weights", "weights that are cut", "DoRA"):
        adapter = shutil.copytree(lora, tmp_path / name)
        DAMAGE[name][0](adapter)
        with pytest.raises(InputError, match=DAMAGE[name][1]):
            check_model(EncoderConfig(str(base), adapter=str(adapter)))


def test_a_cross_encoder_takes_an_adapter_and_its_head(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    """A head that was trained with the adapter stands in for one that the base lacks."""
    import transformers

    made = {
        name.replace("model.encoder", "model.bert.encoder"): one
        for name, one in tiny_adapters.tensors().items()
    }
    random = torch.Generator().manual_seed(5)
    head = {
        "bert.pooler.dense.weight": torch.randn(32, 32, generator=random) * 0.3,
        "bert.pooler.dense.bias": torch.zeros(32),
        "classifier.weight": torch.randn(1, 32, generator=random),
        "classifier.bias": torch.zeros(1),
    }
    made |= {f"base_model.model.{name}": one for name, one in head.items()}
    saved = ["classifier", "pooler.dense"]
    adapter = tiny_adapters.make(tmp_path / "adapter", made, modules_to_save=saved)
    model = shutil.copytree(base, tmp_path / "model")
    change(model / "config.json", num_labels=1, id2label={"0": "score"})
    (model / "modules.json").unlink()
    shutil.rmtree(model / "1_Pooling")
    plain = transformers.BertForSequenceClassification.from_pretrained(
        tiny_adapters.merge(shutil.copytree(model, tmp_path / "merged"), lora)
    )
    plain.load_state_dict({**plain.state_dict(), **head})
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        tokens = tokenizer(*TEXTS, return_tensors="pt")
        expected = plain(**tokens).logits.sigmoid()[0, 0]
    found = CrossEncoder.load(EncoderConfig(str(model), adapter=str(adapter), device="cpu"))
    assert abs(found.score([(TEXTS[0], TEXTS[1])])[0] - expected) < 1e-6
