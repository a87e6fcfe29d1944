"""Print what a job would cost, and write nothing at its destination: `--dry_run`."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from beam_gpte.cli.corpus_options import Options
from beam_gpte.cli.forecast.forecast import Forecast, predict
from beam_gpte.cli.forecast.jobs import Job
from beam_gpte.cli.runtime import print_summary
from beam_gpte.files.folders import is_remote
from beam_gpte.sources.match_files import find_files, pattern_list

MEGABYTE = 1_000_000
END = "nothing was written; without --dry_run the job runs"


def add_dry_run_option(options: Options) -> None:
    """Add the option `--dry_run`."""
    options.add_argument(
        "--dry_run",
        action="store_true",
        help="check all that a run checks at its start, predict from a sample how many rows and "
        "tokens there are, seconds, memory and bytes to write, and write nothing",
    )


def dry_run(job: Job) -> None:
    """Print a forecast; of a stream without input nothing."""
    files = (file for side in job.sides.values() for file in pattern_list(side.files))
    if job.is_stream and not any(map(find_files, files)):
        print(f"no file matches {' '.join(job.sides['input'].files)} now")
        print(END)
        return
    forecast = predict(job)
    figures = figures_of(forecast)
    if job.is_stream:
        figures["rows_per_second"] = forecast.rate and about(forecast.rate)
    print_summary(figures)
    if job.is_elsewhere:
        print("seconds and memory are predicted only for a run within this process")
    print(END)


def figures_of(forecast: Forecast) -> dict[str, Any]:
    """Name the figures of a forecast: what was counted as it is, other figures as `about`."""
    rows = f"{forecast.rows:,}" if forecast.is_exact else about(forecast.rows)
    written = forecast.written
    sample = "all rows" if forecast.is_whole else f"{forecast.sampled:,} rows"
    return {
        "sample": sample,
        "rows": rows,
        "tokens": _counted(forecast.tokens, forecast),
        "truncated": _counted(forecast.truncated, forecast),
        "rejected": _counted(forecast.rejected, forecast),
        "seconds": forecast.seconds and about(forecast.seconds),
        "CPU_seconds": forecast.cpu and about(forecast.cpu),
        "memory": forecast.memory and f"{about(forecast.memory / MEGABYTE)} MB",
        "written": None if written is None else f"{about(written / MEGABYTE)} MB",
    }


def _counted(count: int | None, forecast: Forecast) -> str | None:
    if count is None:
        return None
    is_exact = forecast.is_whole and forecast.is_counted
    return f"{count:,}" if is_exact else about(count)


def about(number: float) -> str:
    """Write a number in three digits."""
    rounded = float(f"{number:.3g}")
    return f"about {rounded:,.0f}" if rounded >= 100 else f"about {rounded:g}"


@contextlib.contextmanager
def no_new_folders(dry: bool, *places: str | None) -> Iterator[None]:
    """Remove the folders that checks of a dry run make while the context is open.

    Args:
      dry: whether it is one.
      *places: of the output: folders and files; None for none.
    """
    local = [place for place in places if dry and place and not is_remote(place)]
    new = {folder for place in local for folder in _new(place)}
    try:
        yield
    finally:
        for folder in sorted(new, key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _new(place: str) -> Iterator[str]:
    """Yield the folders up from a place that are not there."""
    path = os.path.abspath(place)
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)
