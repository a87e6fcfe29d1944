"""Measure on Tatoeba how often a sentence's nearest neighbor is its translation, in percent.

    python benchmarks/tatoeba.py DATA MODEL [--prompt_name query] [--languages fra,deu,jpn,ara,hin]
        [--precision fp32 int8]

DATA holds the test set of LASER (arXiv 1812.10464): tatoeba.fra-eng.fra and tatoeba.fra-eng.eng,
line by line, and so on. Neighbors are chosen by cosine and by ratio margin with k = 4 (arXiv
1811.01136), from each side, among all sentences of the other one; with `MineBitext`, in a pipeline,
by the same margin among its candidates: the k nearest of a sentence, and those that have it among
their k nearest. Among a sentence's k nearest alone, as `best_forward` and `best_backward` choose
after the paper, accuracy is up to 1.8 points lower (Japanese 90.8 and 90.0). Of several precisions
the lowest cosine of a sentence's vector to that of the first is printed, too.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte import BitextOutput, EncoderConfig, MineBitext, TextEncoder, WriteVectorsToParquet

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning

K = 4


def read_lines(path: Path) -> list[str]:
    # a sentence may hold other characters that end lines
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def ratio_margin(cosines: np.ndarray, k: int = K) -> np.ndarray:
    """Divide each cosine by the mean of those of its two texts with their k nearest neighbors."""
    rows, columns = (
        np.partition(matrix, -k, axis=1)[:, -k:].mean(1) for matrix in (cosines, cosines.T)
    )
    return 2 * cosines / (rows[:, None] + columns[None, :])


def accuracy(scores: np.ndarray) -> tuple[float, float]:
    """Compute how often the diagonal is the maximum of its row, and of its column, in percent."""
    right = np.arange(len(scores))
    forward, backward = ((scores.argmax(axis) == right).mean() for axis in (1, 0))
    return 100 * float(forward), 100 * float(backward)


def mined(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Compute `accuracy` of the candidates that `MineBitext` returns."""
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            sides = {}
            for name, vectors in (("source", source), ("target", target)):
                array = pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors.reshape(-1)), vectors.shape[1]
                )
                sides[name] = p | name >> beam.Create(
                    [pa.table({"id": np.arange(len(vectors)), "embedding": array})]
                )
            candidates = BitextOutput(emit="candidates", max_length_ratio=None)
            (sides | MineBitext.laser(0, output=candidates)).pairs | WriteVectorsToParquet(folder)
        found = pl.read_parquet(f"{folder}/*.parquet", columns=["source_id", "target_id", "margin"])
    margins = np.full((len(source), len(target)), -np.inf)
    rows, columns, margin = (found[name].to_numpy() for name in found.columns)
    margins[rows, columns] = margin
    return accuracy(margins)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--prompt_name", default="query", help="'' for the model's default")
    parser.add_argument("--languages", default="fra,deu,jpn,ara,hin")
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    options = parser.parse_args()
    encoders = {
        precision: TextEncoder.load(
            EncoderConfig(
                options.model, prompt_name=options.prompt_name or None, precision=precision
            )
        )
        for precision in options.precision
    }
    print(f"{'':10}{'cosine':>12}{f'margin, k = {K}':>20}{'MineBitext':>17}")
    print(f"{'':10}{'x->en':>7}{'en->x':>7}{'x->en':>11}{'en->x':>7}{'x->en':>11}{'en->x':>7}")
    for language in options.languages.split(","):
        name = f"tatoeba.{language}-eng"
        sides = [read_lines(options.data / f"{name}.{side}") for side in (language, "eng")]
        first = None
        for precision, encoder in encoders.items():
            source, target = (encoder.encode(lines) for lines in sides)
            cosines = source @ target.T
            forward, backward = accuracy(cosines)
            margin_forward, margin_backward = accuracy(ratio_margin(cosines))
            mined_forward, mined_backward = mined(source, target)
            both = np.concatenate([source, target])
            first = both if first is None else first
            lowest = (both * first).sum(1).min()
            print(
                f"{language:5}{precision:5}{forward:7.1f}{backward:7.1f}{margin_forward:11.1f}"
                f"{margin_backward:7.1f}{mined_forward:11.1f}{mined_backward:7.1f}"
                + ("" if both is first else f"  lowest cosine {lowest:.4f}"),
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
