"""Causal language models that answer yes or no, compared with sentence-transformers and plainly.

No package has the weights of a real one.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from beam_gpte import EncoderConfig, InputError, ScoreSettings, TextEncoder
from beam_gpte.core.scorers.causal_reranker import CausalReranker
from beam_gpte.core.scorers.load_scorer import load_scorer
from beam_gpte.core.scorers.settings import TEMPLATES
from tests.core.damage import change, write
from tests.core.scorers import tiny_rerankers
from tests.core.scorers.tiny_rerankers import TEMPLATE, WORDS


def pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Make short and long pairs, some beyond the model's 40 tokens, some repeated."""
    random = np.random.default_rng(seed)
    lengths = [(1, 1), (3, 20), (20, 3), (5, 80), (17, 20), (1, 36), (3, 20), (18, 11), (18, 13)]
    made = [
        (" ".join(random.choice(WORDS, a)), " ".join(random.choice(WORDS, b))) for a, b in lengths
    ]
    return [*made, made[1], (made[1][1], made[1][0])]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_rerankers.save(tmp_path_factory.mktemp("plain"), chat=None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as sentence-transformers saves it."""
    from sentence_transformers import CrossEncoder as Peer

    folder = tmp_path_factory.mktemp("saved")
    peer = Peer(tiny_rerankers.save(folder / "plain"), device="cpu")
    peer.prompts = {"find": "w1 w2"}
    peer.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def load(folder: str | Path, template: str | None = None, **settings: Any) -> Any:
    scoring = ScoreSettings(template=template)
    config = EncoderConfig(str(folder), device="cpu", **settings)
    return load_scorer(config, settings=scoring)


@pytest.mark.parametrize("prompt", [None, "find"])
def test_scores_are_those_of_sentence_transformers(saved: Path, prompt: str | None) -> None:
    from sentence_transformers import CrossEncoder as Peer

    ours = load(saved, prompt_name=prompt)
    assert isinstance(ours, CausalReranker)
    assert ours.unpadded
    expected = Peer(str(saved), device="cpu").predict(pairs(), batch_size=1, prompt_name=prompt)
    assert expected.std() > 0.05
    assert np.abs(ours.score(pairs()) - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Gemma2", "GPTNeoX"])
def test_the_score_is_the_probability_of_yes_among_both_answers(tmp_path: Path, kind: str) -> None:
    folder = tiny_rerankers.save(tmp_path / "model", kind, chat=None)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = tiny_rerankers.tokenizer()
    expected = []
    for query, document in pairs():
        before, after = tokens.encode(f"rate <s> query : {query} document :"), [3, 6, 9]
        ids = [*before, *tokens.encode(document)][: 40 - len(after)] + after
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected.append(float(logits[[4, 5]].softmax(0)[0]))
    ours = load(folder, TEMPLATE)
    assert np.abs(ours.score(pairs()) - expected).max() < 1e-5
    assert np.std(expected) > 0.01


def test_a_long_pair_loses_its_document_and_is_counted(plain: str) -> None:
    ours = load(plain, TEMPLATE)
    long = [("w1 w2", "w3 " * 60), ("w1 w2", "w3 " * 29), ("w1 " * 60, "w2")]
    scoring = ours.score_with_counts(long)
    assert scoring.tokens.tolist() == [40, 40, 40]
    assert scoring.dropped.tolist() == [31, 0, 30]
    tokens = ours.tokenize(long)
    assert all(ids[-3:].tolist() == [3, 6, 9] for ids in tokens.ids)
    alone = np.concatenate([ours.score([pair]) for pair in pairs()])
    assert np.abs(ours.score(pairs()[::-1])[::-1] - alone).max() < 1e-6


def test_the_template_of_qwen3_is_that_of_its_page() -> None:
    text = ScoreSettings(template="qwen3-reranker").text
    assert text == TEMPLATES["qwen3-reranker"]
    assert text.startswith("<|im_start|>system\nJudge whether the Document meets the requirements")
    assert text.endswith(
        "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_other_answers_are_named(plain: str) -> None:
    turned = ScoreSettings(template=TEMPLATE, true_token="no", false_token="yes")
    ours = load_scorer(EncoderConfig(plain, device="cpu"), settings=turned)
    expected = load(plain, TEMPLATE).score(pairs())
    assert np.abs(ours.score(pairs()) - (1 - expected)).max() < 1e-6


def test_one_answer_alone_is_its_logit_through_the_activation(saved: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Peer

    folder = shutil.copytree(saved, tmp_path / "model")
    write(folder / "1_LogitScore" / "config.json", {"true_token_id": 4})
    change(
        folder / "config_sentence_transformers.json",
        activation_fn="torch.nn.modules.linear.Identity",
    )
    expected = Peer(str(folder), device="cpu").predict(pairs(), batch_size=1)
    assert np.abs(load(folder).score(pairs()) - expected).max() < 1e-4


CHANGED = tiny_rerankers.CHAT.replace("{{ m.content }} {%", "{{ m.content | upper }} {%", 2)
REFUSED: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a chat template that changes texts": (
        lambda folder: (folder / "chat_template.jinja").write_text(CHANGED),
        {},
        "its chat template leaves out, repeats or changes the texts of the roles query, document",
    ),
    "a chat template without the roles": (
        lambda folder: (folder / "chat_template.jinja").write_text(
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
        ),
        {},
        "its chat template leaves out, repeats or changes the texts",
    ),
    "a chat template that is not Jinja": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
        {},
        "its chat template fails",
    ),
    "a chat template that leaves the sandbox": (
        lambda folder: (folder / "chat_template.jinja").write_text(
            "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}"
        ),
        {},
        "its chat template (fails|leaves out)",
    ),
    "no answer": (
        lambda folder: write(folder / "1_LogitScore" / "config.json", {}),
        {},
        "1_LogitScore: config.json has no true_token_id",
    ),
    "an answer beyond the vocabulary": (
        lambda folder: write(folder / "1_LogitScore" / "config.json", {"true_token_id": 99}),
        {},
        "config.json names token 99, but the model has 60 tokens",
    ),
    "an answer in words": (
        lambda folder: write(folder / "1_LogitScore" / "config.json", {"true_token_id": "yes"}),
        {},
        "config.json has true_token_id 'yes', not a whole number",
    ),
    "other logits": (
        lambda folder: change(folder / "1_LogitScore" / "config.json", module_input_name="x"),
        {},
        "has module_input_name 'x', which is not supported",
    ),
    "no settings of the answers": (
        lambda folder: (folder / "1_LogitScore" / "config.json").unlink(),
        {},
        "1_LogitScore: config.json is missing",
    ),
    "arguments of the tokenizer": (
        lambda folder: change(
            folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 8}}
        ),
        {},
        "sets 'max_length' in processing_kwargs text, which is not supported",
    ),
    "another chat template by an argument": (
        lambda folder: change(
            folder / "sentence_bert_config.json",
            processing_kwargs={"chat_template": {"chat_template": "{{ x }}"}},
        ),
        {},
        "sets 'chat_template' in processing_kwargs chat_template",
    ),
    "a limit below the template": (
        lambda folder: None,
        {"max_tokens": 9},
        "the template alone takes 8 of 9 tokens",
    ),
    "weights that are missing": (
        lambda folder: (folder / "model.safetensors").unlink(),
        {},
        "no safetensors weights",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_reranker_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    damage, settings, message = REFUSED[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        load(folder, **settings)
    assert "\n" not in str(error.value)


def test_mistakes_are_reported(plain: str, saved: Path) -> None:
    for make, message in (
        (lambda: load(plain), "without a chat template; give the text around a pair"),
        (lambda: load(plain, TEMPLATE, prompt="w1"), "template and a prompt: write the prompt"),
        (lambda: ScoreSettings(template="{query}"), "it needs {query} and {document}, once each"),
        (lambda: ScoreSettings(template="{document} {query}"), "put {query} before {document}"),
        (lambda: ScoreSettings(true_token="yes"), "true_token and false_token: give both"),
        (lambda: ScoreSettings(label=""), "label '': give a text"),
        (
            lambda: CausalReranker.load(plain, settings=ScoreSettings(label="good")),
            "is a causal language model; leave it out",
        ),
        (
            lambda: CausalReranker.load(plain, settings=ScoreSettings(TEMPLATE, "w1 w2", "no")),
            "the answer 'w1 w2' is not one token of the model",
        ),
        (
            lambda: TextEncoder.load(EncoderConfig(str(saved), pooling="last", template="{text}")),
            "a LogitScore scores pairs; use the model in Rerank",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make()
