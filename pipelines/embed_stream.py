"""Embed what arrives in a folder until stopped: read new files, write Parquet files.

    python pipelines/embed_stream.py --input 'inbox/*.jsonl' --output vectors --model MODEL

runs the program `beam-gpte stream` with its flags: the pipeline below, which is stopped by Ctrl-C
or SIGTERM, goes on where it was, and removes near-duplicates if it is asked to. Copy the pipeline
to put your own steps between these.
"""

import sys

from beam_gpte import EmbedText, Polling, WatchCorpus, WriteRejects, WriteVectorsToParquet
from beam_gpte.cli.main import run_page

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.transforms.trigger import AccumulationMode, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import GlobalWindows


def embed_stream(
    pipeline: beam.Pipeline, texts: str, model: str, output: str, stop: str | None = None
) -> None:
    """Add the steps to a pipeline with the option `--streaming`: vectors, and rejects.

    Args:
      pipeline: to add them to.
      texts: globs of files with a column `text`.
      model: hub name, folder, or URI.
      output: folder for the results.
      stop: path of a file that ends the stream once it exists.
    """
    watch = WatchCorpus(texts, polling=Polling(5, stop))
    corpus, unreadable = pipeline | watch.with_exception_handling()
    vectors, refused = corpus | EmbedText(model).with_exception_handling()
    rejects = (unreadable, refused) | beam.Flatten()
    rejects | "RejectPanes" >> panes() | WriteRejects(f"{output}/rejects")
    vectors | "Panes" >> panes() | WriteVectorsToParquet(output, mode="append")


def panes() -> beam.WindowInto:
    """Commit every 10 seconds what arrived, and the rest when the stream ends."""
    return beam.WindowInto(
        GlobalWindows(),
        trigger=AfterWatermark(early=AfterProcessingTime(10)),
        accumulation_mode=AccumulationMode.DISCARDING,
    )


if __name__ == "__main__":
    run_page("stream", sys.argv[1:])
