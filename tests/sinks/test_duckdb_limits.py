"""DuckDB in a share of a machine uses no more cores and memory than it has."""

from pathlib import Path

import duckdb
import pytest

from beam_gpte.sinks import duckdb_sql
from beam_gpte.sinks.duckdb_sql import connect

SETTINGS = "SELECT current_setting('threads'), current_setting('memory_limit')"


def test_threads_and_memory_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x.duckdb")
    monkeypatch.setattr(duckdb_sql.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(duckdb_sql, "cores", lambda: 1)
    monkeypatch.setattr(duckdb_sql, "usable_memory", lambda: 1 << 30)
    monkeypatch.setattr(duckdb_sql, "installed_memory", lambda: 1 << 40)
    with connect(path, path) as connection:
        threads, memory = connection.execute(SETTINGS).fetchall()[0]
    assert threads == 1
    assert memory == "819.1 MiB"
    with duckdb.connect(path) as users:  # whose settings stay
        before = users.execute(SETTINGS).fetchall()
        with connect(path, path) as connection:
            assert connection.execute(SETTINGS).fetchall() == before


def test_a_whole_machine_is_left_to_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb_sql.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(duckdb_sql, "cores", lambda: 64)
    monkeypatch.setattr(duckdb_sql, "usable_memory", lambda: 1 << 40)
    monkeypatch.setattr(duckdb_sql, "installed_memory", lambda: 1 << 40)
    assert duckdb_sql.machine_limits() == {}
