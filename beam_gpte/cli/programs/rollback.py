r"""Put back what the last change of a folder has replaced, where it was kept.

    beam-gpte delete vectors --ids withdrawn.txt --keep_previous
    beam-gpte rollback vectors

Rows that were added since stay. With `--keep_previous` a rollback can be undone by another one.
"""

import argparse

from beam_gpte.cli.arguments import Program
from beam_gpte.cli.runtime import Stopwatch, print_summary
from beam_gpte.core.errors import InputError
from beam_gpte.sinks.duckdb_sql import is_database
from beam_gpte.sinks.folders.parquet_folder import check_committed
from beam_gpte.sinks.folders.roll_back import roll_back


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of Parquet files, whose last change kept what it replaced")
    parser.add_argument(
        "--keep_previous", action="store_true", help="keep what is replaced now, to undo this"
    )


def run(options: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if is_database(options.folder):
        raise InputError(
            f"{options.folder}: a database keeps no previous state; copy the file before a change"
        )
    check_committed(options.folder)
    files = roll_back(options.folder, options.keep_previous)
    summary = {
        "files": len(files),
        "rows": sum(file.rows for file in files),
        "folder": options.folder,
        "seconds": round(watch.seconds(), 2),
    }
    print_summary(summary)


PROGRAM = Program("rollback", __doc__, add_options, run, is_job=False)
