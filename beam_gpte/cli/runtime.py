"""What all programs in `pipelines/` share: options, the local runner, one line for a mistake, a summary, a page."""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import check_model
from beam_gpte.core.errors import InputError
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.remote_model import check_remote_model, is_remote_model
from beam_gpte.reports.page import Run
from beam_gpte.reports.sample import SAMPLE_FILE
from beam_gpte.sinks.final_names import WrittenFile
from beam_gpte.sources.corpus_files import match_files, read_schema

LOCAL_STREAM_RUNNER = (
    "BundleBasedDirectRunner"  # Beam's in-process runner with timers of processing time
)
LOCAL_RUNNER = (
    "FnApiRunner"  # Beam's in-process runner; DirectRunner would first try to download another
)


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's arguments; a mistake in what the user gave is one line and exit code 2."""
    try:
        main(sys.argv[1:])
    except Exception as error:
        line = _input_error(error)
        if line is None:
            raise
        print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)
        sys.exit(2)


def local_options(options: PipelineOptions) -> bool:
    """Without a runner named, run in this process, one thread a core; says whether the run is local."""
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
        if direct.direct_running_mode == "in_memory" and direct.direct_num_workers == 1:
            direct.direct_running_mode, direct.direct_num_workers = (
                "multi_threading",
                os.cpu_count() or 1,
            )
    local = standard.runner in (LOCAL_RUNNER, "DirectRunner")
    if local:
        _quieten()
    return local


def _quieten() -> None:
    # what goes wrong is in the exception; Beam's workers log it two or three times more
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam 2.77 says the first of its own memory figure, once a thread, on Linux too, and the second of BigQuery
    idle = ("Resource module is not available", "apitools not found")
    logging.getLogger().addFilter(lambda record: not any(text in str(record.msg) for text in idle))


def local_stream_options(options: PipelineOptions) -> bool:
    """As `local_options`, for a stream: without a runner named, the in-process runner that can run one."""
    standard = options.view_as(StandardOptions)
    standard.runner, standard.streaming = standard.runner or LOCAL_STREAM_RUNNER, True
    if standard.runner == LOCAL_STREAM_RUNNER:
        _quieten()
    return standard.runner == LOCAL_STREAM_RUNNER


def check_inputs(
    patterns: list[str], text_column: str, id_column: str | None, config: EncoderConfig
) -> None:
    """Refuse, before the job starts, files, columns and models that are not there.

    Raises:
      InputError: a pattern matches no file, the first file lacks a column, or there is no such model.
    """
    first = match_files(patterns)[0].path
    present = read_schema(first, text_column=text_column)
    for column in (text_column, id_column):
        if column is not None and column not in present:
            raise InputError(f"no column {column!r} in {first}; it has {', '.join(present)}")
    check_model_exists(config)


def check_model_exists(config: EncoderConfig) -> None:
    """Raise `InputError` if there is no such model."""
    if is_remote_model(config.model):
        check_remote_model(config.model)
    else:
        check_model(config)


def run_pipeline(pipeline: beam.Pipeline, local: bool) -> Any:
    """Run to the end; what Beam's in-process workers print of an error on the way is kept for errors of ours."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed) if local else contextlib.nullcontext():
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        if _input_error(error) is None:
            sys.stderr.write(printed.getvalue())
        raise
    sys.stderr.write(printed.getvalue())
    return result


@contextlib.contextmanager
def stop_file() -> Iterator[str]:
    """A path at which a file appears with SIGTERM or Ctrl-C, for `WatchCorpus(stop=...)`; a second Ctrl-C ends at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stop")

        def stop(number: int, _: FrameType | None) -> None:
            if path.exists() and number == signal.SIGINT:
                raise KeyboardInterrupt
            path.touch()

        previous = {
            number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield str(path)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def count_rows(written: beam.PCollection[WrittenFile]) -> beam.pvalue.AsSingleton:
    """How many rows were written, as a side input."""
    rows = written | "Rows" >> beam.Map(lambda file: file.rows).with_output_types(int)
    return rows | "Sum" >> beam.CombineGlobally(sum).as_singleton_view()


def print_summary(summary: dict[str, Any]) -> None:
    """The summary for a person: one line a figure, none for what did not happen."""
    for name, value in summary.items():
        if value in (None, {}, []):
            continue
        if isinstance(value, dict):
            for reason, count in value.items():
                print(f"{'':>14}  {count:,} x {reason}")
        else:
            shown = f"{value:,}" if isinstance(value, int | float) else value
            print(f"{name.replace('_', ' '):>16}  {shown}")


def counters(result: Any) -> dict[str, int]:
    """All counters of a finished run, by name."""
    totals: dict[str, int] = {}
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        name = metric.key.metric.name
        totals[name] = totals.get(name, 0) + (
            metric.committed if metric.committed is not None else metric.attempted
        )
    return totals


def add_report_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", help="HTML file: a page with charts and examples of the run (extra report)"
    )


def sample_file(output: str) -> str:
    """Where a run leaves the rows that its page shows."""
    return f"{output.rstrip('/')}/{SAMPLE_FILE}"


def run_of(program: str, own: PipelineOptions, result: Any, seconds: float) -> Run:
    """What a page says of a finished run: all options of the program, those of Beam's that were given, and its speed."""
    parser = argparse.ArgumentParser(add_help=False)
    cast(Any, type(own))._add_argparse_args(parser)
    mine = {action.dest: getattr(own, action.dest) for action in parser._actions}
    given = {
        name: value
        for name, value in own.get_all_options(drop_default=True).items()
        if name not in mine
    }
    return Run(program, {**mine, **dict(sorted(given.items()))}, speed(result, seconds))


def speed(result: Any, seconds: float) -> dict[str, float]:
    """Figures of a finished run, by name; those of the model only where one ran."""
    count, spread = counters(result), distributions(result)
    figures: dict[str, float] = {"seconds": round(seconds, 2)}
    for name in ("texts", "tokens"):
        if count.get(name):
            figures |= {
                f"{name}_embedded": count[name],
                f"{name}_per_second": round(count[name] / seconds, 1),
            }
    if "model_milliseconds" in spread:
        busy = spread["model_milliseconds"]
        figures |= {
            "batches": busy.count,
            "model_seconds_of_all_threads": round(busy.sum / 1000, 2),
        }
    if "padding_percent" in spread:
        padding = spread["padding_percent"]
        figures |= {
            "padding_percent": round(padding.sum / padding.count, 2),
            "padding_percent_at_most": padding.largest,
        }
    named = {
        "texts_repeated": "repeated_texts",
        "tokens_dropped": "tokens_cut_off",
        "out_of_memory_retries": "retries",
    }
    return figures | {shown: count[name] for name, shown in named.items() if count.get(name)}


@dataclasses.dataclass(frozen=True)
class Spread:
    """What Beam says of a distribution of whole numbers."""

    sum: int = 0
    count: int = 0
    largest: int = 0


def distributions(result: Any) -> dict[str, Spread]:
    """All distributions of a finished run, by name."""
    found: dict[str, Spread] = {}
    for metric in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))[
        "distributions"
    ]:
        value = metric.committed if metric.committed is not None else metric.attempted
        if value.count:
            name = metric.key.metric.name
            previous = found.get(name, Spread())
            found[name] = Spread(
                previous.sum + value.sum,
                previous.count + value.count,
                max(previous.largest, value.max),
            )
    return found


def count_files(pattern: str) -> int:
    return len(FileSystems.match([pattern])[0].metadata_list)


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began


def _input_error(error: Exception) -> str | None:
    """The message of an `InputError`, also where a runner wrapped it in an exception of its own."""
    if isinstance(error, InputError):
        message = str(error)
    else:
        found = re.findall(r"InputError: (.*)", str(error))
        if not found:
            return None
        message = found[-1]
    return re.sub(r" \[while running '.*$", "", message.splitlines()[0])
