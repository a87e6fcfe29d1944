"""Report what is wrong with an S3 bucket or its credentials; see `files.cloud`."""

from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from beam_gpte.core.errors import InputError, PassingInputError

_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}


def check_s3_bucket(bucket: str, options: PipelineOptions, seconds: int) -> None:
    """Check that a bucket exists and can be listed, by one request that is not retried.

    Args:
      bucket: its name.
      options: with `S3Options`, as Beam's own file system reads them.
      seconds: to wait for the answer.

    Raises:
      InputError: AWS's package is missing, there are no credentials or they are refused, or the
        bucket is missing.
    """
    where = f"s3://{bucket}"
    try:
        import boto3
        from botocore import exceptions as aws
        from botocore.config import Config
    except ImportError as error:
        raise InputError(
            f"{where}: needs AWS's package ({error}); pip install 'beam-gpte[aws]'"
        ) from error

    config = Config(connect_timeout=seconds, read_timeout=seconds, retries={"max_attempts": 0})
    try:
        client: Any = boto3.session.Session().client("s3", config=config, **_settings(options))
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
        raise InputError(
            f"{where}: no AWS credentials ({_brief(error)}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run: aws configure"
        ) from error
    except aws.ClientError as error:
        raise _explained(error, where) from error
    except (aws.BotoCoreError, ValueError) as error:  # ValueError: of an endpoint
        raise PassingInputError(
            f"{where}: S3 does not answer ({_brief(error)}); check region and endpoint, "
            "or try again later"
        ) from error


def _settings(options: PipelineOptions) -> dict[str, Any]:
    given = options.view_as(S3Options)
    return {
        "region_name": given.s3_region_name,
        "api_version": given.s3_api_version,
        "use_ssl": not given.s3_disable_ssl,
        "verify": given.s3_verify,
        "endpoint_url": given.s3_endpoint_url,
        "aws_access_key_id": given.s3_access_key_id,
        "aws_secret_access_key": given.s3_secret_access_key,
        "aws_session_token": given.s3_session_token,
    }


def _explained(error: Any, where: str) -> InputError:
    code = str(error.response.get("Error", {}).get("Code"))
    if code in ("NoSuchBucket", "404"):
        return InputError(f"{where}: there is no such bucket; create it, or name another")
    if code in _REFUSED:
        return InputError(
            f"{where}: these credentials may not list the bucket ({_brief(error)}); "
            "let them list it"
        )
    return InputError(f"{where}: S3 refuses to list the bucket ({_brief(error)}); check its region")


def _brief(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120].rstrip(".")
