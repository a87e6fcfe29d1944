"""Answer a question from a DuckDB file of `embed_corpus.py --duckdb`: the nearest texts, in SQL.

python pipelines/search_vectors.py vectors.duckdb "how do I read a compressed file" --model MODEL

With `--report page.html` also a report page: the hits, and where they are in a sample of the table.
"""

import argparse
import json
import math

import duckdb
import numpy as np
import polars as pl

from beam_gpte import EncoderConfig, InputError, TextEncoder, VectorMetadata
from beam_gpte.cli.escaped_output import one_line
from beam_gpte.cli.runtime import Stopwatch, add_report_option, run_program
from beam_gpte.reports.output_pages import Answer, answer_page
from beam_gpte.reports.page import Run, check_report, write_page
from beam_gpte.reports.sample import SAMPLE_ROWS
from beam_gpte.reports.sections import unit_vectors
from beam_gpte.sinks.duckdb_sql import catalog_entries, connect
from beam_gpte.sinks.duckdb_table import stored_metadata

NEAREST = """
    SELECT array_cosine_similarity(v.embedding::FLOAT[{dim}], ?::FLOAT[{dim}]) AS found,
    v.id, v.text
    FROM vectors AS v ORDER BY isnan(found) NULLS LAST, found DESC, v.id LIMIT ?
"""
SAMPLE = """
    SELECT id, text, embedding::FLOAT[{dim}] AS embedding FROM vectors ORDER BY hash(id), id LIMIT ?
"""
STORED_TEXTS = """
    SELECT text, embedding::FLOAT[{dim}] FROM vectors WHERE text <> ''
    ORDER BY abs(length(text) - 100), id LIMIT 8
"""
# at the best of STORED_TEXTS: vectors of two models have nothing in common, and cosines near 0
MIN_COSINE = 0.4


def ask(path: str, question: str, config: EncoderConfig, k: int, sample_rows: int = 0) -> Answer:
    """Find the k texts of a table nearest to a question.

    Raises:
      InputError: the file cannot be read, or another model made its vectors.
    """
    with connect(path, path, read_only=True) as connection:
        metadata = _read_metadata(path, connection)
        encoder = TextEncoder.load(config)
        if metadata.dim != encoder.dim:
            raise InputError(
                f"{path}: vectors of {metadata.dim} dimensions, made by {metadata.model!r}; "
                "ask with that model"
            )
        _check_model(path, connection, encoder, metadata)
        vector = encoder.encode([question])[0]
        nearest = connection.execute(NEAREST.format(dim=encoder.dim), [vector.tolist(), k])
        # of a zero vector there is no cosine
        hits = [hit for hit in nearest.fetchall() if hit[0] is not None and not math.isnan(hit[0])]
        (rows,) = connection.execute("SELECT count(*) FROM vectors").fetchone() or (0,)
        sample = _sample(connection, encoder.dim, sample_rows) if sample_rows else pl.DataFrame()
        return Answer(hits, vector, rows, sample)


def _read_metadata(path: str, connection: duckdb.DuckDBPyConnection) -> VectorMetadata:
    columns = "column_name, comment"
    comments = dict(catalog_entries(connection, "duckdb_columns", columns, "table_name", "vectors"))
    metadata = stored_metadata(comments.get("embedding"))
    if metadata is None:
        raise InputError(
            f"{path}: no table `vectors` with embeddings; write one with embed_corpus.py --duckdb"
        )
    if metadata.quantization == "binary" or metadata.postprocess:
        kind = metadata.postprocess or "binary"
        raise InputError(f"{path}: {kind} vectors; search them with SQL as the README shows")
    return metadata


def _check_model(
    path: str, connection: duckdb.DuckDBPyConnection, encoder: TextEncoder, metadata: VectorMetadata
) -> None:
    """Check that the encoder reproduces the stored vectors of some stored texts.

    Fingerprints cannot be compared: a question may have another prompt than the texts.
    """
    rows = connection.execute(STORED_TEXTS.format(dim=encoder.dim)).fetchall()
    if not rows:
        return
    texts, stored = zip(*rows, strict=True)
    encoded = unit_vectors(encoder.encode(list(texts)))
    best = float((encoded * unit_vectors(np.array(stored, np.float32))).sum(axis=1).max())
    if best < MIN_COSINE:
        raise InputError(
            f"{path}: vectors made by {metadata.model!r}, but {encoder.metadata.model!r} makes "
            f"different ones from the same texts (cosine at most {best:.2f}); ask with that model"
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
    parser.add_argument("duckdb", help="DuckDB file with a table `vectors`")
    parser.add_argument("question", help="text to search for")
    parser.add_argument("--model", required=True, help="the model of the vectors")
    parser.add_argument("--prompt_name", help="the model's prompt for questions, e.g. query")
    parser.add_argument("-k", type=int, default=5, help="texts to show (default: 5)")
    add_report_option(parser)
    arguments, watch = parser.parse_args(argv), Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    config = EncoderConfig(arguments.model, prompt_name=arguments.prompt_name)
    sample_rows = SAMPLE_ROWS if arguments.report else 0
    answer = ask(arguments.duckdb, arguments.question, config, arguments.k, sample_rows)
    print(f"nearest to: {one_line(arguments.question)}\n")
    for cosine, id_, text in answer.hits:
        shown = json.dumps(text[:100], ensure_ascii=False)
        print(f"  {cosine:.3f}  {one_line(id_)}\n         {shown}")
    if arguments.report:
        run = Run("search_vectors.py", vars(arguments), {"seconds": round(watch.seconds(), 2)})
        write_page(arguments.report, answer_page(run, arguments.question, answer))
        print(f"\nreport in {arguments.report}")


if __name__ == "__main__":
    run_program(main)
