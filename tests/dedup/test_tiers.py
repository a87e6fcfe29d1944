"""A cheap model before a good one: each step compares the vectors of its own model."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Deduplicate, DeduplicateSemantic, InputError, StaticEncoder
from tests.core.static.models import bert, static_embedding, token_vectors

TEXTS = [f"{a} {b} {c}" for a in ("cat", "mat") for b in ("sat", "on", "the") for c in "123"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two static models of one tokenizer, of 16 and 8 dimensions."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), bert()
    cheap, good = token_vectors(tokenizer), token_vectors(tokenizer, 8)[::-1].copy()
    return (
        static_embedding(folder / "cheap", tokenizer, cheap),
        static_embedding(folder / "good", tokenizer, good),
    )


def leaders(rows: list[int], vectors: np.ndarray, threshold: float) -> list[int]:
    """Keep what is near to nothing that is kept before it."""
    kept: list[int] = []
    for row in rows:
        if not kept or float((vectors[kept] @ vectors[row]).max()) < threshold:
            kept.append(row)
    return kept


def test_a_step_of_another_model_embeds_what_is_left_again(
    new_pipeline: Callable[..., beam.Pipeline], models: tuple[str, str]
) -> None:
    cheap, good = (StaticEncoder.load(model).encode(TEXTS) for model in models)
    first = leaders(list(range(len(TEXTS))), cheap, 0.8)
    both = leaders(first, good, 0.7)
    assert len(both) < len(first) < len(TEXTS)
    assert both != leaders(first, cheap, 0.7)
    steps = DeduplicateSemantic(0.8, model=models[0]), DeduplicateSemantic(0.7, model=models[1])
    with new_pipeline() as p:
        rows = p | beam.Create([{"id": i, "text": text} for i, text in enumerate(TEXTS)])
        result = rows | Deduplicate(steps)
        kept = result.kept | beam.Map(lambda row: (row["id"], len(row["embedding"])))
        assert_that(kept, equal_to([(row, 8) for row in both]), "Kept")
        removed = result.removed | "Ids" >> beam.Map(lambda row: row["id"])
        assert_that(removed, equal_to(sorted({*range(len(TEXTS))} - {*both})), "Removed")


def test_two_models_do_not_share_a_scratch_folder(models: tuple[str, str], tmp_path: Path) -> None:
    steps = tuple(DeduplicateSemantic(0.9, model=model) for model in models)
    with pytest.raises(InputError, match="steps with two models, and scratch"):
        Deduplicate(steps, scratch=str(tmp_path))
    Deduplicate((steps[0], steps[0]), scratch=str(tmp_path))
