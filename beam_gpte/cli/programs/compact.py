r"""Put the small files of a folder of Parquet files together in few.

    beam-gpte compact vectors --dry_run
    beam-gpte compact vectors

Rows and their order within a partition stay. Readers see the old files or the new ones, and a
stream may append meanwhile. A reader that has listed the old files and not opened them fails,
unless `--keep_previous` keeps them.
"""

import argparse
from typing import Any

from beam_gpte import CompactVectors
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.progress import shown_progress
from beam_gpte.cli.runtime import (
    Stopwatch,
    counters,
    local_options,
    print_summary,
    run_pipeline,
)
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import absolute
from beam_gpte.sinks.final_names import WrittenFile
from beam_gpte.sinks.folders.compact_vectors import Size, plan_groups, size_of
from beam_gpte.sinks.folders.parquet_folder import check_committed
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

ROWS, FILES = "rows_together", "files_together"  # counters: of the new files
END = "nothing was changed; without --dry_run these files are put together"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of Parquet files that a run has written")
    parser.add_argument(
        "--max_bytes_per_file",
        type=int,
        default=MAX_BYTES_PER_FILE,
        metavar="N",
        help="of a new file; files of more than half of it stay as they are",
    )
    parser.add_argument(
        "--keep_previous",
        action="store_true",
        help="keep the old files, for readers that have listed them",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="say how many files would become how many; change nothing",
    )


def compact_of(options: argparse.Namespace) -> CompactVectors:
    return CompactVectors(options.folder, options.max_bytes_per_file, options.keep_previous)


def build(pipeline: beam.Pipeline, options: argparse.Namespace) -> None:
    count = beam.Map(count_file).with_output_types(int)
    pipeline | compact_of(options) | "Count" >> count


def count_file(file: WrittenFile) -> int:
    """Count a new file and its rows."""
    Metrics.counter(NAMESPACE, FILES).inc()
    Metrics.counter(NAMESPACE, ROWS).inc(file.rows)
    return file.rows


def run(options: argparse.Namespace, flags: list[str]) -> None:
    beam_options, watch = PipelineOptions(flags), Stopwatch()
    files = [f"{options.folder.rstrip('/')}/**/*.parquet"]
    local = local_options(beam_options, files)
    compact_of(options)
    check_committed(options.folder)
    folder = absolute(options.folder)
    before = size_of(folder)
    if options.dry_run:
        groups = plan_groups(folder, options.max_bytes_per_file)
        together = sum(map(len, groups))
        left = before.files - together + len(groups)
        print_summary(summary_of(before, left, {"put_together": together}))
        print(END)
        return
    with shown_progress(local, PROGRAM.name, files) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        build(pipeline, options)
        count = counters(run_pipeline(pipeline, local, options.folder))
    after = size_of(folder)
    more = {
        "bytes_after": after.bytes,
        "new_files": count.get(FILES, 0),
        "rows_in_them": count.get(ROWS, 0),
        "seconds": round(watch.seconds(), 2),
    }
    print_summary(summary_of(before, after.files, more))


def summary_of(before: Size, after: int, more: dict[str, Any]) -> dict[str, Any]:
    return {"files": before.files, "files_after": after, "bytes": before.bytes, **more}


PROGRAM = Program("compact", __doc__, add_options, run)
