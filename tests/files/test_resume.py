"""Vectors of a killed run are found in object stores, too, and removed once a run has committed."""

import os

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import EmbedText, WriteVectorsToParquet
from beam_gpte.core.encoder.custom_encoder import CustomEncoder
from beam_gpte.sinks.runs import computed_vectors
from beam_gpte.sinks.runs.computed_vectors import ComputedVectors
from tests.examples import WordEncoder
from tests.files.stores import Store

TEXTS = ["a cat", "a dog", "a cow"]


class Refuses(WordEncoder):
    """Be the encoder of a killed run, which has no text left to embed but one."""

    def encode(self, texts: list[str]) -> np.ndarray:
        assert not {"a cat", "a dog"}.intersection(texts)
        return super().encode(texts)


def test_a_run_into_a_store_is_resumed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed_vectors, "MAX_BYTES", 0)
    output = f"{store.url}/resumed"
    killed = f".beam-gpte-tmp-parquet-{0:012d}-{'0' * 8}-{os.getpid()}-{'a' * 32}"
    encoder = CustomEncoder(WordEncoder())
    kept = ComputedVectors([f"{output}/{killed}"], encoder.metadata)
    encoder.encode_with_counts(TEXTS[:2], kept)
    left = store.names(f"resumed/{killed}")
    assert len(left) == 2
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        rows = pipeline | beam.Create([{"id": text, "text": text} for text in TEXTS])
        rows | EmbedText(Refuses()) | WriteVectorsToParquet(output)
    assert [name.rpartition("/")[0] for name in store.names("resumed/")] == ["resumed"]
