"""Test what is said of a missing bucket, key or server of S3."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_gpte import InputError
from beam_gpte.files.folders import check_writable
from beam_gpte.files.remote_model import check_remote_model
from beam_gpte.sources.match_files import match_files
from tests.files import stores


@pytest.fixture(scope="module")
def s3() -> Iterator[stores.S3]:
    with stores.s3() as store:
        yield store


@pytest.mark.parametrize(
    "check",
    [
        lambda: match_files("s3://missing/*.jsonl"),
        lambda: check_writable("s3://missing/out"),
        lambda: check_remote_model("s3://missing/model"),
    ],
)
def test_a_missing_bucket_is_reported_in_one_line(
    s3: stores.S3, check: Callable[[], object]
) -> None:
    with pytest.raises(
        InputError, match="^s3://missing: there is no such bucket; create it, or name another$"
    ):
        check()


def test_brackets_in_names_stand_for_themselves(s3: stores.S3) -> None:
    s3.upload("a[1]/x.jsonl", b"1")
    s3.upload("a1/x.jsonl", b"1")
    (found,) = match_files("s3://texts/a[1]/*.jsonl")
    assert found.path == "s3://texts/a[1]/x.jsonl"
    check_writable("s3://texts/a[1]")
    assert s3.names("a") == ["a1/x.jsonl", "a[1]/x.jsonl"]


CHECKS = """
import json, os, sys
from beam_gpte.files.cloud import check_bucket

def error_of(bucket, **changes):
    os.environ.update({name: value for name, value in changes.items() if value})
    for name in [name for name, value in changes.items() if not value]:
        os.environ.pop(name, None)
    try:
        check_bucket(f"s3://{bucket}/x")
    except Exception as error:
        return f"{type(error).__name__}: {error}"

results = [
    error_of("texts", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None),
    error_of("texts", AWS_PROFILE="none"),
    error_of("texts", AWS_PROFILE=None, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x"),
    error_of("other", AWS_ENDPOINT_URL_S3=sys.argv[1]),
    error_of("other", AWS_ENDPOINT_URL_S3="nowhere"),
]
sys.modules["boto3"] = None
results.append(error_of("another"))
print(json.dumps(results))
"""


def test_what_is_wrong_is_reported_in_one_line_at_once(s3: stores.S3, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    command = [sys.executable, "-c", CHECKS, f"http://127.0.0.1:{stores.free_port()}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    missing, profile, right, no_server, no_url, no_package = json.loads(done.stdout)
    advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure"
    for line in (missing, profile):
        assert line.startswith("InputError: s3://texts: no AWS credentials (")
        assert line.endswith(advice)
    assert right is None
    for line in (no_server, no_url):
        assert line.startswith("InputError: s3://other: S3 does not answer (")
    assert no_package.startswith("InputError: s3://another: needs AWS's package (")
    assert no_package.endswith("pip install 'beam-gpte[aws]'")
    assert not any("\n" in line for line in (missing, profile, no_server, no_url, no_package))
