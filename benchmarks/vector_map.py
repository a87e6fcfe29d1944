"""Measure what a map between two models' vectors keeps, by the size of the sample it is fitted to.

    python benchmarks/vector_map.py TEXTS.parquet --source MODEL --target MODEL
        [--column text] [--rows 8000] [--samples 500,2000,6000] [--prompt_name NAME]

Both models embed `--rows` texts, the first 300 characters of each; a prompt of the target is named
by `--prompt_name`. The last 2,000 rows are never part of a sample; of each of them the ten nearest
among the others of the 2,000, in the target's space, are looked for

    source        by the source's model alone
    orthogonal    among mapped vectors, by queries of the target
    least_squares the same
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte import EncoderConfig, TextEncoder, VectorMapOptions
from beam_gpte.core.process import claim_process
from beam_gpte.core.vectors.fit_vector_map import PairedVectors, fit_vector_map, recall
from beam_gpte.shuffle.unique_ids import id_hashes

CHARACTERS = 300
HELD = 2000
K = 10


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts")
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--prompt_name")
    parser.add_argument("--column", default="text")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--samples", default="500,2000,6000")
    options = parser.parse_args()
    column = pq.read_table(options.texts, columns=[options.column])[options.column]
    texts = [text[:CHARACTERS] for text in column.slice(0, options.rows).to_pylist()]
    configs = (
        EncoderConfig(options.source),
        EncoderConfig(options.target, prompt_name=options.prompt_name),
    )
    source, target = (TextEncoder.load(config).encode(texts) for config in configs)
    hashes = id_hashes(pa.array(range(len(texts))))
    pairs = PairedVectors(source, target, hashes, (None, None))
    rows = np.arange(len(texts))
    held, others = pairs.take(rows[-HELD:]), pairs.take(rows[:-HELD])
    print(f"recall@{K} among {HELD} rows; source: {recall(held.source, held.source, held, K):.3f}")
    print(f"{'sample':>8}{'orthogonal':>12}{'least_squares':>15}")
    for size in map(int, options.samples.split(",")):
        sample = others.take(rows[:size])
        found = []
        for method in ("orthogonal", "least_squares"):
            fitted = fit_vector_map(sample, VectorMapOptions(method, k=K))
            found.append(recall(held.target, fitted.apply(held.source), held, K))
        print(f"{size:8}{found[0]:12.3f}{found[1]:15.3f}", flush=True)


if __name__ == "__main__":
    main()
