"""A model with prompts for queries and for documents says so where none of them is used."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from beam_gpte import EncoderConfig
from beam_gpte.core.encoder.adapters.find import check_model
from beam_gpte.core.encoder.routes.task_prompts import task_prompt
from tests.core.damage import change

E5 = {"query": "query: ", "passage": "passage: "}


def warnings(
    whole: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    saved: dict[str, Any],
    **settings: Any,
) -> list[str]:
    shutil.copytree(whole, folder)
    change(folder / "config_sentence_transformers.json", **saved)
    with caplog.at_level(logging.WARNING, "beam_gpte"):
        for _ in range(2):
            check_model(EncoderConfig(str(folder), **settings))
    return [record.getMessage() for record in caplog.records]


def test_neither_of_two_prompts_is_said_once(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (message,) = warnings(whole, tmp_path / "model", caplog, {"prompts": E5})
    assert "has a prompt 'query' and a prompt 'passage', and none of them is used" in message


@pytest.mark.parametrize("first", ["document", "passage", "corpus"])
def test_the_prompt_of_a_task_is_the_first_that_the_model_has(first: str) -> None:
    """As `encode_document` of sentence-transformers takes it."""
    names = ["document", "passage", "corpus"]
    prompts = ["other", *reversed(names[names.index(first) :])]
    assert task_prompt("document", prompts) == first
    assert task_prompt("query", prompts) is None
    assert task_prompt("query", ["query", *prompts]) == "query"
    assert task_prompt("other", prompts) is None


@pytest.mark.parametrize(
    ("saved", "settings"),
    [
        ({"prompts": E5}, {"prompt_name": "query"}),
        ({"prompts": E5}, {"prompt": ""}),
        ({"prompts": E5}, {"template": "query: {text}"}),
        ({"prompts": E5, "default_prompt_name": "passage"}, {}),
        ({"prompts": {"query": "", "document": ""}}, {}),  # as sentence-transformers saves them
        ({"prompts": {"query": "search: ", "document": ""}}, {}),
        ({"prompts": {"query": "search: ", "classification": "class: "}}, {}),
    ],
)
def test_a_choice_or_one_prompt_alone_needs_no_warning(
    whole: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    saved: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    assert warnings(whole, tmp_path / "model", caplog, saved, **settings) == []
