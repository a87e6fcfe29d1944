"""Test what is said of a missing bucket, key or server of S3."""

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


def environment(folder: Path) -> dict[str, str]:
    return {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }


def keys(key: str | None, secret: str | None) -> stores.Changes:
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}


def test_what_is_wrong_is_reported_in_one_line_at_once(s3: stores.S3, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{stores.free_port()}"
    cases: list[tuple[str, stores.Changes]] = [
        ("s3://texts/x", keys(None, None)),
        ("s3://texts/x", {"AWS_PROFILE": "none"}),
        ("s3://texts/x", {"AWS_PROFILE": None, **keys("x", "x")}),
        ("s3://other/x", {"AWS_ENDPOINT_URL_S3": nobody}),
        ("s3://other/x", {"AWS_ENDPOINT_URL_S3": "nowhere"}),
    ]
    missing, profile, right, no_server, no_url = stores.bucket_errors(cases, environment(tmp_path))
    advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure"
    for line in (missing, profile):
        assert line
        assert line.startswith("InputError: s3://texts: no AWS credentials (")
        assert line.endswith(advice)
    assert right is None
    for line in (no_server, no_url):
        assert line
        assert line.startswith("PassingInputError: s3://other: S3 does not answer (")
    (no_package,) = stores.bucket_errors([("s3://another/x", {})], {}, "boto3")
    assert no_package
    assert no_package.startswith("InputError: s3://another: needs AWS's package (")
    assert no_package.endswith("pip install 'beam-gpte[aws]'")


def test_credentials_without_permission_are_reported_in_one_line(
    s3: stores.S3, tmp_path: Path
) -> None:
    key, secret = s3.new_user()
    cases: list[tuple[str, stores.Changes]] = [
        ("s3://texts/x", keys(key, secret)),
        ("s3://texts/x", keys(key, "wrong")),
        ("s3://texts/x", keys("AKIAUNKNOWN", "wrong")),
        ("s3://missing/x", keys(key, secret)),
    ]
    with s3.permissions():
        found = stores.bucket_errors(cases, environment(tmp_path))
    codes = ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied")
    for (path, _), code, line in zip(cases, codes, found, strict=True):
        assert line
        bucket = path.removesuffix("/x")
        begin = f"InputError: {bucket}: these credentials may not list the bucket (An error"
        assert line.startswith(begin)
        assert f"({code})" in line
        assert line.endswith("; let them list it")
