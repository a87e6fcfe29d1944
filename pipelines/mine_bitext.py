r"""Find the sentences of two corpora that translate one another.

    python pipelines/mine_bitext.py --source 'de/*.jsonl' --target 'en/*.jsonl' --output mined \
        --model MODEL

runs the program `beam-gpte mine` with its flags: the pipeline below, with checks before it starts,
a summary, a comparison with known pairs, and a report. Copy the pipeline to put your own steps
between these.
"""

import sys

from beam_gpte import MineBitext, ReadCorpus, WriteRejects, WriteVectorsToParquet
from beam_gpte.cli.main import run_page

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning


def mine_bitext(pipeline: beam.Pipeline, source: str, target: str, model: str, output: str) -> None:
    """Add the steps to a pipeline: pairs of rows with their margins, and rejects.

    Args:
      pipeline: to add them to.
      source: files or globs of rows with a column `text`.
      target: the same in another language.
      model: hub name, folder, or URI; embeds both.
      output: folder for the results.
    """
    files = {"source": source, "target": target}
    read = {
        side: pipeline | f"Read_{side}" >> ReadCorpus(texts).with_exception_handling()
        for side, texts in files.items()
    }
    sides = {side: rows for side, (rows, _) in read.items()}
    result = sides | MineBitext(model=model).with_exception_handling()
    rejects = (*(unreadable for _, unreadable in read.values()), result.rejects) | beam.Flatten()
    written = rejects | WriteRejects(f"{output}/rejects")
    result.pairs | WriteVectorsToParquet(f"{output}/bitext", "mirror", commit_after=written)


if __name__ == "__main__":
    run_page("mine", sys.argv[1:])
