"""EmbedText with reuse: a text that has not changed is not embedded again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import Block, EmbedText, EncoderConfig, InputError, WriteVectorsToParquet
from beam_gpte.cli.runtime import counters
from tests.conftest import MODES
from tests.examples import LengthEncoder


def run(
    pipeline: beam.Pipeline, texts: list[str], out: Path, model: Any, **settings: Any
) -> tuple[dict[str, int], pa.Table]:
    block = Block.from_pydict({"id": list(range(len(texts))), "text": texts})
    blocks = pipeline | beam.Create([block.slice(0, 2), block.slice(2)]).with_output_types(Block)
    blocks | EmbedText(model, **settings) | WriteVectorsToParquet(str(out))
    result = pipeline.run()
    result.wait_until_finish()
    table = pa.concat_tables(map(pq.read_table, sorted(out.glob("*.parquet")))).sort_by("id")
    return counters(result), table


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_embeds_only_what_is_new(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str, tmp_path: Path, mode: str
) -> None:
    first, _ = run(new_pipeline(), ["one", "two", "three", "two"], tmp_path / "a", minilm)
    assert first.get("texts_reused", 0) == 0
    second, new = run(
        new_pipeline(mode),
        ["zero", "two", "four", "one", "one"],
        tmp_path / "b",
        minilm,
        reuse=str(tmp_path / "a"),
    )
    assert (second["texts"], second["texts_reused"]) == (2, 3)
    _, expected = run(new_pipeline(), ["zero", "two", "four", "one", "one"], tmp_path / "c", minilm)
    assert new.column("text").to_pylist() == expected.column("text").to_pylist()
    assert new.schema.field("embedding").equals(
        expected.schema.field("embedding"), check_metadata=True
    )
    found, correct = (
        np.array(table.column("embedding").to_pylist(), np.float32) for table in (new, expected)
    )
    assert np.abs(found - correct).max() < 1e-6


def test_a_run_may_reuse_the_folder_that_it_replaces(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    run(new_pipeline(), ["a", "bb", "ccc"], tmp_path, LengthEncoder())
    count, table = run(
        new_pipeline(), ["a", "bb", "dddd"], tmp_path, LengthEncoder(), reuse=str(tmp_path)
    )
    assert (count["texts"], count["texts_reused"]) == (1, 2)
    assert table.column("embedding").to_pylist() == [[1, 1], [1, 2], [1, 4]]


def test_vectors_of_other_settings_are_not_reused(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str, tmp_path: Path
) -> None:
    run(new_pipeline(), ["one", "two"], tmp_path / "a", minilm)
    config = EncoderConfig(minilm, prompt="query: ")
    count, _ = run(
        new_pipeline(), ["one", "two"], tmp_path / "b", config, reuse=str(tmp_path / "a")
    )
    assert (count["texts"], count.get("texts_reused", 0)) == (2, 0)


def test_files_that_cannot_be_reused_are_refused(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": ["a"], "embedding": [[1.0, 2.0]]}), tmp_path / "plain.parquet")
    with pytest.raises(InputError, match="does not name the model that made it"):
        run(new_pipeline(), ["a"], tmp_path / "out", LengthEncoder(), reuse=str(tmp_path))
    with pytest.raises(InputError, match="no file matches"):
        run(
            new_pipeline(),
            ["a"],
            tmp_path / "out",
            LengthEncoder(),
            reuse=str(tmp_path / "nothing"),
        )
