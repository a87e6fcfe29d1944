"""Make a table's vectors easy and fast to search: macros, and an HNSW index where vss is available.

vss is DuckDB's extension for vector similarity search.
"""

import logging

import duckdb
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_fields
from beam_gpte.sinks.duckdb_sql import catalog_entries, first_line, quote


def create_macros(
    connection: duckdb.DuckDBPyConnection, table: str, id_column: str, schema: pa.Schema
) -> None:
    """Create ``nearest_<table>(vector, k := 10)``, which gives the rows nearest to a vector.

    With several columns of vectors there is one macro per column, ``nearest_<table>_<column>``. An
    existing macro of that name is left alone.
    """
    vectors = vector_fields(schema)
    for name, metadata in vectors.items():
        macro = f"nearest_{table}" if len(vectors) == 1 else f"nearest_{table}_{name}"
        if catalog_entries(connection, "duckdb_functions", "function_name", "function_name", macro):
            continue
        if metadata.quantization == "binary":
            measure, order = f"bit_count(xor({quote(name)}, vector::BIT)) AS distance", "distance"
        else:
            kind = f"FLOAT[{metadata.dim}]"
            measure = f"array_cosine_similarity({quote(name)}::{kind}, vector::{kind}) AS cosine"
            order = "cosine DESC"
        connection.execute(
            f"CREATE MACRO {quote(macro)}(vector, k := 10) AS TABLE "
            f"SELECT * EXCLUDE ({quote(name)}), {measure} "
            f"FROM {quote(table)} ORDER BY {order}, {quote(id_column)} LIMIT k"
        )


def load_vss(connection: duckdb.DuckDBPyConnection, path: str, table: str, index: bool) -> bool:
    """Load the vss extension if the table has an HNSW index or if `index` asks for one.

    Returns:
      Whether to create an index: it is asked for, and the extension is loaded.

    Raises:
      InputError: the table has an HNSW index, so DuckDB cannot change it without the extension.
    """
    definitions = catalog_entries(connection, "duckdb_indexes", "sql", "table_name", table)
    has_index = any("USING HNSW" in (sql or "").upper() for (sql,) in definitions)
    if not (index or has_index):
        return False
    try:
        try:
            connection.execute("LOAD vss")
        except duckdb.Error:
            connection.execute("INSTALL vss")
            connection.execute("LOAD vss")
        connection.execute("SET hnsw_enable_experimental_persistence = true")
    except duckdb.Error as error:
        if has_index:
            raise InputError(
                f"{path}: table {table!r} has an HNSW index, and the vss extension cannot be "
                f"loaded ({first_line(error)}); install it, or drop the index"
            ) from error
        logging.getLogger(__name__).warning(
            "%s: table %r gets no HNSW index, so searches compare all rows: "
            "the vss extension cannot be loaded (%s)",
            path,
            table,
            first_line(error),
        )
        return False
    return index


def create_indexes(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema) -> None:
    """Create a cosine HNSW index on every column of float32 vectors that has none."""
    for name, metadata in vector_fields(schema).items():
        if metadata.quantization == "float32":
            connection.execute(
                f"CREATE INDEX IF NOT EXISTS {quote(f'hnsw_{table}_{name}')} ON {quote(table)} "
                f"USING HNSW ({quote(name)}) WITH (metric = 'cosine')"
            )
