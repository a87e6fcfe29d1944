"""Make a table's vectors easy and fast to search: macros, and an HNSW index where vss is available.

vss is DuckDB's extension for vector similarity search.
"""

import json
import logging

import duckdb
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, vector_fields
from beam_gpte.sinks.duckdb_sql import catalog_entries, first_line, literal, quote

OWNER = "beam_gpte"  # in the comment of a macro of ours


def create_macros(
    connection: duckdb.DuckDBPyConnection, table: str, id_column: str | None, schema: pa.Schema
) -> None:
    """Create ``nearest_<table>(vector, k := 10)``, which gives the rows nearest to a vector.

    With several columns of vectors there is one macro per column, ``nearest_<table>_<column>``. Its
    comment names the table, so that macros of dropped tables can be removed, and one of another
    dimension be replaced. Any other macro of that name is left alone.
    """
    _drop_orphans(connection)
    vectors = vector_fields(schema)
    for column, metadata in vectors.items():
        macro = f"nearest_{table}" if len(vectors) == 1 else f"nearest_{table}_{column}"
        query = _nearest(table, id_column, column, metadata, schema.names)
        comment = json.dumps({OWNER: {"table": table, "query": query}}, ensure_ascii=False)
        there = _macros(connection, macro)
        if [text for _, text in there] == [comment]:
            continue
        owners = {_owner(text) for _, text in there}
        if owners - {table}:
            if owners != {None}:
                logging.getLogger(__name__).warning(
                    "macro %r searches another table; column %r of %r gets none",
                    macro,
                    column,
                    table,
                )
            continue
        connection.execute(
            f"CREATE OR REPLACE MACRO {quote(macro)}(vector, k := 10) AS TABLE {query}"
        )
        connection.execute(f"COMMENT ON MACRO TABLE {quote(macro)} IS {literal(comment)}")


def _nearest(
    table: str, id_column: str | None, column: str, metadata: VectorMetadata, names: list[str]
) -> str:
    """Write the query of a macro; ties by id, where there are ids.

    DuckDB puts the arguments in place of every bare name `vector` and `k`, so columns are
    qualified; and the vector is computed before there is a column that it could mean. Rows of zero
    vectors have no cosine, and are left out.
    """
    is_binary = metadata.quantization == "binary"
    kind = "BIT" if is_binary else f"FLOAT[{metadata.dim}]"
    ours, order = ("distance", "") if is_binary else ("cosine", "DESC")
    taken = {name.lower() for name in names}
    while ours in taken:
        ours += "_"
    measure, stored = quote(ours), f"nearest_row.{quote(column)}"
    inner_ties = "" if id_column is None else f", nearest_row.{quote(id_column)}"
    ties = "" if id_column is None else f", {quote(id_column)}"
    if is_binary:
        expression, valid = f"bit_count(xor({stored}, nearest_to.query))", f"{measure} IS NOT NULL"
    else:
        expression = f"array_cosine_similarity({stored}::{kind}, nearest_to.query)"
        valid = f"NOT isnan({measure})"
    in_order = f"{measure} {order} NULLS LAST"
    nearest = (
        f"SELECT nearest_row.* EXCLUDE ({quote(column)}), {expression} AS {measure} "
        f"FROM (SELECT vector::{kind} AS query) AS nearest_to, {quote(table)} AS nearest_row "
        f"ORDER BY {valid} DESC NULLS LAST, {in_order}{inner_ties} LIMIT k"
    )
    return f"SELECT * FROM ({nearest}) WHERE {valid} ORDER BY {in_order}{ties}"


def _macros(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[str, str | None]]:
    return catalog_entries(
        connection, "duckdb_functions", "function_type, comment", "function_name", name
    )


def _owner(comment: str | None) -> str | None:
    """Return the table in the comment of a macro of ours; None for any other macro."""
    try:
        return str(json.loads(comment or "")[OWNER]["table"])
    except (ValueError, TypeError, KeyError):
        return None


def _drop_orphans(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop the macros of ours whose tables are gone."""
    macros = connection.execute(
        "SELECT function_name, comment FROM duckdb_functions() WHERE function_type = 'table_macro' "
        "AND schema_name = current_schema() AND database_name = current_database()"
    ).fetchall()
    for macro, comment in macros:
        table = _owner(comment)
        if table is not None and not catalog_entries(
            connection, "duckdb_tables", "1", "table_name", table
        ):
            connection.execute(f"DROP MACRO TABLE {quote(macro)}")


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
