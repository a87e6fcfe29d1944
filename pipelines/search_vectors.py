"""Answer a question from a DuckDB file of vectors: the nearest texts.

    python pipelines/search_vectors.py vectors.duckdb "a question" --model MODEL

runs the program `beam-gpte search` with its flags: the function below, which also checks that the
model is the one that made the vectors.
"""

import sys

import duckdb

from beam_gpte import TextEncoder
from beam_gpte.cli.main import run_page

NEAREST = "SELECT cosine, id, text FROM nearest_vectors(?, k := ?)"


def search_vectors(database: str, question: str, model: str, k: int) -> list[tuple]:
    """List (cosine, id, text) of the k texts nearest to a question, the nearest first."""
    vector = TextEncoder.load(model).encode([question])[0]
    with duckdb.connect(database, read_only=True) as connection:
        return connection.execute(NEAREST, [vector.tolist(), k]).fetchall()


if __name__ == "__main__":
    run_page("search", sys.argv[1:])
