"""The quality of translations, as a column beside what pairs have."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, EncoderConfig, InputError, ScoreTranslations
from beam_gpte.core.scorers.quality_estimator import QualityEstimator
from tests.core.scorers import tiny_estimators
from tests.embedding.test_rerank import pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_estimators.save(tmp_path_factory.mktemp("kiwi") / "model")


def test_pairs_get_their_quality_in_several_processes_and_bad_ones_are_collected(
    folder: str,
) -> None:
    rows = [
        {"source_text": a, "target_text": b, "margin": i / 10, "n": i}
        for i, (a, b) in enumerate(pairs())
    ]
    bad = [{"source_text": None, "target_text": "w1"}, {"source_text": "w1", "target_text": " "}]
    expected = QualityEstimator.load(EncoderConfig(folder, device="cpu")).score(pairs()).tolist()
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        made = p | beam.Create([*rows, *bad])
        scored, rejects = made | ScoreTranslations(folder).with_exception_handling()
        equal = scored | beam.Map(
            lambda row: (row["n"], row["margin"], abs(row["quality"] - expected[row["n"]]) < 1e-6)
        )
        assert_that(equal, equal_to([(n, n / 10, True) for n in range(len(rows))]), label="Scores")
        reasons = rejects | beam.Map(lambda row: (row["reject_step"], row["reject_reason"]))
        wanted = ["source_text is null", "target_text is blank"]
        named = [("ScoreTranslations", reason) for reason in wanted]
        assert_that(reasons, equal_to(named), label="Rejects")


def test_columns_are_named_by_its_own_settings(
    new_pipeline: Callable[..., beam.Pipeline], folder: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="source_column and target_column are both 'a'"):
        ScoreTranslations("m", "a", "a")
    with pytest.raises(InputError, match="pooling 'cls': a cross-encoder supports only"):
        ScoreTranslations(EncoderConfig("m", pooling="cls"))
    block = Block.from_pydict({"source_text": ["w1"], "other": ["w2"]})
    message = "ScoreTranslations: no column 'target_text' among .* by source_column or target_col"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([block]).with_output_types(Block) | ScoreTranslations(folder)
