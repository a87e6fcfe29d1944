"""Answer a question from a DuckDB file that `embed_corpus.py --duckdb` wrote: the nearest texts, in plain SQL.

python pipelines/search_vectors.py vectors.duckdb "how do I read a compressed file" --model MODEL

With `--report page.html` a page to look at: the hits, and where they are among a sample of the table.
"""

import argparse
import dataclasses
import json
from typing import Any

import duckdb
import numpy as np
import polars as pl

from beam_gpte import EncoderConfig, InputError, TextEncoder, VectorMetadata
from beam_gpte.cli.runtime import Stopwatch, add_report_option, run_program
from beam_gpte.reports.output_pages import answer_page
from beam_gpte.reports.page import Run, check_report, write_page
from beam_gpte.reports.run_pages import unit
from beam_gpte.reports.sample import SAMPLED

NEAREST = """
    SELECT array_cosine_similarity(embedding::FLOAT[{dim}], ?::FLOAT[{dim}]) AS cosine, id, text
    FROM vectors ORDER BY cosine DESC, id LIMIT ?
"""
SAMPLE = "SELECT id, text, embedding::FLOAT[{dim}] AS embedding FROM vectors ORDER BY hash(id), id LIMIT ?"
OWN = """
    SELECT text, embedding::FLOAT[{dim}] FROM vectors WHERE text <> '' ORDER BY abs(length(text) - 100), id LIMIT 8
"""
LEAST = 0.4  # of the largest cosine of OWN: vectors of two models have nothing in common, and cosines near 0
METADATA = "SELECT comment FROM duckdb_columns() WHERE table_name = 'vectors' AND column_name = 'embedding'"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a table says to a question.

    Attributes:
      hits: (cosine, id, text), best first.
      sample: some rows of the table, with id, text and embedding; none unless asked for.
    """

    hits: list[tuple[float, Any, str]]
    vector: np.ndarray
    rows: int
    sample: pl.DataFrame


def ask(path: str, question: str, config: EncoderConfig, k: int, sampled: int = 0) -> Answer:
    """The k texts of a table nearest to a question.

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
            raise InputError(
                f"{path}: no table `vectors` with embeddings; write one with embed_corpus.py --duckdb"
            )
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
        _check_model(path, connection, encoder, metadata)
        vector = encoder.encode([question])[0]
        hits = connection.execute(NEAREST.format(dim=encoder.dim), [vector.tolist(), k]).fetchall()
        (rows,) = connection.execute("SELECT count(*) FROM vectors").fetchone() or (0,)
        sample = _sample(connection, encoder.dim, sampled) if sampled else pl.DataFrame()
        return Answer(hits, vector, rows, sample)


def _check_model(
    path: str, connection: duckdb.DuckDBPyConnection, encoder: TextEncoder, metadata: VectorMetadata
) -> None:
    """A question may have another prompt, and so another fingerprint: vectors of the table's own texts are compared."""
    own = connection.execute(OWN.format(dim=encoder.dim)).fetchall()
    if not own:
        return
    texts, stored = zip(*own, strict=True)
    here, there = unit(encoder.encode(list(texts))), unit(np.array(stored, np.float32))
    best = float((here * there).sum(axis=1).max())
    if best < LEAST:
        raise InputError(
            f"{path}: vectors made by {metadata.model!r}, and {encoder.metadata.model!r} makes others of the same texts "
            f"(cosine {best:.2f} at most); ask with that model"
        )


def _sample(connection: duckdb.DuckDBPyConnection, dim: int, rows: int) -> pl.DataFrame:
    found = connection.execute(SAMPLE.format(dim=dim), [rows])
    names = [column[0] for column in found.description or ()]
    ids, texts, vectors = zip(*found.fetchall(), strict=True)
    return pl.DataFrame(dict(zip(names, (ids, texts, np.array(vectors, np.float32)), strict=True)))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("duckdb")
    parser.add_argument("question")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt_name", help="the model's prompt for questions, e.g. query")
    parser.add_argument("-k", type=int, default=5)
    add_report_option(parser)
    arguments, watch = parser.parse_args(argv), Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    config = EncoderConfig(arguments.model, prompt_name=arguments.prompt_name)
    answer = ask(
        arguments.duckdb,
        arguments.question,
        config,
        arguments.k,
        SAMPLED if arguments.report else 0,
    )
    print(f"nearest to: {arguments.question}\n")
    for cosine, key, text in answer.hits:
        print(f"  {cosine:.3f}  {key}\n         {json.dumps(text[:100], ensure_ascii=False)}")
    if arguments.report:
        run = Run("search_vectors.py", vars(arguments), {"seconds": round(watch.seconds(), 2)})
        page = answer_page(
            run, arguments.question, answer.rows, answer.hits, answer.sample, answer.vector
        )
        write_page(arguments.report, page)
        print(f"\nreport in {arguments.report}")


if __name__ == "__main__":
    run_program(main)
