"""WatchCorpus: read each file that appears in a folder once, until a stop file exists."""

import tempfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Polling, WatchCorpus

with tempfile.TemporaryDirectory() as folder:
    Path(f"{folder}/texts.jsonl").write_text(
        '{"text": "a first text"}\n{"text": "a second text"}\n'
    )
    Path(f"{folder}/stop").touch()
    p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
    polling = Polling(interval=1, stop=f"{folder}/stop")
    corpus = p | WatchCorpus(f"{folder}/*.jsonl", polling=polling)
    rows = corpus | beam.FlatMap(lambda block: zip(*block.batch.to_pydict().values(), strict=True))
    assert_that(
        rows, equal_to([("texts.jsonl:1", "a first text"), ("texts.jsonl:2", "a second text")])
    )
    p.run().wait_until_finish()
