"""Remove duplicates from a corpus: by text, by wording, and by meaning with a model.

    python pipelines/deduplicate_corpus.py --input 'texts/*.jsonl' --output clean --model MODEL

runs the program `beam-gpte dedup` with its flags: the pipeline below, with checks before it starts
and of the totals at its end, a summary and a report. Copy the pipeline to put your own steps
between these.
"""

import sys

from beam_gpte import (
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    ReadCorpus,
    WriteRejects,
    WriteVectorsToParquet,
)
from beam_gpte.cli.main import run_page

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning


def deduplicate_corpus(pipeline: beam.Pipeline, texts: str, model: str, output: str) -> None:
    """Add the steps to a pipeline: kept and removed rows, pairs, and rejects.

    Args:
      pipeline: to add them to.
      texts: files or globs of rows with a column `text`.
      model: hub name, folder, or URI; embeds what the first two steps keep.
      output: folder for the results.
    """
    steps = DeduplicateExact(), DeduplicateLexical(0.8), DeduplicateSemantic(0.9, model)
    rows, unreadable = pipeline | ReadCorpus(texts).with_exception_handling()
    result = rows | Deduplicate(steps).with_exception_handling()
    rejects = (unreadable, result.rejects) | beam.Flatten()
    written = rejects | WriteRejects(f"{output}/rejects")
    for name in ("kept", "removed", "pairs"):
        write = WriteVectorsToParquet(f"{output}/{name}", "mirror", commit_after=written)
        getattr(result, name) | f"Write_{name}" >> write


if __name__ == "__main__":
    run_page("dedup", sys.argv[1:])
