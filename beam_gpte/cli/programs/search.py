"""Answer a question from a DuckDB file of `beam-gpte embed --duckdb`: the nearest texts, in SQL.

    beam-gpte search vectors.duckdb "how do I read a compressed file" --model MODEL

With `--report page.html` also a report page: the hits, and where they are in a sample of the table.
"""

import argparse
import dataclasses
import json
import math
import os

import duckdb
import numpy as np
import polars as pl

from beam_gpte import EndpointConfig, InputError, VectorMetadata
from beam_gpte.cli.arguments import Program, add_adapter_option
from beam_gpte.cli.escaped_output import one_line
from beam_gpte.cli.models.endpoint_options import ModelConfig, add_endpoint_options, model_of
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.served.endpoint_encoder import EndpointEncoder
from beam_gpte.core.static.load_encoder import Pretrained
from beam_gpte.embedding.models import load_model
from beam_gpte.reports.output_pages import Answer, answer_page
from beam_gpte.reports.page import Run, check_report, write_page
from beam_gpte.reports.sample import SAMPLE_ROWS
from beam_gpte.reports.sections import unit_vectors
from beam_gpte.sinks.duckdb_sql import catalog_entries, connect, quote
from beam_gpte.sinks.duckdb_table import stored_metadata

NEAREST = """
    SELECT array_cosine_similarity(v.{vectors}::FLOAT[{dim}], ?::FLOAT[{dim}]) AS found,
    v.{id}, v.{text}
    FROM {table} AS v ORDER BY isnan(found) NULLS LAST, found DESC, v.{id} LIMIT ?
"""
SAMPLE = """
    SELECT {id} AS id, {text} AS text, {vectors}::FLOAT[{dim}] AS embedding
    FROM {table} ORDER BY hash({id}), {id} LIMIT ?
"""
STORED_TEXTS = """
    SELECT {text}, {vectors}::FLOAT[{dim}] FROM {table} WHERE {text} <> ''
    ORDER BY abs(length({text}) - 100), {id} LIMIT 8
"""
# at the best of STORED_TEXTS: vectors of two models have nothing in common, and cosines near 0
MIN_COSINE = 0.4


@dataclasses.dataclass(frozen=True)
class Searched:
    """Name a table of vectors and its columns.

    Attributes:
      path: of the database.
      table: its name.
      id: the column of ids.
      text: of texts.
      vectors: of vectors.
      metadata: of the vectors.
    """

    path: str
    table: str
    id: str
    text: str
    vectors: str
    metadata: VectorMetadata

    def sql(self, query: str) -> str:
        """Put the names and the dimension in their places."""
        names = {name: quote(getattr(self, name)) for name in ("table", "id", "text", "vectors")}
        return query.format(**names, dim=self.metadata.dim)


def find_table(
    connection: duckdb.DuckDBPyConnection,
    path: str,
    table: str,
    id_column: str | None = None,
    text_column: str | None = None,
) -> Searched:
    """Find the columns of a table by what the run that wrote it has recorded.

    Vectors are the first column with metadata. Unless they are named, ids are `id` or else the
    first column, and texts `text` or else the first other column of strings.

    Raises:
      InputError: there is no such table or column, or its vectors cannot be searched here.
    """
    found = catalog_entries(
        connection, "duckdb_columns", "column_name, data_type, comment", "table_name", table
    )
    described = [(name, stored_metadata(comment)) for name, _, comment in found]
    vectors, metadata = next((one for one in described if one[1]), ("", None))
    if metadata is None:
        raise InputError(
            f"{path}: no table {table!r} with embeddings; write one with beam-gpte embed --duckdb"
        )
    if metadata.quantization == "binary" or metadata.postprocess:
        kind = metadata.postprocess or "binary"
        raise InputError(f"{path}: {kind} vectors; search them with SQL as the README shows")
    names, texts = [one[0] for one in found], [one[0] for one in found if one[1] == "VARCHAR"]
    ids = id_column or (ID if ID in names else names[0])
    others = [name for name in texts if name != ids]
    text = text_column or (TEXT if TEXT in names else next(iter(others), ids))
    for option, column in (("--id_column", ids), ("--text_column", text)):
        if column not in names:
            raise InputError(f"{option}: no column {column!r}; {table} has {', '.join(names)}")
    return Searched(path, table, ids, text, vectors, metadata)


def ask(
    path: str,
    question: str,
    config: ModelConfig,
    k: int,
    sample_rows: int = 0,
    **names: str | None,
) -> Answer:
    """Find the k texts of a table nearest to a question.

    Args:
      path: of the database.
      question: to embed.
      config: of the model; if it says nothing of it, the vector is as short as those of the table.
      k: how many texts.
      sample_rows: of the table, for a page.
      **names: of the table and its columns, for `find_table`.

    Raises:
      InputError: the file cannot be read, or another model made its vectors.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: there is no such file; write one with beam-gpte embed --duckdb")
    with connect(path, path, read_only=True) as connection:
        table = find_table(connection, path, **{"table": "vectors", **names})  # type: ignore[arg-type]
        encoder = _load(config, table.metadata)
        if table.metadata.dim != encoder.dim:
            raise InputError(
                f"{path}: vectors of {table.metadata.dim} dimensions, made by "
                f"{table.metadata.model!r}; ask with that model"
            )
        _check_model(connection, table, encoder)
        vector = encoder.encode([question])[0]
        nearest = connection.execute(table.sql(NEAREST), [vector.tolist(), k])
        # of a zero vector there is no cosine
        hits = [hit for hit in nearest.fetchall() if hit[0] is not None and not math.isnan(hit[0])]
        (rows,) = connection.execute(table.sql("SELECT count(*) FROM {table}")).fetchone() or (0,)
        sample = _sample(connection, table, sample_rows) if sample_rows else pl.DataFrame()
        return Answer(hits, vector, rows, sample)


def _load(config: ModelConfig, metadata: VectorMetadata) -> Pretrained | EndpointEncoder:
    """Load the encoder; of a longer vector than those of the table, the beginning is taken."""
    if isinstance(config, EndpointConfig):
        served = EndpointEncoder(config)
        if config.dimensions is None and served.dim > metadata.dim:
            return EndpointEncoder(dataclasses.replace(config, dimensions=metadata.dim))
        return served
    encoder = load_model(config)
    if config.truncate_dim is None and encoder.dim > metadata.dim:
        return load_model(dataclasses.replace(config, truncate_dim=metadata.dim))
    return encoder


def _check_model(
    connection: duckdb.DuckDBPyConnection, table: Searched, encoder: Pretrained | EndpointEncoder
) -> None:
    """Check that the encoder reproduces the stored vectors of some stored texts.

    Fingerprints cannot be compared: a question may have another prompt than the texts. Another
    route makes vectors of its own, and is compared by the name of its model.
    """
    asked, stored_as = encoder.metadata, table.metadata
    routes = {asked.route, stored_as.route}
    if "" not in routes and len(routes) == 2 and asked.model == stored_as.model:
        return
    rows = connection.execute(table.sql(STORED_TEXTS)).fetchall()
    if not rows:
        return
    texts, stored = zip(*rows, strict=True)
    encoded = unit_vectors(encoder.encode(list(texts)))
    best = float((encoded * unit_vectors(np.array(stored, np.float32))).sum(axis=1).max())
    if best < MIN_COSINE:
        raise InputError(
            f"{table.path}: vectors made by {table.metadata.model!r}, but "
            f"{encoder.metadata.model!r} makes different ones from the same texts (cosine at most "
            f"{best:.2f}); ask with that model"
        )


def _sample(connection: duckdb.DuckDBPyConnection, table: Searched, rows: int) -> pl.DataFrame:
    found = connection.execute(table.sql(SAMPLE), [rows])
    names = [column[0] for column in found.description or ()]
    ids, texts, vectors = zip(*found.fetchall(), strict=True)
    return pl.DataFrame(dict(zip(names, (ids, texts, np.array(vectors, np.float32)), strict=True)))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("duckdb", help="DuckDB file with a table of vectors")
    parser.add_argument("question", help="text to search for")
    parser.add_argument("--model", required=True, help="the model of the vectors")
    add_adapter_option(parser)
    parser.add_argument("--prompt_name", help="the model's prompt for questions, e.g. query")
    parser.add_argument("--prompt", help="text put before the question")
    parser.add_argument(
        "--truncate_dim",
        type=int,
        metavar="N",
        help="keep the first N dimensions (default: as many as the table's vectors have)",
    )
    add_endpoint_options(parser)
    parser.add_argument("--table", default="vectors", help="of the DuckDB file")
    parser.add_argument("--id_column", help="ids (default: `id`, or the table's first column)")
    parser.add_argument(
        "--text_column", help="texts (default: `text`, or the first other column of strings)"
    )
    parser.add_argument("-k", type=int, default=5, help="texts to show")
    add_report_option(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    config = model_of(
        arguments,
        prompt_name=arguments.prompt_name,
        prompt=arguments.prompt,
        truncate_dim=arguments.truncate_dim,
        adapter=arguments.adapter,
        route=arguments.route,
    )
    sample_rows = SAMPLE_ROWS if arguments.report else 0
    names = {name: vars(arguments)[name] for name in ("table", "id_column", "text_column")}
    answer = ask(arguments.duckdb, arguments.question, config, arguments.k, sample_rows, **names)
    print(f"nearest to: {one_line(arguments.question)}\n")
    for cosine, id_, text in answer.hits:
        shown = json.dumps(text[:100], ensure_ascii=False)
        print(f"  {cosine:.3f}  {one_line(id_)}\n         {shown}")
    if arguments.report:
        about = Run(PROGRAM.name, vars(arguments), {"seconds": round(watch.seconds(), 2)})
        write_page(arguments.report, answer_page(about, arguments.question, answer))
        print(f"\nreport in {arguments.report}")


PROGRAM = Program("search", __doc__, add_options, run, is_job=False)
