"""Start emulators of object stores, as server processes that Beam finds through the environment."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

BUCKET = "texts"


class Store(Protocol):
    """A bucket of an object store."""

    url: str  # of the bucket

    def upload(self, name: str, data: bytes) -> None:
        """Write an object."""

    def download(self, name: str) -> bytes:
        """Read an object."""

    def names(self, start: str = "") -> list[str]:
        """List the objects whose names begin so."""


class CloudStorage:
    """A bucket of Google's Cloud Storage."""

    url = f"gs://{BUCKET}"

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket

    def upload(self, name: str, data: bytes) -> None:
        self.bucket.blob(name).upload_from_string(data)

    def download(self, name: str) -> bytes:
        return bytes(self.bucket.blob(name).download_as_bytes())

    def names(self, start: str = "") -> list[str]:
        return [blob.name for blob in self.bucket.list_blobs(prefix=start)]


class S3:
    """A bucket of AWS's S3."""

    url = f"s3://{BUCKET}"

    def __init__(self, client: Any, endpoint: str) -> None:
        self.client = client
        self.endpoint = endpoint

    def upload(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def download(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def names(self, start: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=start)
        return [item["Key"] for item in found.get("Contents", [])]

    def new_user(self) -> tuple[str, str]:
        """Make keys of a user who has no permission."""
        import boto3

        iam = boto3.session.Session().client("iam", endpoint_url=self.endpoint)
        iam.create_user(UserName="nobody")
        made = iam.create_access_key(UserName="nobody")["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    @contextlib.contextmanager
    def permissions(self) -> Iterator[None]:
        """Refuse what a user has no permission for, until the end of the block."""
        self._check_requests_after(0)
        try:
            yield
        finally:
            self._check_requests_after(10**9)

    def _check_requests_after(self, requests: int) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth",
            str(requests).encode(),
            {"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=60).close()


def program(name: str) -> Path:
    """Find the program of an emulator; the test that needs it skips without it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(*command: object, port: int) -> Iterator[None]:
    """Run a server until the end of the block; it answers at its beginning."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(list(map(str, command)), **quiet)  # type: ignore[call-overload]
    try:
        _wait_for(port, server)
        yield
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the emulator did not start")


@contextlib.contextmanager
def cloud_storage(folder: Path, token_uri: str) -> Iterator[CloudStorage]:
    """Start an emulator of Cloud Storage with a bucket."""
    storage = pytest.importorskip("google.cloud.storage")
    port, key = free_port(), folder / "key.json"
    key.write_text(json.dumps(service_account(token_uri)))
    start = program("gcp-storage-emulator"), "start", "--host=127.0.0.1", "--in-memory"
    with pytest.MonkeyPatch.context() as patch, running(*start, f"--port={port}", port=port):
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        client = storage.Client.create_anonymous_client()
        client.project = "p"
        yield CloudStorage(client.create_bucket(BUCKET))


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """Start an emulator of S3 with a bucket."""
    boto3 = pytest.importorskip("boto3")
    port = free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        running(program("moto_server"), "-H", "127.0.0.1", "-p", port, port=port),
    ):
        endpoint = f"http://127.0.0.1:{port}"
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield S3(client, endpoint)


# Says of each bucket what is wrong with it, in environments that change one after the other.
_CHECKS = """
import json, os, sys
from beam_gpte.files.cloud import check_bucket

def error_of(path, changes):
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    for name in [name for name, value in changes.items() if value is None]:
        os.environ.pop(name, None)
    try:
        check_bucket(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

sys.modules.update(dict.fromkeys(sys.argv[2:]))
print(json.dumps([error_of(*each) for each in json.loads(sys.argv[1])]))
"""
Changes = dict[str, str | None]  # of the environment; None removes a variable


def bucket_errors(
    cases: list[tuple[str, Changes]], environment: dict[str, str], *missing: str
) -> list[str | None]:
    """Check buckets in a process of its own, such that nothing of an earlier check is known.

    Args:
      cases: a path, and what changes before it is checked.
      environment: of the process, beside that of this one.
      missing: modules that it lacks.

    Returns:
      The errors, each of one line; None where nothing is wrong.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHECKS, json.dumps(cases), *missing],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
        timeout=60,
    )
    found: list[str | None] = json.loads(done.stdout)
    assert not any("\n" in line for line in found if line is not None)
    return found


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
