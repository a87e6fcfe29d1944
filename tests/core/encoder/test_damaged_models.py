"""A model of which a part is missing or damaged is refused by the name of the file, or is right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.adapters.find import check_model
from tests.core.damage import POINTER, Change, all_of, change, cut, put, remove, set_in, write
from tests.core.encoder import whole_model
from tests.core.encoder.whole_model import TEXTS


def shard(folder: Path, position: int = 0) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[position]


def edit_shard(edit: Callable[[dict], object]) -> Change:
    def rewrite(folder: Path) -> None:
        weights = load_file(shard(folder))
        edit(weights)
        save_file(weights, shard(folder))

    return rewrite


def one_file(edit: Callable[[dict], object]) -> Change:
    """Put all weights into model.safetensors, without an index, after an edit."""

    def merge(folder: Path) -> None:
        weights: dict = {}
        for path in folder.glob("model-*.safetensors"):
            weights |= load_file(path)
            path.unlink()
        (folder / "model.safetensors.index.json").unlink()
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return merge


def _index(folder: Path, tensor: str, name: str) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["weight_map"][tensor] = name
    write(path, index)


def _modules(folder: Path, *paths: str) -> None:
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write(folder / "modules.json", [entry for entry in listed if entry["path"] in paths])


LAYER = "encoder.layer.1.attention.self.query"
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")
DAMAGE: dict[str, tuple[Change, str]] = {
    "no vocabulary": (remove(*VOCABULARY_FILES), "tokenizer.json is missing"),
    "no tokenizer file at all": (
        remove(*VOCABULARY_FILES, "tokenizer_config.json", "special_tokens_map.json"),
        "tokenizer.json is missing",
    ),
    "a tokenizer.json that is cut": (cut("tokenizer.json"), "tokenizer.json"),
    "a vocabulary that is cut": (
        all_of(remove("tokenizer.json"), cut("vocab.txt", 0.3)),
        "vocab.txt is cut",
    ),
    "an empty vocabulary": (
        all_of(remove("tokenizer.json"), put("vocab.txt", "")),
        "vocab.txt is empty",
    ),
    "vocab.json without merges.txt": (
        all_of(remove(*VOCABULARY_FILES), put("vocab.json", '{"a": 0}')),
        "merges.txt is missing",
    ),
    "a pointer for vocab.txt": (put("vocab.txt", POINTER), "vocab.txt is a git-lfs pointer"),
    "a pointer for tokenizer.json": (
        put("tokenizer.json", POINTER),
        "tokenizer.json is a git-lfs pointer",
    ),
    "a pointer for a shard": (
        lambda folder: shard(folder).write_text(POINTER),
        "model-00001-of-.*safetensors is a git-lfs pointer",
    ),
    "a shard that is cut": (
        lambda folder: cut(shard(folder).name, 0.9)(folder),
        "model-00001-of-.*safetensors has .* bytes in place of",
    ),
    "a shard of a few bytes": (
        lambda folder: shard(folder).write_bytes(b"\x00\x01"),
        "model-00001-of-.*safetensors",
    ),
    "a shard with more behind it": (
        lambda folder: shard(folder).write_bytes(shard(folder).read_bytes() + b"more"),
        "model-00001-of-.*safetensors has .* bytes in place of",
    ),
    "no first shard": (lambda folder: shard(folder).unlink(), "model-00001-of-.* is missing"),
    "no last shard": (lambda folder: shard(folder, -1).unlink(), "model-.* is missing"),
    "no index of the shards": (
        remove("model.safetensors.index.json"),
        "model.safetensors.index.json is missing",
    ),
    "an index that is cut": (
        cut("model.safetensors.index.json"),
        "model.safetensors.index.json is not whole JSON",
    ),
    "an index that names another tensor": (
        lambda folder: _index(folder, "encoder.layer.9.weight", shard(folder).name),
        "model-00001-of-.*lacks 'encoder.layer.9.weight'",
    ),
    "a shard that lacks a tensor": (
        edit_shard(lambda weights: weights.pop(min(weights))),
        "model-00001-of-.*lacks",
    ),
    "one file that lacks a tensor": (
        one_file(lambda weights: weights.pop(f"{LAYER}.weight")),
        f"1 weights are missing, '{LAYER}.weight'",
    ),
    "a layer more than the configuration": (
        set_in("config.json", num_hidden_layers=1),
        "config.json has no place for 16 weights of the checkpoint, 'encoder.layer.1.att",
    ),
    "a layer less than the configuration": (
        set_in("config.json", num_hidden_layers=3),
        "16 weights are missing",
    ),
    "adapter weights in the checkpoint": (
        one_file(lambda w: w.update({f"{LAYER}.lora_A.weight": w[f"{LAYER}.weight"].clone()})),
        "config.json has no place for 1 weights of the checkpoint",
    ),
    "an adapter beside the weights": (
        put("adapter_config.json", '{"peft_type": "LORA"}'),
        "adapter_config.json is an adapter beside the weights",
    ),
    "another size of the vocabulary": (set_in("config.json", vocab_size=999), "config.json"),
    "another hidden size": (set_in("config.json", hidden_size=64), "config.json"),
    "heads that do not divide": (set_in("config.json", num_attention_heads=5), "config.json"),
    "an unknown model type": (set_in("config.json", model_type="birt"), "config.json"),
    "a configuration that is cut": (cut("config.json"), "config.json is not whole JSON"),
    "no configuration": (remove("config.json"), "config.json is missing"),
    "a list as configuration": (put("config.json", "[]"), "config.json holds a list"),
    "tokenizer settings that are cut": (
        cut("tokenizer_config.json"),
        "tokenizer_config.json is not whole JSON",
    ),
    "special tokens that are cut": (
        cut("special_tokens_map.json"),
        "special_tokens_map.json is not whole JSON",
    ),
    "an end token that the model has no row for": (
        set_in("special_tokens_map.json", sep_token="[END]"),
        "tokenizer.json has token 1",
    ),
    "no modules.json": (remove("modules.json"), "modules.json is missing"),
    "a modules.json that is cut": (cut("modules.json"), "modules.json is not whole JSON"),
    "no modules in modules.json": (put("modules.json", "[]"), "modules.json lists no modules"),
    "a module without a path": (
        put("modules.json", '[{"type": "sentence_transformers.models.Transformer"}]'),
        "modules.json has an entry without path",
    ),
    "modules without a Pooling": (
        lambda folder: _modules(folder, "", "3_Normalize"),
        "modules.json names no Pooling",
    ),
    "a Dense before the Pooling": (
        lambda folder: write(
            folder / "modules.json",
            [
                {"path": path, "type": f"{whole_model.PACKAGE}.{kind}"}
                for kind, path in (("Transformer", ""), ("Dense", "2_Dense"), ("Pooling", "1_P"))
            ],
        ),
        "1_P: config.json is missing",
    ),
    "no folder of the Pooling": (
        lambda folder: shutil.rmtree(folder / "1_Pooling"),
        "1_Pooling: config.json is missing",
    ),
    "no configuration of the Pooling": (
        remove("1_Pooling/config.json"),
        "1_Pooling: config.json is missing",
    ),
    "an unknown pooling": (
        put("1_Pooling/config.json", '{"pooling_mode": "attention"}'),
        "1_Pooling: config.json names the pooling mode 'attention'",
    ),
    "an unknown pooling by its key": (
        set_in("1_Pooling/config.json", pooling_mode_attention_tokens=True),
        "1_Pooling: config.json names the pooling mode 'pooling_mode_attention_tokens'",
    ),
    "no pooling turned on": (
        set_in("1_Pooling/config.json", pooling_mode_cls_token=False),
        "1_Pooling: config.json turns no pooling mode on",
    ),
    "no configuration of the Dense": (
        remove("2_Dense/config.json"),
        "2_Dense: config.json is missing",
    ),
    "a Dense of no size": (put("2_Dense/config.json", "{}"), "2_Dense: config.json has in_feat"),
    "a Dense whose size is true": (
        set_in("2_Dense/config.json", out_features=True),
        "2_Dense: config.json has out_features True",
    ),
    "a Dense of a size beyond all numbers": (
        set_in("2_Dense/config.json", out_features=1 << 62),
        "2_Dense: config.json has out_features 4611686018427387904",
    ),
    "a Dense of another size": (
        set_in("2_Dense/config.json", out_features=8),
        "2_Dense: model.safetensors does not agree with config.json",
    ),
    "a Dense that does not fit the model": (
        lambda folder: (
            change(folder / "2_Dense" / "config.json", in_features=8),
            save_file(
                {
                    "linear.weight": load_file(folder / "2_Dense" / "model.safetensors")[
                        "linear.weight"
                    ][:, :8].clone(),
                    "linear.bias": load_file(folder / "2_Dense" / "model.safetensors")[
                        "linear.bias"
                    ],
                },
                folder / "2_Dense" / "model.safetensors",
            ),
        ),
        "modules.json names modules that do not fit together",
    ),
    "no weights of the Dense": (remove("2_Dense/model.safetensors"), "no model.safetensors"),
    "weights of the Dense that are cut": (
        cut("2_Dense/model.safetensors"),
        "2_Dense: model.safetensors has",
    ),
    "a pointer for the Dense": (
        put("2_Dense/model.safetensors", POINTER),
        "2_Dense: model.safetensors is a git-lfs pointer",
    ),
    "limits that are cut": (
        cut("sentence_bert_config.json"),
        "sentence_bert_config.json is not whole JSON",
    ),
    "a limit in words": (
        set_in("sentence_bert_config.json", max_seq_length="48"),
        "sentence_bert_config.json has max_seq_length '48'",
    ),
    "a default prompt that is a list": (
        set_in("config_sentence_transformers.json", default_prompt_name=["query"]),
        "config_sentence_transformers.json has default_prompt_name .*, not a text",
    ),
    "prompts in a list": (
        set_in("config_sentence_transformers.json", prompts=[["query", "query: "]]),
        "config_sentence_transformers.json has prompts .*, not an object",
    ),
    "a pooling in a list of lists": (
        put("1_Pooling/config.json", '{"pooling_mode": [["cls"]]}'),
        "1_Pooling: config.json names the pooling mode",
    ),
    "a pooling turned off in words": (
        set_in("1_Pooling/config.json", pooling_mode_cls_token="false"),
        "1_Pooling: config.json has pooling_mode_cls_token 'false', not true or false",
    ),
    "a prompt left out in words": (
        set_in("1_Pooling/config.json", include_prompt="false"),
        "1_Pooling: config.json has include_prompt 'false', not true or false",
    ),
    "a bias in words": (
        set_in("2_Dense/config.json", bias="no"),
        "2_Dense: config.json has bias 'no', not true or false",
    ),
    "arguments in a list": (
        set_in("sentence_bert_config.json", model_args=[{"dtype": 1}]),
        "sentence_bert_config.json has model_args .*, not an object",
    ),
    "modalities by number": (
        set_in("sentence_bert_config.json", modality_config=5),
        "sentence_bert_config.json has modality_config 5, not an object",
    ),
    "lower case in words": (
        set_in("sentence_bert_config.json", do_lower_case="no"),
        "sentence_bert_config.json has do_lower_case 'no', not true or false",
    ),
    "a limit that is true": (
        set_in("sentence_bert_config.json", max_seq_length=True),
        "sentence_bert_config.json has max_seq_length True",
    ),
    "arguments that nobody reads": (
        set_in("sentence_bert_config.json", tokenizer_args={"do_lower_case": False}),
        "sentence_bert_config.json sets 'do_lower_case' in tokenizer_args",
    ),
    "a default prompt that is not there": (
        set_in("config_sentence_transformers.json", default_prompt_name="passage"),
        "config_sentence_transformers.json has default_prompt_name 'passage'",
    ),
    "prompts that are cut": (
        cut("config_sentence_transformers.json"),
        "config_sentence_transformers.json is not whole JSON",
    ),
}

# What a model may lack, or have more of.
HARMLESS: dict[str, Change] = {
    "nothing": lambda folder: None,
    "no vocab.txt beside tokenizer.json": remove("vocab.txt"),
    "no tokenizer.json beside vocab.txt": remove("tokenizer.json"),
    "no special_tokens_map.json": remove("special_tokens_map.json"),
    "no prompts": remove("config_sentence_transformers.json"),
    "a pointer for the page about the model": put("README.md", POINTER),
    "an empty file of the training": put("train_script.py", ""),
    "the heads of the training": one_file(
        lambda weights: weights.update({"cls.predictions.bias": weights[f"{LAYER}.bias"].clone()})
    ),
    "pooling as later versions write it": put(
        "1_Pooling/config.json", '{"embedding_dimension": 32, "pooling_mode": ["cls"]}'
    ),
    "arguments that change no vector": set_in(
        "sentence_bert_config.json", model_args={"attn_implementation": "eager"}
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused_by_the_name_of_the_file(
    whole: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        TextEncoder.load(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_no_vector_needs_may_be_missing(
    whole: Path, whole_vectors: np.ndarray, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    HARMLESS[name](folder)
    check_model(EncoderConfig(str(folder)))
    assert np.abs(TextEncoder.load(str(folder)).encode(TEXTS) - whole_vectors).max() < 1e-6


def test_the_launcher_refuses_what_it_can_see_without_loading(whole: Path, tmp_path: Path) -> None:
    for name in ("no last shard", "an unknown pooling", "an adapter beside the weights"):
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        DAMAGE[name][0](folder)
        with pytest.raises(InputError, match=DAMAGE[name][1]):
            check_model(EncoderConfig(str(folder)))


def test_a_pooling_by_argument_replaces_one_that_the_model_lacks(
    whole: Path, whole_vectors: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    _modules(folder, "", "2_Dense", "3_Normalize")
    found = TextEncoder.load(EncoderConfig(str(folder), pooling="cls")).encode(TEXTS)
    assert np.abs(found - whole_vectors).max() < 1e-6


def test_a_real_model_without_its_parts_is_refused(minilm: str, tmp_path: Path) -> None:
    for missing, message in (
        (("tokenizer.json", "vocab.txt"), "tokenizer.json is missing"),
        (("1_Pooling/config.json",), "1_Pooling: config.json is missing"),
        (("modules.json",), "modules.json is missing"),
        (("config.json",), "config.json is missing"),
    ):
        folder = tmp_path / missing[0].replace("/", " ")
        shutil.copytree(minilm, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
        remove(*missing)(folder)
        with pytest.raises(InputError, match=message):
            TextEncoder.load(str(folder))
