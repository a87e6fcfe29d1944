r"""Take rows out of an output by their ids: out of its Parquet files, its DuckDB file, or both.

    beam-gpte delete vectors vectors.duckdb --ids withdrawn.txt --dry_run
    beam-gpte delete vectors vectors.duckdb --ids withdrawn.txt

The chunks of a text go with its id. Only files with such rows are written again, and readers see
the rows before or after. A stream may append meanwhile; rows of these ids that it adds later stay.
What an earlier run has kept with `keep_previous` goes too, unless `--keep_previous` is given.
"""

import argparse

from beam_gpte import Deleted, DeleteVectors, ReplaceOptions
from beam_gpte.cli.arguments import Program
from beam_gpte.cli.escaped_output import one_line
from beam_gpte.cli.progress import shown_progress
from beam_gpte.cli.runtime import (
    Stopwatch,
    counters,
    local_options,
    print_summary,
    run_pipeline,
)
from beam_gpte.core.columns import ID, PARENT_ID
from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import absolute, is_remote
from beam_gpte.sinks.duckdb_sql import LOCK_SECONDS, connect, is_database
from beam_gpte.sinks.duckdb_sync import check_ids_of
from beam_gpte.sinks.folders.delete_vectors import check_file
from beam_gpte.sinks.folders.find_rows import MISSING, CountMissing, FindRows, Found
from beam_gpte.sinks.folders.parquet_folder import check_committed
from beam_gpte.sinks.folders.replace_options import KEEPS_NO_PREVIOUS
from beam_gpte.sinks.folders.rewrite_files import read_schema
from beam_gpte.sinks.runs.outputs import place_key
from beam_gpte.sinks.write_duckdb import folder_of
from beam_gpte.sources.formats.encodings import UTF_8
from beam_gpte.sources.id_files import IDS, ReadIds, check_ids

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

ROWS = "rows of "  # begins the counter of a place
END = "nothing was changed; without --dry_run these rows are deleted"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="+", help="folder of Parquet files, or DuckDB file (.duckdb, .ddb, .db)"
    )
    parser.add_argument(
        "--ids",
        required=True,
        metavar="FILE",
        help="ids to delete: a text file with one per line, or CSV, TSV, JSON Lines or Parquet",
    )
    parser.add_argument("--id_column", default=ID, help="ids, in all of these")
    parser.add_argument(
        "--parent_column", default=PARENT_ID, help="the id of the text that a chunk is of"
    )
    parser.add_argument(
        "--encoding",
        default=UTF_8,
        metavar="NAME",
        help="of FILE, if it is not Parquet, e.g. latin-1 or utf-16",
    )
    parser.add_argument("--table", default="vectors", help="of the DuckDB file")
    parser.add_argument(
        "--keep_previous",
        action="store_true",
        help="keep what is replaced in folders, for beam-gpte rollback",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="count the rows that would go, and the ids that are found nowhere; change nothing",
    )


def places_of(options: argparse.Namespace) -> list[str]:
    """List the paths, each place once."""
    first = {place_key("", path): path for path in reversed(options.path)}
    return sorted(first.values(), key=options.path.index)


def replacing_of(options: argparse.Namespace, path: str) -> ReplaceOptions:
    keep = options.keep_previous and not is_database(path)
    return ReplaceOptions(options.id_column, options.parent_column, keep_previous=keep)


def read_ids_of(options: argparse.Namespace) -> ReadIds:
    return ReadIds(absolute(options.ids), options.id_column, options.encoding)


def build(pipeline: beam.Pipeline, options: argparse.Namespace) -> None:
    ids = pipeline | read_ids_of(options)
    for number, path in enumerate(places_of(options)):
        replacing = replacing_of(options, path)
        delete = f"Delete_{number}" >> DeleteVectors(path, options.table, replacing)
        count = beam.Map(count_rows, path).with_output_types(int)
        ids | delete | f"Count_{number}" >> count


def build_dry(pipeline: beam.Pipeline, options: argparse.Namespace) -> None:
    ids = pipeline | read_ids_of(options)
    places = []
    for number, path in enumerate(places_of(options)):
        replacing = replacing_of(options, path)
        found = ids | f"Find_{number}" >> FindRows(path, options.table, replacing)
        found | f"Count_{number}" >> beam.Map(count_rows, path).with_output_types(int)
        places.append(found)
    (ids, *places) | CountMissing()


def count_rows(report: Deleted | Found, path: str) -> int:
    """Count the rows of a report for the place that the user knows by this path."""
    Metrics.counter(NAMESPACE, f"{ROWS}{path}").inc(report.rows)
    return report.rows


def run(options: argparse.Namespace, flags: list[str]) -> None:
    beam_options, watch = PipelineOptions(flags), Stopwatch()
    local = local_options(beam_options, read_of(options))
    check(options)
    with shown_progress(local, PROGRAM.name, read_of(options)) as runner:
        pipeline = beam.Pipeline(runner=runner, options=beam_options)
        (build_dry if options.dry_run else build)(pipeline, options)
        first = places_of(options)[0]
        folder = folder_of(absolute(first)) if is_database(first) else first
        count = counters(run_pipeline(pipeline, local, folder))
    print_counts(count, options)
    print_summary({"seconds": round(watch.seconds(), 2)})
    if options.dry_run:
        print(END)


def read_of(options: argparse.Namespace) -> list[str]:
    """List the files that are read, as patterns."""
    files = (
        path if is_database(path) else f"{path.rstrip('/')}/**/*.parquet" for path in options.path
    )
    return [options.ids, *files]


def print_counts(count: dict[str, int], options: argparse.Namespace) -> None:
    """Print a line per place, as the user named it."""
    missing = count.get(MISSING, 0) if options.dry_run else None
    print_summary({"ids": count.get(IDS, 0), "ids_not_found": missing})
    kind = "would go" if options.dry_run else "deleted"
    for path in places_of(options):
        print(f"{kind:>16}  {count.get(f'{ROWS}{path}', 0):,} rows of {one_line(path)}")


def check(options: argparse.Namespace) -> None:
    """Check before the job starts what can be checked on this machine."""
    if not options.id_column:
        raise InputError("--id_column is empty; name the column, or omit it")
    places = places_of(options)
    if options.keep_previous and all(map(is_database, places)):
        raise InputError(KEEPS_NO_PREVIOUS)
    with naming("--ids"):
        check_ids(absolute(options.ids), options.id_column, options.encoding)
    for path in places:
        (check_table if is_database(path) else check_column)(path, options)


def check_column(path: str, options: argparse.Namespace) -> None:
    """Refuse a folder without files of a sink, or whose first file has no ids."""
    names = read_schema(check_committed(path)).names
    if options.id_column not in names:
        raise InputError(f"no column {options.id_column!r} in {path}; it has {', '.join(names)}")


def check_table(path: str, options: argparse.Namespace) -> None:
    """Refuse a database that is not there, or lacks the table or its ids; a remote one later."""
    check_file(path)
    if not is_remote(path):
        names = options.table, options.id_column, options.parent_column
        with connect(path, path, LOCK_SECONDS, read_only=True) as connection, naming(path):
            check_ids_of(connection, names)


PROGRAM = Program("delete", __doc__, add_options, run)
