"""Report what is wrong with a bucket or its credentials, in one line and at once.

Beam and the stores' clients retry for minutes before they report a missing key or a mistyped
bucket. One request, which is not retried, comes first. Everything else goes through Beam's file
systems.
"""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from beam_gpte.core.errors import InputError, PassingInputError
from beam_gpte.files.s3 import check_s3_bucket

SECONDS = 30  # for the answer to that request
_PREFIX = "gs://"


def check_bucket(path: str) -> None:
    """Check that the bucket of a gs:// or s3:// path exists and can be listed.

    Any other path is fine.

    Asks once per process.

    Raises:
      InputError: the store's package is missing, there are no credentials or they are refused, or
        there is no such bucket.
    """
    for prefix, check in ((_PREFIX, _check), ("s3://", _check_s3)):
        if path.startswith(prefix):
            check(path.removeprefix(prefix).split("/")[0])


@contextlib.contextmanager
def finding(path: str) -> Iterator[None]:
    """Raise a `FileNotFoundError` where a store's client finds no object, each in its own way."""
    try:
        yield
    except Exception as error:
        if _is_missing(error):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        raise


def _is_missing(error: Exception) -> bool:
    google = sys.modules.get("google.api_core.exceptions")
    if google is not None and isinstance(error, google.NotFound):
        return True
    aws = sys.modules.get("apache_beam.io.aws.clients.s3.messages")
    return aws is not None and isinstance(error, aws.S3ClientError) and error.code == 404


@functools.cache  # of successes; an exception is not remembered
def _check_s3(bucket: str) -> None:
    options = _options()
    FileSystems.set_options(options)  # Beam 2.77 opens no S3 without, and has none before a run
    check_s3_bucket(bucket, options, SECONDS)


def _options() -> PipelineOptions:
    """Return the options that Beam's own file systems read."""
    return FileSystems._pipeline_options or PipelineOptions()


@functools.cache
def _check(bucket: str) -> None:
    where = f"{_PREFIX}{bucket}"
    try:
        import google.auth.exceptions as auth
        from apache_beam.io.gcp import gcsio
        from google.api_core import exceptions as api
        from google.cloud import storage
    except ImportError as error:
        raise InputError(
            f"{where}: needs Google's packages ({error}); pip install 'beam-gpte[gcp]'"
        ) from error

    options = _options()
    missing = _missing_credentials(options)
    if missing and os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        raise _no_credentials(where, missing)
    try:
        client: Any = (
            storage.Client.create_anonymous_client()
            if missing
            else gcsio.create_storage_client(options)
        )
        next(iter(client.list_blobs(bucket, max_results=1, retry=None, timeout=SECONDS)), None)
    except (api.GoogleAPIError, auth.GoogleAuthError, OSError) as error:  # requests: OSErrors
        raise _explained(error, where, missing) from error


def _explained(error: Exception, where: str, missing: str | None) -> InputError:
    """Say what failed, and how to fix it."""
    import google.auth.exceptions as auth
    from google.api_core import exceptions as api

    refused = isinstance(error, api.Unauthorized | api.Forbidden)
    if isinstance(error, api.NotFound):
        return InputError(f"{where}: there is no such bucket; create it, or name another")
    if missing and (refused or isinstance(error, auth.GoogleAuthError)):
        # Google's client tries to renew anonymous credentials that a bucket refuses
        return _no_credentials(where, missing)
    if refused:
        return InputError(
            f"{where}: these credentials may not list the bucket ({_brief(error)}); "
            "grant storage.objects.list"
        )
    if isinstance(error, auth.TransportError):
        return InputError(
            f"{where}: no access token for the credentials ({_brief(error)}); check their token_uri"
        )
    if isinstance(error, auth.GoogleAuthError):
        return InputError(f"{where}: the credentials are refused ({_brief(error)}); replace them")
    return PassingInputError(
        f"{where}: Cloud Storage does not answer ({_brief(error)}); try again later"
    )


def _no_credentials(where: str, missing: str) -> InputError:
    return InputError(
        f"{where}: no Google Cloud credentials ({missing}); "
        "set GOOGLE_APPLICATION_CREDENTIALS to a key file, "
        "or run: gcloud auth application-default login"
    )


def _missing_credentials(options: PipelineOptions) -> str | None:
    """Return why there are no credentials, or None; Beam would ask five times in half a minute."""
    import google.auth

    try:
        google.auth.default(scopes=options.view_as(GoogleCloudOptions).gcp_oauth_scopes)
    except google.auth.exceptions.DefaultCredentialsError as error:
        return _brief(error)
    return None


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120].rstrip(".") if lines else type(error).__name__
