"""Answer a question from a DuckDB file that `embed_corpus.py --duckdb` wrote: the nearest texts, in plain SQL.

python pipelines/search_vectors.py vectors.duckdb "how do I read a compressed file" --model MODEL
"""

import argparse
import json
from typing import Any

import duckdb

from beam_gpte import EncoderConfig, InputError, TextEncoder, VectorMetadata
from beam_gpte.program import run_program

NEAREST = """
    SELECT array_cosine_similarity(embedding::FLOAT[{dim}], ?::FLOAT[{dim}]) AS cosine, id, text
    FROM vectors ORDER BY cosine DESC, id LIMIT ?
"""
METADATA = "SELECT comment FROM duckdb_columns() WHERE table_name = 'vectors' AND column_name = 'embedding'"


def nearest(path: str, question: str, config: EncoderConfig, k: int) -> list[tuple[float, Any, str]]:
    """The k texts of a table nearest to a question, as (cosine, id, text), best first.

    Raises:
      InputError: the file cannot be read, or its vectors are another model's.
    """
    try:
        connection = duckdb.connect(path, read_only=True)
    except duckdb.Error as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    with connection:
        stored = connection.execute(METADATA).fetchone()
        if stored is None or stored[0] is None:
            raise InputError(f"{path}: no table `vectors` with embeddings; write one with embed_corpus.py --duckdb")
        encoder = TextEncoder.load(config)
        metadata = VectorMetadata.from_json(stored[0])
        if metadata.quantization == "binary" or metadata.postprocess:
            raise InputError(
                f"{path}: vectors that are {metadata.postprocess or 'binary'}; compare them as the README shows"
            )
        if metadata.dim != encoder.dim:
            raise InputError(
                f"{path}: vectors of {metadata.dim} dimensions, made by {metadata.model!r}; ask with that model"
            )
        vector = encoder.encode([question])[0].tolist()
        return connection.execute(NEAREST.format(dim=encoder.dim), [vector, k]).fetchall()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("duckdb")
    parser.add_argument("question")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt_name", help="the model's prompt for questions, e.g. query")
    parser.add_argument("-k", type=int, default=5)
    arguments = parser.parse_args(argv)
    config = EncoderConfig(arguments.model, prompt_name=arguments.prompt_name)
    print(f"nearest to: {arguments.question}\n")
    for cosine, key, text in nearest(arguments.duckdb, arguments.question, config, arguments.k):
        print(f"  {cosine:.3f}  {key}\n         {json.dumps(text[:100], ensure_ascii=False)}")


if __name__ == "__main__":
    run_program(main)
