"""A text becomes the vector its model gives it, whatever its neighbours and however it is batched."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.batching import sorted_batches
from beam_gpte.core.encoder.pooling import pool
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata

LONG = "word " * 600


def variant(minilm: str, folder: Path, **files: dict) -> str:
    """A copy of the model with some JSON files replaced; the weights are linked."""
    shutil.copytree(minilm, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".json")
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(content))
    return str(folder)


def test_vectors_equal_those_of_sentence_transformers(
    minilm: str, encoder: TextEncoder, stsb: list[tuple[str, str, float]]
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = (
        [pair[0] for pair in stsb][:980]
        + [LONG, "A", "ä" * 50, "日本語のテキスト", "x\ny\tz"]
        + [pair[1] for pair in stsb][:15]
    )
    theirs = sentence_transformers.SentenceTransformer(minilm, device="cpu").encode(texts)
    assert len(texts) == 1000
    assert (encoder.encode(texts) * theirs).sum(1).min() >= 0.999999


def test_a_bert_runs_without_padding(encoder: TextEncoder) -> None:
    assert encoder.unpadded
    encoding = encoder.encode_with_counts(["short", "a little longer", LONG])
    assert encoding.computed == encoding.needed == sum(encoding.tokens)


def test_published_quality_is_reached(
    encoder: TextEncoder, stsb: list[tuple[str, str, float]]
) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    a, b = (encoder.encode([pair[i] for pair in stsb]) for i in (0, 1))
    rho = scipy_stats.spearmanr((a * b).sum(1), [pair[2] for pair in stsb]).statistic
    assert 100 * rho == pytest.approx(82.03, abs=0.05)


def test_a_vector_does_not_depend_on_neighbours_order_or_budget(
    minilm: str, encoder: TextEncoder, stsb: list[tuple[str, str, float]]
) -> None:
    texts = [pair[0] for pair in stsb[:60]] + [LONG]
    together = encoder.encode(texts)
    assert np.abs(together - np.vstack([encoder.encode([text]) for text in texts])).max() < 1e-5
    assert np.abs(together - encoder.encode(texts[::-1])[::-1]).max() < 1e-5
    tight = TextEncoder.load(EncoderConfig(minilm, token_budget=64))
    assert np.abs(together - tight.encode(texts)).max() < 1e-5
    assert tight.fingerprint == encoder.fingerprint


def test_many_texts_are_tokenised_some_at_a_time(
    encoder: TextEncoder, stsb: list[tuple[str, str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [pair[0] for pair in stsb[:40]] + ["", LONG, stsb[0][0]]
    expected = encoder.encode_with_counts(texts)
    monkeypatch.setattr("beam_gpte.core.encoder.text_encoder.TEXTS_AHEAD", 7)
    found = encoder.encode_with_counts(texts)
    for field in dataclasses.fields(expected):
        assert np.array_equal(getattr(found, field.name), getattr(expected, field.name)), field.name


def test_fp16_is_refused_on_a_cpu(minilm: str) -> None:
    with pytest.raises(InputError, match="precision 'fp16' is for a GPU"):
        TextEncoder.load(EncoderConfig(minilm, precision="fp16", device="cpu"))


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_tokens_and_truncation_are_counted(encoder: TextEncoder) -> None:
    encoding = encoder.encode_with_counts(["hello world", LONG, "hello world"])
    assert encoding.text.tolist() == [0, 1, 2]
    assert encoding.tokens.tolist() == [4, 256, 4]  # [CLS] hello world [SEP]; the model's limit
    assert encoding.dropped.tolist() == [0, 600 - 254, 0]
    assert encoding.distinct == 2
    assert encoding.needed == 260


def test_texts_that_are_the_same_to_the_model_are_run_once(encoder: TextEncoder) -> None:
    encoding = encoder.encode_with_counts(["Hello  World", "hello world", "HELLO WORLD "])
    assert encoding.distinct == 1
    assert (encoding.vectors[0] == encoding.vectors[1]).all()


@pytest.mark.parametrize(
    "pooling", ["cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last"]
)
def test_explicit_pooling_is_the_plain_formula(minilm: str, pooling) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(minilm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    with torch.inference_mode():
        hidden = model(**tokenizer("three plain words", return_tensors="pt")).last_hidden_state[0]
    weights = torch.arange(1, len(hidden) + 1).unsqueeze(1)
    expected = {
        "cls": hidden[0],
        "mean": hidden.mean(0),
        "max": hidden.max(0).values,
        "mean_sqrt_len": hidden.sum(0) / len(hidden) ** 0.5,
        "weighted_mean": (hidden * weights).sum(0) / weights.sum(),
        "last": hidden[-1],
    }[pooling]
    ours = TextEncoder.load(EncoderConfig(minilm, pooling=pooling)).encode(
        ["three plain words", LONG]
    )[0]
    assert np.abs(ours - torch.nn.functional.normalize(expected, dim=0).numpy()).max() < 1e-6


def test_spans_of_texts_are_pooled() -> None:
    hidden = torch.tensor([[1.0], [2.0], [4.0], [8.0], [5.0]])
    offsets = torch.tensor([0, 4, 5])
    spans = torch.tensor([[0, 2, 4], [1, 0, 1], [0, 0, 2]])  # text, first token, end
    assert pool(hidden, offsets, ("mean",), spans).tolist() == [[6.0], [5.0], [1.5]]
    assert pool(hidden, offsets, ("cls", "last"), spans).tolist() == [
        [4.0, 8.0],
        [5.0, 5.0],
        [1.0, 2.0],
    ]
    weighted = pool(
        hidden, offsets, ("weighted_mean",), spans
    )  # the third and fourth token weigh 3 and 4
    assert weighted[0].item() == pytest.approx((3 * 4 + 4 * 8) / 7)
    assert pool(hidden, offsets, ("max",)).tolist() == [[8.0], [5.0]]


def test_matryoshka_truncation_normalises_again(minilm: str, encoder: TextEncoder) -> None:
    short = TextEncoder.load(EncoderConfig(minilm, truncate_dim=64)).encode(["a text"])
    cut = encoder.encode(["a text"])[:, :64]
    assert np.abs(short - cut / np.linalg.norm(cut)).max() < 1e-6
    assert np.linalg.norm(cut) < 0.8


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
    parts = [
        body,
        models.Pooling(384),
        models.Dense(384, 16),
        models.LayerNorm(16),
        models.Normalize(),
    ]
    model = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    model.save(str(tmp_path / "dense"))
    ours = TextEncoder.load(str(tmp_path / "dense"))
    assert ours.dim == 16
    assert np.abs(ours.encode(["a text", LONG]) - model.encode(["a text", LONG])).max() < 1e-6


def test_unknown_modules_are_refused_by_name(minilm: str, tmp_path: Path) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1",
            "type": "sentence_transformers.models.WeightedLayerPooling",
        },
    ]
    with pytest.raises(
        InputError, match=r"module 'sentence_transformers\.models\.WeightedLayerPooling'"
    ):
        TextEncoder.load(variant(minilm, tmp_path / "model", modules=modules))


def test_a_model_that_wants_a_chat_template_is_not_run_without_one(
    minilm: str, tmp_path: Path
) -> None:
    how = {"method": "forward", "method_output_name": "last_hidden_state"}
    settings = {
        "max_seq_length": 256,
        "modality_config": {"text": how, "message": {**how, "format": "flat"}},
    }
    folder = variant(minilm, tmp_path / "model", sentence_bert_config=settings)
    with pytest.raises(InputError, match="puts texts into its chat template"):
        TextEncoder.load(folder)
    assert TextEncoder.load(EncoderConfig(folder, template="user: {text}", pooling="mean")).encode(
        ["a"]
    ).shape == (1, 384)


def test_a_plain_transformers_folder_is_pooled_by_mean(
    minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ):
        (folder / name).symlink_to(Path(minilm) / name)
    plain = TextEncoder.load(str(folder))
    assert np.abs(plain.encode(["some text"]) - encoder.encode(["some text"])).max() < 1e-6
    assert plain.encode_with_counts([LONG]).tokens.tolist() == [512]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": " "}, "give a hub name or a folder"),
        ({"model": "m", "pooling": "mode"}, "pooling 'mode': choose auto, cls, mean"),
        (
            {"model": "m", "prompt": "q: ", "prompt_name": "query"},
            "prompt .* and prompt_name .*: give one of them",
        ),
        ({"model": "m", "truncate_dim": 0}, "truncate_dim 0: give a positive whole number"),
    ],
)
def test_wrong_settings_are_refused_at_once(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        EncoderConfig(**arguments)


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
    def fingerprint(**settings):
        return TextEncoder.load(EncoderConfig(minilm, **settings)).fingerprint

    same = [
        encoder.fingerprint,
        fingerprint(token_budget=100),
        fingerprint(pooling="mean", prompt=""),
    ]
    same.append(TextEncoder.load(variant(minilm, tmp_path / "elsewhere")).fingerprint)
    assert len(set(same)) == 1
    other = [
        fingerprint(pooling="cls"),
        fingerprint(prompt="q: "),
        fingerprint(truncate_dim=64),
        fingerprint(max_tokens=9),
    ]
    assert len({*same, *other}) == 5


def test_metadata_travels_in_the_arrow_field(encoder: TextEncoder) -> None:
    field = encoder.metadata.field("embedding")
    assert field.type == pa.list_(pa.float32(), 384)
    assert vector_metadata(field) == encoder.metadata
    assert vector_metadata(pa.field("other", pa.int64())) is None


def test_vectors_of_two_kinds_are_refused_with_the_difference_named() -> None:
    here = VectorMetadata("a/model", "f1", "mean", "", 384, True)
    check_same_vectors(here, dataclasses.replace(here, model="/another/folder"), "folder x")
    with pytest.raises(
        InputError,
        match="folder x: vectors of 384 and 768 dimensions; embed both with the same model",
    ):
        check_same_vectors(here, dataclasses.replace(here, dim=768), "folder x")
    with pytest.raises(InputError, match=r"fingerprints f1 and f2 \(prompt '' and 'query: '\)"):
        check_same_vectors(
            here, dataclasses.replace(here, fingerprint="f2", prompt="query: "), "folder x"
        )


def test_batches_are_sorted_by_length_and_cut_by_the_budget() -> None:
    lengths = np.array([3, 50, 4, 4, 200, 1])
    padded = sorted_batches(lengths, token_budget=100, padded=True)
    assert [batch.tolist() for batch in padded] == [[4], [1, 2], [3, 0, 5]]  # 200; 2 x 50; 3 x 4
    unpadded = sorted_batches(lengths, token_budget=58, padded=False)
    assert [batch.tolist() for batch in unpadded] == [
        [4],
        [1, 2, 3],
        [0, 5],
    ]  # 200; 50 + 4 + 4; 3 + 1
    assert sorted_batches(np.array([], dtype=int), 10, padded=True) == []
