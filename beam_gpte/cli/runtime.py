"""Share what all programs need.

options --> checks --> a local or remote run --> metrics --> summary and page

A user's error is printed in one line.

What meets in `count_rows`: the numbers of rows in all files that a sink wrote, known only then.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_gpte._quiet import drop_messages
from beam_gpte.cli.arguments import Program, parse
from beam_gpte.cli.corpus_options import Options
from beam_gpte.cli.escaped_output import escaped, one_line
from beam_gpte.cli.interrupts import Interrupts, leave
from beam_gpte.cli.remote_jobs import JobError, mistake_in, run_job, without_step
from beam_gpte.cli.runners import LOCAL_RUNNER, check_job_service, check_runner, use_prism
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError, NothingWrittenError
from beam_gpte.core.machine import cores
from beam_gpte.core.process import begin_lone_worker, begin_program
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.static.load_encoder import check_encoder
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import is_remote, remove_files
from beam_gpte.files.remote_model import check_remote_model, is_remote_model
from beam_gpte.reports.masking import NOT_SHOWN
from beam_gpte.reports.page import Run, record_command
from beam_gpte.reports.sample import SAMPLE_FILE
from beam_gpte.sinks import write_parquet
from beam_gpte.sinks.final_names import WrittenFile
from beam_gpte.sinks.folders.commit_rewritten import KINDS
from beam_gpte.sinks.runs.leftovers import remove_run
from beam_gpte.sinks.runs.outputs import temporary_folders
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.output_columns import committed_files

FEW_BYTES = 1 << 16
KEPT = (
    "what was committed is kept, and vectors that were computed; the same command goes on with them"
)

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


def run_program(program: Program, argv: Sequence[str], command: str) -> None:
    """Run a program on the arguments of the command line.

    Ends with exit code 0 if all went well, and for other codes with one line on standard error: 1
    for a failure of an engine, or of ours, whose traceback stands before; 2 for wrong use, an
    `InputError`; 3 if nothing but rejects was written, a `NothingWrittenError`; 130 if a batch run
    was interrupted.

    Args:
      program: to run.
      argv: its arguments.
      command: what its user typed to start it; the line begins with it.
    """
    begin_program()
    kept = KEPT if program.is_job else "bye"
    interrupts = Interrupts(command, kept)
    record_command([*command.split(), *argv])
    try:
        with contextlib.redirect_stdout(escaped(sys.stdout)):
            options, flags = parse(program, argv, command)
            program.run(options, flags)
    except KeyboardInterrupt:
        interrupts.end()
    except BrokenPipeError:  # whoever reads has seen enough; a job may have had more to write
        leave(int(program.is_job))
    except Exception as error:
        line, code = _last_line(error)
        if line is None:
            traceback.print_exc(file=escaped(sys.stderr))
        else:
            print(f"{command}: {line}", file=escaped(sys.stderr))
        sys.exit(code)


def _last_line(error: Exception) -> tuple[str | None, int]:
    """Return what a program prints of an error, None for its traceback, and its exit code."""
    mistake = _mistake(error)
    if mistake is not None:
        return without_step(str(mistake)), 3 if isinstance(mistake, NothingWrittenError) else 2
    return (str(error) if isinstance(error, JobError) else None), 1


def local_options(
    options: PipelineOptions, inputs: Sequence[str] = (), previous: str | None = None
) -> bool:
    """Set the in-process runner with one thread per core, unless a runner is named.

    Where the inputs have less than `FEW_BYTES` and there is no previous output, it has one thread,
    since others would cost more than they help; a model then runs in as many as there are cores.

    Args:
      options: of Beam; changed.
      inputs: files or globs.
      previous: a folder that is read too.

    Returns:
      Whether the run is local.

    Raises:
      InputError: the runner is unknown, Prism, which is not installed, or a job service that is not
        there.
    """
    check_runner(options)
    check_job_service(options)
    FileSystems.set_options(options)  # for checks before the run: keys of stores are flags too
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
        is_default = direct.direct_running_mode == "in_memory" and direct.direct_num_workers == 1
        if is_default and previous is None and _are_few(inputs):
            begin_lone_worker()
        elif is_default:
            direct.direct_running_mode = "multi_threading"
            direct.direct_num_workers = cores()
    local = standard.runner in (LOCAL_RUNNER, "DirectRunner")
    if use_prism(options) or local:
        silence_beam()
    return local


def _are_few(patterns: Sequence[str]) -> bool:
    if not patterns or any(map(is_remote, patterns)):
        return False
    try:
        return sum(file.size_in_bytes for file in match_files(patterns, [])) < FEW_BYTES
    except InputError:  # which the program says when it checks
        return False


def silence_beam() -> None:
    """Leave out what Beam logs on a local run."""
    # errors are in the exception; Beam's workers log each two or three times more
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam 2.77 warns of its memory metric, once per thread, on Linux too, and of BigQuery
    drop_messages(("Resource module is not available", "apitools not found"))


def check_model_exists(config: EncoderConfig | EndpointConfig) -> None:
    """Raise `InputError` if the model does not exist; a server is asked by the workers."""
    if isinstance(config, EndpointConfig):
        return
    remote = [name for name in (config.model, config.adapter or "") if is_remote_model(name)]
    for name in remote:
        check_remote_model(name)
    if not remote:
        check_encoder(config)


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
        if local:  # of a job elsewhere, `run_job` knows when it has ended
            for folder in temporary_folders(pipeline):
                remove_run(folder)
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


def counters(result: Any, step: str = "") -> dict[str, int]:
    """Read counters of a finished run, by name; with `step`, those of steps with it in their name.

    Args:
      result: of the pipeline.
      step: a transform; all by default.
    """
    totals: dict[str, int] = {}
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        if step not in metric.key.step:
            continue
        name = metric.key.metric.name
        value = metric.committed if metric.committed is not None else metric.attempted
        totals[name] = totals.get(name, 0) + value
    return totals


def changes(result: Any, sink: str) -> dict[str, int]:
    """Count the rows that a sink has added, changed, removed, left unchanged or kept."""
    found = counters(result, sink)
    return {kind: found.get(f"rows_{kind}", 0) for kind in KINDS}


def add_report_option(options: Options) -> None:
    """Add the option `--report`."""
    options.add_argument(
        "--report",
        help="HTML file to write a page to, with charts and examples (needs the extra report)",
    )


def sample_file(output: str) -> str:
    """Name the file for the rows that a run's page shows."""
    return f"{output.rstrip('/')}/{SAMPLE_FILE}"


def gold_file(output: str) -> str:
    """Name the file for the rows of gold pairs that a run's page shows."""
    return f"{sample_file(output)}-gold"


def run_of(
    program: str, options: argparse.Namespace, flags: list[str], result: Any, seconds: float
) -> Run:
    """Describe a finished run for its page.

    Args:
      program: its name.
      options: of the program.
      flags: of Beam, shown only where they were given, and their values only if they are
        `HARMLESS_OPTIONS`: others may be keys and passwords.
      result: of the pipeline.
      seconds: that the run took.
    """
    given = PipelineOptions(flags).get_all_options(drop_default=True)
    of_beam = {
        name: given[name] if name in HARMLESS_OPTIONS else NOT_SHOWN for name in sorted(given)
    }
    return Run(program, {**vars(options), **of_beam}, speed(result, seconds))


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
