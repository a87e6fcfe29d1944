"""Know which flags Beam takes, and which the engines behind a job service do."""

import argparse
import re
from collections.abc import Iterable

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from beam_gpte.cli.option_parser import OptionParser
from beam_gpte.core.errors import InputError

ASK_SECONDS = 10  # for a job service's list of options

# Options of Beam 2.62's FlinkPipelineOptions, which Python does not declare.
FLINK = """
    allow_non_restored_state attached_mode auto_balance_write_files_sharding_enabled
    auto_watermark_interval checkpoint_timeout_millis checkpointing_interval checkpointing_mode
    disable_metrics enable_stable_input_drain execution_mode_for_batch execution_retry_delay
    externalized_checkpoints_enabled fail_on_checkpointing_errors faster_copy
    file_input_split_max_size_mb finish_bundle_before_checkpointing flink_conf_dir
    force_unaligned_checkpoint_enabled job_check_interval_in_secs latency_tracking_interval
    max_bundle_size max_bundle_time_mills min_pause_between_checkpoints num_concurrent_checkpoints
    number_of_execution_retries object_reuse operator_chaining re_iterable_group_by_key_result
    report_checkpoint_duration retain_externalized_checkpoints_on_cancellation savepoint_path
    shutdown_sources_after_idle_ms state_backend state_backend_factory state_backend_storage_path
    unaligned_checkpoint_enabled use_data_stream_for_batch
"""
# Those of SparkPipelineOptions and SparkCommonPipelineOptions.
SPARK = """
    batch_interval_millis bundle_size cache_disabled checkpoint_dir checkpoint_duration_millis
    enable_spark_metric_sinks max_records_per_batch min_read_time_millis read_time_percentage
    spark_master storage_level streaming_timeout_ms uses_provided_spark_context
"""


def beam_parser() -> argparse.ArgumentParser:
    """Make a parser of all options that Beam declares in Python."""
    parser = _BeamParser(allow_abbrev=False, add_help=False)
    for options in _declared(PipelineOptions):
        options._add_argparse_args(parser)
    return parser


def flags_of_engines(names: Iterable[str], job_endpoint: str | None) -> frozenset[str]:
    """List the flags of Flink and Spark.

    Args:
      names: of flags; if one is not among them, the job service is asked for those that it takes.
      job_endpoint: of the job service, if there is one.

    Raises:
      InputError: the job service does not answer.
    """
    known = frozenset(f"--{name}" for name in (*FLINK.split(), *SPARK.split()))
    if set(names) <= known or not re.search(r":\d+$", job_endpoint or ""):
        return known
    return known | _of_service(str(job_endpoint))


class _BeamParser(OptionParser, _BeamArgumentParser):
    """Report wrong values as ours do."""


def _declared(options: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    # two of the same name, of a module that was loaded twice, would conflict
    return list({str(one): one for one in options.__subclasses__()}.values())


def _of_service(endpoint: str) -> frozenset[str]:
    request = beam_job_api_pb2.DescribePipelineOptionsRequest()
    try:
        with grpc.insecure_channel(endpoint) as channel:
            service = beam_job_api_pb2_grpc.JobServiceStub(channel)
            found = service.DescribePipelineOptions(
                request, timeout=ASK_SECONDS, wait_for_ready=True
            )
    except grpc.RpcError as error:
        raise InputError(
            f"job_endpoint {endpoint!r}: no job service answers there ({error.code().name}); "
            "start it, or name its host and port"
        ) from error
    return frozenset(f"--{option.name}" for option in found.options)
