"""Test what a database remembers of its runs and models, also after its tables were changed."""

import dataclasses
from pathlib import Path

import duckdb
import pytest

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from tests.sinks.test_write_duckdb import commit, query
from tests.sinks.test_write_parquet import MINILM, embedded, write

OTHER = dataclasses.replace(MINILM, fingerprint="bbbb")
COUNT = "SELECT count(*) FROM vectors"


def change(path: Path, sql: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)


@pytest.mark.parametrize(
    "loss",
    [
        "DROP TABLE vectors",
        "ALTER TABLE vectors RENAME TO old",
        "DELETE FROM vectors",
        "CREATE OR REPLACE TABLE vectors (id VARCHAR, embedding FLOAT[3])",
    ],
)
def test_a_named_run_is_written_again_where_its_rows_are_gone(tmp_path: Path, loss: str) -> None:
    path = tmp_path / "corpus.duckdb"
    sink = WriteVectorsToDuckDB(str(path), mode="insert", run="monday")
    write([embedded(0, 3)], sink)
    change(path, loss)
    for _ in range(2):
        write([embedded(0, 3)], sink)
    assert query(path, COUNT) == [(3,)]


def test_a_run_is_forgotten_with_the_table_also_if_another_makes_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    write([embedded(0, 3)], WriteVectorsToDuckDB(str(path), run="monday"))
    change(path, "DROP TABLE vectors")
    write([embedded(3, 4)], WriteVectorsToDuckDB(str(path), run="tuesday"))
    write([embedded(0, 3)], WriteVectorsToDuckDB(str(path), run="monday"))
    assert query(path, COUNT) == [(4,)]


def test_the_table_of_the_ledger_cannot_be_written_to() -> None:
    with pytest.raises(InputError, match="lists the runs of a database; name another"):
        WriteVectorsToDuckDB("x.duckdb", table="Beam_gpte_commits")


LOST = {
    "by hand": "CREATE TABLE lost (id VARCHAR, embedding FLOAT[3]); INSERT INTO lost FROM vectors",
    "create table as": "CREATE TABLE lost AS FROM vectors",
    "comment of a person": "CREATE TABLE lost AS FROM vectors; "
    "COMMENT ON COLUMN lost.embedding IS 'my vectors'",
}


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("mode", ["upsert", "replace"])
def test_vectors_that_do_not_say_what_made_them_are_not_joined(
    tmp_path: Path, how: str, mode: str
) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 1))
    change(path, LOST[how])
    with pytest.raises(InputError, match="does not say what made its vectors") as caught:
        commit(path, embedded(1, 2), table="lost", mode=mode)
    change(path, str(caught.value).split(": ", 1)[1])  # the repair
    commit(path, embedded(1, 2), table="lost", mode=mode)
    with pytest.raises(InputError, match="fingerprints bbbb and aaaa"):
        commit(path, embedded(2, 3, OTHER), table="lost", mode=mode)


def test_a_database_that_was_exported_and_imported_still_refuses_another_model(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "corpus.duckdb", tmp_path / "copy.duckdb"
    commit(path, embedded(0, 1))
    change(path, f"EXPORT DATABASE '{tmp_path}/exported'")
    change(copy, f"IMPORT DATABASE '{tmp_path}/exported'")
    with pytest.raises(InputError, match="does not say what made|fingerprints bbbb and aaaa"):
        commit(copy, embedded(1, 2, OTHER))


def test_an_empty_table_made_by_hand_learns_its_model(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    change(path, "CREATE TABLE vectors (id VARCHAR PRIMARY KEY, embedding FLOAT[3])")
    commit(path, embedded(0, 1))
    with pytest.raises(InputError, match="fingerprints bbbb and aaaa"):
        commit(path, embedded(1, 2, OTHER))
    assert query(path, COUNT) == [(1,)]


def test_vectors_without_metadata_do_not_join_those_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 1))
    columns = {name: embedded(1, 2).column(name) for name in ("id", "embedding")}
    with pytest.raises(InputError, match="has vectors of 'minilm', and the new rows do not say"):
        commit(path, Block.from_pydict(columns))
