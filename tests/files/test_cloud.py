"""Test what is said of a missing bucket, object or key of Google Cloud Storage."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_gpte import InputError
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.folders import check_writable
from beam_gpte.files.remote_model import check_remote_model
from beam_gpte.sources.match_files import match_files
from tests.files import stores
from tests.files.stores import CloudStorage


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, token_server: str) -> Iterator[CloudStorage]:
    with stores.cloud_storage(tmp_path_factory.mktemp("cloud"), f"{token_server}/token") as store:
        yield store


def test_a_missing_object_is_named(bucket: CloudStorage) -> None:
    from beam_gpte.sources.corpus_files import read_schema

    with pytest.raises(InputError, match=r"gs://texts/none\.jsonl: cannot be read: .*No such file"):
        read_schema("gs://texts/none.jsonl")


@pytest.mark.parametrize(
    "check",
    [
        lambda: match_files("gs://missing/*.jsonl"),
        lambda: check_writable("gs://missing/out"),
        lambda: check_remote_model("gs://missing/model"),
    ],
)
def test_a_missing_bucket_is_reported_in_one_line(
    bucket: CloudStorage, check: Callable[[], object]
) -> None:
    with pytest.raises(
        InputError, match="^gs://missing: there is no such bucket; create it, or name another$"
    ):
        check()


def test_other_paths_need_no_check() -> None:
    check_bucket("/a/local/path")
    check_bucket("hdfs://host/path")


KEY, HOST = "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"


def test_credentials_that_are_missing_or_refused_are_reported_in_one_line_at_once(
    bucket: CloudStorage, token_server: str, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    nobody = f"http://127.0.0.1:{stores.free_port()}/token"
    key.write_text(json.dumps(stores.service_account(nobody)))
    environment = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path)}
    cases: list[tuple[str, stores.Changes]] = [
        ("gs://texts/x", {KEY: "/no/such/key.json"}),
        ("gs://texts/x", {KEY: None}),
        ("gs://private/x", {HOST: token_server}),
        ("gs://other/x", {KEY: str(key)}),
    ]
    missing, public, refused, no_token = stores.bucket_errors(cases, environment)
    advice = (
        "set GOOGLE_APPLICATION_CREDENTIALS to a key file, "
        "or run: gcloud auth application-default login"
    )
    no_credentials = "no Google Cloud credentials"
    reason = "File /no/such/key.json was not found"
    assert missing == f"InputError: gs://texts: {no_credentials} ({reason}); {advice}"
    assert public is None  # the emulator asks for none
    assert refused
    assert refused.startswith(
        f"InputError: gs://private: {no_credentials} (Your default credentials were not found"
    )
    assert refused.endswith(advice)
    assert no_token
    assert no_token.startswith("InputError: gs://other: no access token for the credentials (")
    assert no_token.endswith("; check their token_uri")
