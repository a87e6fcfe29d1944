"""Test that everything may be in an object store; emulators run as server processes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import (
    EmbedText,
    Polling,
    ReadCorpus,
    TextEncoder,
    WatchCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.sources.committed_rows import rows_in_duckdb, rows_in_parquet
from tests.examples import WordEncoder
from tests.files.stores import Store


def upload_corpus(store: Store, folder: str) -> None:
    store.upload(
        f"{folder}/a.jsonl", b'{"text": "one cat", "n": 1}\n{"text": "two dogs", "n": 2}\n'
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["three birds"], "n": [3]}), sink)
    store.upload(f"{folder}/b.parquet", sink.getvalue().to_pybytes())


def query(store: Store, name: str, path: Path, sql: str) -> list[tuple]:
    """Query a DuckDB database in the store."""
    path.write_bytes(store.download(name))
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_corpus_model_and_vectors_may_all_be_in_the_cloud(
    new_pipeline: Callable[..., beam.Pipeline],
    store: Store,
    minilm: str,
    encoder: TextEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the model is copied to
    upload_corpus(store, "in")
    for path in Path(minilm).rglob("*"):
        if path.is_file():
            store.upload(f"model/{path.relative_to(minilm)}", path.read_bytes())
    with new_pipeline() as p:
        vectors = p | ReadCorpus(f"{store.url}/in/*") | EmbedText(f"{store.url}/model")
        vectors | WriteVectorsToParquet(f"{store.url}/out")
        vectors | WriteVectorsToDuckDB(f"{store.url}/vectors.duckdb")
    texts = ["one cat", "two dogs", "three birds"]
    expected = dict(zip(texts, encoder.encode(texts).tolist(), strict=True))
    for i, name in enumerate(store.names("out/part-")):  # as many as the runner has bundles
        (tmp_path / f"out-{i}.parquet").write_bytes(store.download(name))
    for rows in (
        duckdb.sql(
            f"SELECT id, text, n, embedding FROM '{tmp_path}/out-*.parquet' ORDER BY n"
        ).fetchall(),
        query(
            store,
            "vectors.duckdb",
            tmp_path / "db",
            "SELECT id, text, n, embedding FROM vectors ORDER BY n",
        ),
    ):
        assert [row[:3] for row in rows] == [
            ("a.jsonl:1", "one cat", 1),
            ("a.jsonl:2", "two dogs", 2),
            ("b.parquet:1", "three birds", 3),
        ]
        assert all(
            list(vector) == pytest.approx(expected[text], abs=1e-6) for _, text, _, vector in rows
        )
    assert not [name for name in store.names() if "tmp" in name]


def test_a_run_in_another_process_replaces_what_was_there_and_adds_its_rejects(
    new_pipeline: Callable[..., beam.Pipeline], store: Store
) -> None:
    upload_corpus(store, "again")
    store.upload("again/c.jsonl", b'{"text": "four"}\nno JSON\n')
    for mode in ("in memory", "two processes"):
        with new_pipeline(mode) as p:
            corpus, rejects = p | ReadCorpus(f"{store.url}/again/*").with_exception_handling()
            corpus | EmbedText(WordEncoder()) | WriteVectorsToParquet(f"{store.url}/replaced")
            rejects | WriteRejects(f"{store.url}/replaced/rejects")
    found = rows_in_parquet(f"{store.url}/replaced", "id")
    assert {name: len(rows) for name, rows in found.items()} == {
        "a.jsonl": 2,
        "b.parquet": 1,
        "c.jsonl": 1,
    }
    (lines,) = store.names("replaced/rejects/")
    assert b"no JSON" in store.download(lines)


def test_a_bucket_is_watched_and_a_stream_goes_on_where_it_was(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "stop").touch()
    upload_corpus(store, "inbox")
    for more in ({}, {"inbox/c.jsonl": b'{"text": "five"}\n'}):
        for name, data in more.items():
            store.upload(name, data)
        committed = rows_in_parquet(f"{store.url}/stream", "id")
        assert committed.keys() == rows_in_duckdb(f"{store.url}/stream.duckdb", "id").keys()
        p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
        texts = p | WatchCorpus(
            f"{store.url}/inbox/*",
            columns={},
            committed=committed,
            polling=Polling(1, str(tmp_path / "stop")),
        )
        vectors = texts | EmbedText(WordEncoder()) | beam.WindowInto(beam.window.FixedWindows(3600))
        vectors | WriteVectorsToParquet(f"{store.url}/stream", mode="append")
        vectors | WriteVectorsToDuckDB(f"{store.url}/stream.duckdb", mode="insert")
        p.run().wait_until_finish()
    rows = query(
        store, "stream.duckdb", tmp_path / "stream", "SELECT text FROM vectors ORDER BY text"
    )
    assert rows == [("five",), ("one cat",), ("three birds",), ("two dogs",)]
    assert {
        name: len(rows) for name, rows in rows_in_parquet(f"{store.url}/stream", "id").items()
    } == {
        "a.jsonl": 2,
        "b.parquet": 1,
        "c.jsonl": 1,
    }
