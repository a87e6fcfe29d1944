"""Test Google Cloud Storage against an emulator, which runs as a server process."""

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import (
    EmbedText,
    InputError,
    Polling,
    ReadCorpus,
    TextEncoder,
    WatchCorpus,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.folders import check_writable
from beam_gpte.files.remote_model import check_remote_model
from beam_gpte.sources.committed_rows import rows_in_duckdb, rows_in_parquet
from beam_gpte.sources.match_files import match_files
from tests.examples import WordEncoder

storage = pytest.importorskip("google.cloud.storage")


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Give everybody an access token; answer any other request with an error that asks for one."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, {"access_token": "x", "expires_in": 3600, "token_type": "Bearer"})

    def do_GET(self) -> None:
        self._answer(
            401,
            {
                "error": {
                    "code": 401,
                    "message": "Anonymous caller does not have storage.objects.list access.",
                }
            },
        )

    def _answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def token_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def service_account(token_uri: str) -> dict[str, str]:
    """Make up a service account, as Google's key files describe it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    kinds = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key = rsa.generate_private_key(65537, 2048).private_bytes(*kinds).decode()
    account = {
        "project_id": "p",
        "private_key_id": "k",
        "client_id": "1",
        "client_email": "a@p.iam.gserviceaccount.com",
    }
    return {"type": "service_account", "private_key": key, "token_uri": token_uri, **account}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, token_server: str) -> Iterator[Any]:
    """Start an emulator with a bucket; Beam finds it through the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("gcp-storage-emulator")
    if not program.exists():
        pytest.skip("gcp-storage-emulator is not installed")
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "key.json").write_text(json.dumps(service_account(f"{token_server}/token")))
    command = [program, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    emulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "key.json"))
        try:
            _wait_for(port, emulator)
            client = storage.Client.create_anonymous_client()
            client.project = "p"
            yield client.create_bucket("texts")
        finally:
            emulator.kill()
            emulator.wait()


def _wait_for(port: int, emulator: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and emulator.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the emulator did not start")


def upload(bucket: Any, name: str, data: bytes) -> None:
    bucket.blob(name).upload_from_string(data)


def upload_corpus(bucket: Any, folder: str) -> None:
    upload(
        bucket, f"{folder}/a.jsonl", b'{"text": "one cat", "n": 1}\n{"text": "two dogs", "n": 2}\n'
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["three birds"], "n": [3]}), sink)
    upload(bucket, f"{folder}/b.parquet", sink.getvalue().to_pybytes())


def query(bucket: Any, name: str, path: Path, sql: str) -> list[tuple]:
    """Query a DuckDB database in the bucket."""
    bucket.blob(name).download_to_filename(path)
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_corpus_model_and_vectors_may_all_be_in_the_cloud(
    new_pipeline: Callable[..., beam.Pipeline],
    bucket: Any,
    minilm: str,
    encoder: TextEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the model is copied to
    upload_corpus(bucket, "in")
    for path in Path(minilm).rglob("*"):
        if path.is_file():
            bucket.blob(f"model/{path.relative_to(minilm)}").upload_from_filename(path)
    with new_pipeline() as p:
        vectors = p | ReadCorpus("gs://texts/in/*") | EmbedText("gs://texts/model")
        vectors | WriteVectorsToParquet("gs://texts/out")
        vectors | WriteVectorsToDuckDB("gs://texts/vectors.duckdb")
    texts = ["one cat", "two dogs", "three birds"]
    expected = dict(zip(texts, encoder.encode(texts).tolist(), strict=True))
    (blob,) = bucket.list_blobs(prefix="out/part-")
    blob.download_to_filename(tmp_path / "out.parquet")
    for rows in (
        duckdb.sql(
            f"SELECT id, text, n, embedding FROM '{tmp_path}/out.parquet' ORDER BY n"
        ).fetchall(),
        query(
            bucket,
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
    assert not [blob.name for blob in bucket.list_blobs() if "tmp" in blob.name]


def test_a_run_in_another_process_replaces_what_was_there_and_adds_its_rejects(
    new_pipeline: Callable[..., beam.Pipeline], bucket: Any
) -> None:
    upload_corpus(bucket, "again")
    upload(bucket, "again/c.jsonl", b'{"text": "four"}\nno JSON\n')
    for mode in ("in memory", "two processes"):
        with new_pipeline(mode) as p:
            corpus, rejects = p | ReadCorpus("gs://texts/again/*").with_exception_handling()
            corpus | EmbedText(WordEncoder()) | WriteVectorsToParquet("gs://texts/replaced")
            rejects | WriteRejects("gs://texts/replaced/rejects")
    found = rows_in_parquet("gs://texts/replaced", "id")
    assert {name: len(rows) for name, rows in found.items()} == {
        "a.jsonl": 2,
        "b.parquet": 1,
        "c.jsonl": 1,
    }
    (lines,) = bucket.list_blobs(prefix="replaced/rejects/")
    assert b"no JSON" in lines.download_as_bytes()


def test_a_bucket_is_watched_and_a_stream_goes_on_where_it_was(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    upload_corpus(bucket, "inbox")
    for more in ({}, {"inbox/c.jsonl": b'{"text": "five"}\n'}):
        for name, data in more.items():
            upload(bucket, name, data)
        committed = rows_in_parquet("gs://texts/stream", "id")
        assert committed.keys() == rows_in_duckdb("gs://texts/stream.duckdb", "id").keys()
        p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))
        texts = p | WatchCorpus(
            "gs://texts/inbox/*",
            columns={},
            committed=committed,
            polling=Polling(1, str(tmp_path / "stop")),
        )
        vectors = texts | EmbedText(WordEncoder()) | beam.WindowInto(beam.window.FixedWindows(3600))
        vectors | WriteVectorsToParquet("gs://texts/stream", mode="append")
        vectors | WriteVectorsToDuckDB("gs://texts/stream.duckdb", mode="insert")
        p.run().wait_until_finish()
    rows = query(
        bucket, "stream.duckdb", tmp_path / "stream", "SELECT text FROM vectors ORDER BY text"
    )
    assert rows == [("five",), ("one cat",), ("three birds",), ("two dogs",)]
    assert {
        name: len(rows) for name, rows in rows_in_parquet("gs://texts/stream", "id").items()
    } == {
        "a.jsonl": 2,
        "b.parquet": 1,
        "c.jsonl": 1,
    }


def test_a_missing_object_is_named(bucket: Any) -> None:
    from beam_gpte.sources.corpus_files import read_schema

    with pytest.raises(InputError, match=r"gs://texts/none\.jsonl: cannot be read: 404"):
        read_schema("gs://texts/none.jsonl")


@pytest.mark.parametrize(
    "check",
    [
        lambda: match_files("gs://missing/*.jsonl"),
        lambda: check_writable("gs://missing/out"),
        lambda: check_remote_model("gs://missing/model"),
    ],
)
def test_a_missing_bucket_is_reported_in_one_line(bucket: Any, check: Callable[[], object]) -> None:
    with pytest.raises(
        InputError, match="^gs://missing: there is no such bucket; create it, or name another$"
    ):
        check()


def test_other_paths_need_no_check() -> None:
    check_bucket("/a/local/path")
    check_bucket("s3://bucket/path")


CHECKS = """
import json, os, sys
from beam_gpte.files.cloud import check_bucket

def error_of(bucket, **changes):
    os.environ.update({name: value for name, value in changes.items() if value})
    for name in [name for name, value in changes.items() if not value]:
        os.environ.pop(name, None)
    try:
        check_bucket(f"gs://{bucket}/x")
    except Exception as error:
        return f"{type(error).__name__}: {error}"

KEY, HOST = "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"
results = [
    error_of("texts", **{KEY: "/no/such/key.json"}),
    error_of("texts", **{KEY: None}),
    error_of("private", **{KEY: None, HOST: sys.argv[1]}),
    error_of("other", **{KEY: sys.argv[2]}),
]
print(json.dumps(results))
"""


def test_credentials_that_are_missing_or_refused_are_reported_in_one_line_at_once(
    bucket: Any, token_server: str, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        key.write_text(
            json.dumps(service_account(f"http://127.0.0.1:{nobody.getsockname()[1]}/token"))
        )
        environment = {**os.environ, "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path)}
        command = [sys.executable, "-c", CHECKS, token_server, str(key)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True, timeout=60
        )
    missing, public, refused, no_token = json.loads(done.stdout)
    advice = (
        "set GOOGLE_APPLICATION_CREDENTIALS to a key file, "
        "or run: gcloud auth application-default login"
    )
    no_credentials = "no Google Cloud credentials"
    reason = "File /no/such/key.json was not found"
    assert missing == f"InputError: gs://texts: {no_credentials} ({reason}); {advice}"
    assert public is None  # the emulator asks for none
    assert refused.startswith(
        f"InputError: gs://private: {no_credentials} (Your default credentials were not found"
    )
    assert refused.endswith(advice)
    assert no_token.startswith("InputError: gs://other: no access token for the credentials (")
    assert no_token.endswith("; check their token_uri")
    assert not any("\n" in line for line in (missing, refused, no_token))
