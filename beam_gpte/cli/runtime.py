"""Share what all programs in `pipelines/` need.

options --> checks --> a local or remote run --> metrics --> summary and page

A user's error is printed in one line.

What meets in `count_rows`: the numbers of rows in all files that a sink wrote, known only then.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, cast

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_gpte._quiet import drop_messages
from beam_gpte.cli.any_rows import first_columns
from beam_gpte.cli.escaped_output import escaped, one_line
from beam_gpte.cli.remote_jobs import JobError, mistake_in, run_job
from beam_gpte.cli.runners import check_job_service, use_prism
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import check_model
from beam_gpte.core.errors import InputError, NoRowsError
from beam_gpte.core.machine import cores
from beam_gpte.core.process import claim_process
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import remove_files
from beam_gpte.files.remote_model import check_remote_model, is_remote_model
from beam_gpte.reports.masking import NOT_SHOWN
from beam_gpte.reports.page import Run, record_command
from beam_gpte.reports.sample import SAMPLE_FILE
from beam_gpte.sinks import write_parquet
from beam_gpte.sinks.final_names import WrittenFile
from beam_gpte.sources.output_columns import committed_files

# Beam's in-process runner; DirectRunner would first try to download another
LOCAL_RUNNER = "FnApiRunner"
# Beam's options whose values a page shows; of those unknown here a value may be a secret
HARMLESS_OPTIONS = (
    "autoscaling_algorithm",
    "direct_num_workers",
    "direct_running_mode",
    "disk_size_gb",
    "environment_type",
    "job_name",
    "machine_type",
    "max_num_workers",
    "num_workers",
    "number_of_worker_harness_threads",
    "parallelism",
    "region",
    "runner",
    "sdk_worker_parallelism",
    "streaming",
)


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the arguments of the command line.

    An `InputError` becomes one line on standard error and exit code 2, a `NoRowsError` code 3, a
    `JobError` code 1; other errors are printed with their traceback, and exit code 1.
    """
    claim_process()
    record_command(sys.argv)
    try:
        with contextlib.redirect_stdout(escaped(sys.stdout)):
            main(sys.argv[1:])
    except Exception as error:
        line, code = _last_line(error)
        if line is None:
            traceback.print_exc(file=escaped(sys.stderr))
        else:
            print(f"{os.path.basename(sys.argv[0])}: {line}", file=escaped(sys.stderr))
        sys.exit(code)


def _last_line(error: Exception) -> tuple[str | None, int]:
    """Return what a program prints of an error, None for its traceback, and its exit code."""
    mistake = _mistake(error)
    if mistake is not None:
        return str(mistake), 3 if isinstance(mistake, NoRowsError) else 2
    return (str(error) if isinstance(error, JobError) else None), 1


def local_options(options: PipelineOptions) -> bool:
    """Set the in-process runner with one thread per core, unless a runner is named.

    Returns:
      Whether the run is local.

    Raises:
      InputError: the runner is Prism, which is not installed, or a job service that is not there.
    """
    check_job_service(options)
    FileSystems.set_options(options)  # for checks before the run: keys of stores are flags too
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
        if direct.direct_running_mode == "in_memory" and direct.direct_num_workers == 1:
            direct.direct_running_mode = "multi_threading"
            direct.direct_num_workers = cores()
    local = standard.runner in (LOCAL_RUNNER, "DirectRunner")
    if use_prism(options) or local:
        silence_beam()
    return local


def silence_beam() -> None:
    """Leave out what Beam logs on a local run."""
    # errors are in the exception; Beam's workers log each two or three times more
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam 2.77 warns of its memory metric, once per thread, on Linux too, and of BigQuery
    drop_messages(("Resource module is not available", "apitools not found"))


def check_inputs(
    patterns: list[str], text_column: str, id_column: str | None, config: EncoderConfig
) -> tuple[str, list[str]]:
    """Check before the job starts that files, columns and model exist.

    Returns:
      The first file that has columns, and their names.

    Raises:
      InputError: a pattern matches no file, the first file lacks a column, or the model is missing.
      NoRowsError: all files are empty.
    """
    first, present = first_columns(patterns, text_column, "input")
    for column in (text_column, id_column):
        if column is not None and column not in present:
            raise InputError(f"no column {column!r} in {first}; it has {', '.join(present)}")
    check_model_exists(config)
    return first, present


def check_model_exists(config: EncoderConfig) -> None:
    """Raise `InputError` if the model does not exist."""
    if is_remote_model(config.model):
        check_remote_model(config.model)
    else:
        check_model(config)


def run_pipeline(pipeline: beam.Pipeline, local: bool, output: str) -> Any:
    """Run a pipeline to its end and return its result.

    Beam's in-process workers print a traceback of every error; that of an `InputError` is dropped.

    Args:
      pipeline: to run.
      local: whether its workers are in this process.
      output: the folder that it writes to.

    Raises:
      InputError: a worker met a mistake of the user's.
      JobError: an engine did not finish the job.
    """
    try:
        return _run_here(pipeline) if local else run_job(pipeline, output)
    except BaseException:
        for path in (sample_file(output), gold_file(output)):
            with contextlib.suppress(OSError, BeamIOError):
                if FileSystems.exists(path):  # nobody is left who would read it
                    remove_files([path])
        raise


def _run_here(pipeline: beam.Pipeline) -> Any:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        if _mistake(error) is None:
            _print_again(printed)
        raise
    _print_again(printed)
    return result


def _print_again(printed: io.StringIO) -> None:
    lines = printed.getvalue().replace("\r", "\n")  # of bars of libraries
    escaped(sys.stderr).write(lines)


def count_rows(written: beam.PCollection[WrittenFile]) -> beam.pvalue.AsSingleton:
    """Count the written rows, as a side input."""
    rows = written | "Rows" >> beam.Map(lambda file: file.rows).with_output_types(int)
    return rows | "Sum" >> beam.CombineGlobally(sum).as_singleton_view()


def print_summary(summary: dict[str, Any]) -> None:
    """Print one line per figure of the summary; empty and unknown ones are left out."""
    for name, value in summary.items():
        if value in (None, {}, []):
            continue
        if isinstance(value, dict):
            for reason, count in value.items():
                print(f"{'':>14}  {count:,} x {one_line(reason)}")
        else:
            shown = f"{value:,}" if isinstance(value, int | float) else one_line(value)
            print(f"{name.replace('_', ' '):>16}  {shown}")


def counters(result: Any) -> dict[str, int]:
    """Read all counters of a finished run, by name."""
    totals: dict[str, int] = {}
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        name = metric.key.metric.name
        value = metric.committed if metric.committed is not None else metric.attempted
        totals[name] = totals.get(name, 0) + value
    return totals


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--report`."""
    parser.add_argument(
        "--report",
        help="HTML file to write a page to, with charts and examples (needs the extra report)",
    )


def sample_file(output: str) -> str:
    """Name the file for the rows that a run's page shows."""
    return f"{output.rstrip('/')}/{SAMPLE_FILE}"


def gold_file(output: str) -> str:
    """Name the file for the rows of gold pairs that a run's page shows."""
    return f"{sample_file(output)}-gold"


def run_of(program: str, options: PipelineOptions, result: Any, seconds: float) -> Run:
    """Describe a finished run for its page.

    Args:
      program: its file name.
      options: of the program; Beam's options are shown only where they were given, and their
        values only if they are `HARMLESS_OPTIONS`: others may be keys and passwords.
      result: of the pipeline.
      seconds: that the run took.
    """
    parser = argparse.ArgumentParser(add_help=False)
    cast(Any, type(options))._add_argparse_args(parser)
    shown = {action.dest: getattr(options, action.dest) for action in parser._actions}
    given = options.get_all_options(drop_default=True)
    beam_options = {
        name: given[name] if name in HARMLESS_OPTIONS else NOT_SHOWN
        for name in sorted(given)
        if name not in shown
    }
    return Run(program, {**shown, **beam_options}, speed(result, seconds))


def speed(result: Any, seconds: float) -> dict[str, float]:
    """Compute the figures of a finished run, by name; those of the model only if one ran."""
    count, spread = counters(result), distributions(result)
    figures: dict[str, float] = {"seconds": round(seconds, 2)}
    for name in ("texts", "tokens"):
        if count.get(name):
            figures[f"{name}_embedded"] = count[name]
            figures[f"{name}_per_second"] = round(count[name] / seconds, 1)
    if busy := spread.get("model_milliseconds"):
        figures["batches"] = busy.count
        figures["model_seconds_of_all_threads"] = round(busy.sum / 1000, 2)
    if padding := spread.get("padding_percent"):
        figures["padding_percent"] = round(padding.sum / padding.count, 2)
        figures["max_padding_percent"] = padding.max
    for name in ("texts_repeated", "tokens_dropped", "out_of_memory_retries"):
        if count.get(name):
            figures[name] = count[name]
    return figures


@dataclasses.dataclass(frozen=True)
class Spread:
    """Hold what Beam reports of a distribution of integers.

    Attributes:
      sum: of all values.
      count: how many there are.
      max: of them.
    """

    sum: int = 0
    count: int = 0
    max: int = 0


def distributions(result: Any) -> dict[str, Spread]:
    """Read all distributions of a finished run, by name."""
    found: dict[str, Spread] = {}
    metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    for metric in metrics["distributions"]:
        value = metric.committed if metric.committed is not None else metric.attempted
        if value.count:
            name = metric.key.metric.name
            before = found.get(name, Spread())
            count, largest = before.count + value.count, max(before.max, value.max)
            found[name] = Spread(before.sum + value.sum, count, largest)
    return found


def count_files(folder: str) -> int:
    """Count the Parquet files that `WriteVectorsToParquet` has written to a folder."""
    return len(committed_files(folder, write_parquet))


class Stopwatch:
    """Measure wall-clock seconds since construction."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since construction."""
        return time.monotonic() - self._began


def _mistake(error: Exception) -> InputError | None:
    """Return the mistake that an error is, even if a runner wrapped it; None for others."""
    return error if isinstance(error, InputError) else mistake_in(str(error))
