"""Embed a corpus: read files of texts, write Parquet files and a DuckDB table with vectors.

    python pipelines/embed_corpus.py --input 'texts/*.jsonl' --output vectors --model MODEL

runs the program `beam-gpte embed` with its flags: the pipeline below, with checks before it starts,
progress, a summary and a report. Copy the pipeline to put your own steps between these.
"""

import sys

from beam_gpte import (
    EmbedText,
    ReadCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.main import run_page

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning


def embed_corpus(pipeline: beam.Pipeline, texts: str, model: str, output: str) -> None:
    """Add the steps to a pipeline: vectors, and rejected rows with their reasons.

    Args:
      pipeline: to add them to.
      texts: files or globs of rows with a column `text`.
      model: hub name, folder, or URI.
      output: folder for the results.
    """
    corpus, unreadable = pipeline | ReadCorpus(texts).with_exception_handling()
    vectors, refused = corpus | EmbedText(model).with_exception_handling()
    rejects = (unreadable, refused) | beam.Flatten()
    written = rejects | WriteRejects(f"{output}/rejects")
    vectors | WriteVectorsToParquet(output, commit_after=written)
    vectors | WriteVectorsToDuckDB(f"{output}.duckdb", commit_after=written)


if __name__ == "__main__":
    run_page("embed", sys.argv[1:])
