"""ReadCorpus: read files as blocks, and collect unreadable rows."""

import tempfile
from pathlib import Path

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ReadCorpus

with tempfile.TemporaryDirectory() as folder:
    Path(f"{folder}/texts.jsonl").write_text(
        '{"text": "a first text"}\nnot JSON\n{"text": "a second text"}\n'
    )
    with beam.Pipeline("FnApiRunner") as p:
        corpus, unreadable = p | ReadCorpus(f"{folder}/*.jsonl").with_exception_handling()
        rows = corpus | beam.FlatMap(
            lambda block: zip(*block.batch.to_pydict().values(), strict=True)
        )
        assert_that(
            rows,
            equal_to([("texts.jsonl:1", "a first text"), ("texts.jsonl:3", "a second text")]),
            "rows",
        )
        lines = unreadable | beam.FlatMap(lambda block: block.column("content").to_pylist())
        assert_that(lines, equal_to(["not JSON"]), "unreadable")
