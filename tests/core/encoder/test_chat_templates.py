"""Models that put texts into their chat template, compared with sentence-transformers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from beam_gpte import EncoderConfig, InputError, TextEncoder
from beam_gpte.core.encoder.chat_template import message_format, read_chat_template
from beam_gpte.core.text.chunking_tokens import TokenRuler
from tests.core.damage import change
from tests.core.scorers import tiny_rerankers
from tests.core.scorers.tiny_rerankers import WORDS

FLAT = (
    "{% for m in messages %}{% if m.role == 'system' %}rate : {{ m.content }} {% endif %}"
    "{% if m.role == 'user' %}<s> query : {{ m.content | trim }} </s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} rate : {% endif %}"
)
STRUCTURED = (
    "{% for m in messages %}<s> {% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %} </s> {% endfor %}rate"
)


def texts() -> list[str]:
    random = np.random.default_rng(0)
    lengths = (1, 4, 30, 33, 35, 36, 37, 60, 7)
    made = [" ".join(random.choice(WORDS, length)) for length in lengths]
    return [*made, "  w1 w2 ", made[1]]


def save(folder: Path, chat: str, **arguments: Any) -> str:
    """Save a model as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    torch.manual_seed(0)
    config = transformers.Qwen3Config(**tiny_rerankers.SIZE)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "plain")
    tiny_rerankers.tokenizer(chat).save_pretrained(folder / "plain")
    options = {"processing_kwargs": {"chat_template": arguments}} if arguments else {}
    transformer = Transformer(str(folder / "plain"), **options)
    pooling = Pooling(32, pooling_mode="lasttoken")
    made = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    made.prompts = {"find": "w3 w4"}
    made.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("flat"), FLAT)


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("generating"), FLAT, add_generation_prompt=True)


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("structured"), STRUCTURED)


@pytest.mark.parametrize("kind", ["flat", "generating", "structured"])
@pytest.mark.parametrize("prompt", [None, "find"])
def test_vectors_are_those_of_sentence_transformers(
    request: pytest.FixtureRequest, kind: str, prompt: str | None
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = request.getfixturevalue(kind)
    peer = SentenceTransformer(folder, device="cpu")
    assert "message" in peer[0].modality_config
    ours = TextEncoder.load(EncoderConfig(folder, prompt_name=prompt, device="cpu"))
    expected = peer.encode(texts(), prompt_name=prompt, normalize_embeddings=True, batch_size=1)
    assert np.abs(ours.encode(texts()) - expected).max() < 1e-5
    assert ours.unpadded


def test_a_long_text_is_cut_inside_its_template_and_counted(flat: str) -> None:
    encoding = TextEncoder.load(flat).encode_with_counts(["w1 " * 60, "w1 " * 36, "w1 " * 10])
    assert encoding.tokens.tolist() == [40, 40, 14]
    assert encoding.dropped.tolist() == [24, 0, 0]
    assert TokenRuler(EncoderConfig(flat)).room == 36


def test_the_text_around_is_part_of_the_fingerprint(
    flat: str, generating: str, tmp_path: Path
) -> None:
    plain, other = TextEncoder.load(flat), TextEncoder.load(generating)
    assert plain.metadata.prompt == "<s> query : {text} </s>"
    assert other.metadata.prompt == "<s> query : {text} </s> rate : "
    folder = shutil.copytree(flat, tmp_path / "model")
    assert TextEncoder.load(str(folder)).fingerprint == plain.fingerprint
    chat = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat.replace("query", "document"))
    assert TextEncoder.load(str(folder)).fingerprint != plain.fingerprint


def test_a_template_of_your_own_replaces_it(flat: str) -> None:
    given = "<s> query : {text} </s>"
    found = TextEncoder.load(EncoderConfig(flat, template=given)).encode(texts()[:3])
    assert np.abs(found - TextEncoder.load(flat).encode(texts()[:3])).max() < 1e-6


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("{{ messages[0].content | upper }}", "leaves out, repeats or changes the texts"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "leaves out, repeats or changes"),
        ("rate", "leaves out, repeats or changes the texts of the roles user"),
        ("{% if %}", "its chat template fails"),
        ("{{ raise_exception('no') }}", "its chat template fails"),
        ("{{ cycler.__init__.__globals__ }}", "its chat template fails"),
        (
            "{% for i in range(10**9) %}{% endfor %}{{ messages[0].content }}",
            "its chat template fails",
        ),
        (
            "{% if messages[0].content | length > 10 %}rate {% endif %}{{ messages[0].content }}",
            "leaves out, repeats or changes",
        ),
    ],
)
def test_templates_that_change_texts_or_fail_are_refused(
    flat: str, tmp_path: Path, chat: str, message: str
) -> None:
    folder = shutil.copytree(flat, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(chat)
    with pytest.raises(InputError, match=message) as error:
        TextEncoder.load(str(folder))
    assert "\n" not in str(error.value)


def test_texts_are_not_split_inside_a_chat_template(flat: str) -> None:
    with pytest.raises(InputError, match="has a chat template, which is for whole texts"):
        TextEncoder.load(EncoderConfig(flat, long_text="windows"))


def test_settings_of_messages_are_checked(flat: str, tmp_path: Path) -> None:
    for i, (arguments, message) in enumerate(
        (
            ({"chat_template": 5}, "has processing_kwargs chat_template 5, not an object"),
            ({"chat_template": {"tools": "x"}}, "sets 'tools' in processing_kwargs chat_template"),
            ({"chat_template": {"restore_suffix": False}}, "sets 'restore_suffix'"),
            ({"common": {"max_length": 3}}, "sets 'max_length' in processing_kwargs common"),
        )
    ):
        folder = shutil.copytree(flat, tmp_path / str(i))
        change(folder / "sentence_bert_config.json", processing_kwargs=arguments)
        with pytest.raises(InputError, match=message):
            TextEncoder.load(str(folder))


def test_the_form_of_messages_is_named_or_seen_in_the_template() -> None:
    tokenizer = tiny_rerankers.tokenizer(STRUCTURED)
    assert message_format(tokenizer, "qwen3", None) == "structured"
    assert message_format(tokenizer, "qwen3", "flat") == "flat"
    assert message_format(tokenizer, "gpt_oss", None) == "flat"
    assert message_format(tiny_rerankers.tokenizer(FLAT), "qwen3", None) == "flat"
    with pytest.raises(InputError, match="m: no chat template in its files"):
        read_chat_template(tiny_rerankers.tokenizer(None), ("user",), "", "flat", {}, "m")
