"""Write signatures of what `beam-gpte dedup` keeps, and compare with those of previous runs."""

import argparse

import apache_beam as beam

from beam_gpte import Block, Columns, InputError, ReadVectors, SignTexts
from beam_gpte.cli.corpus_options import Options
from beam_gpte.core.errors import naming
from beam_gpte.sinks import write_parquet
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.output_columns import committed_files

SIGNATURES = "signatures"  # the folder


def add_history_option(options: Options) -> None:
    """Add `--history`."""
    options.add_argument(
        "--history",
        nargs="+",
        help="outputs of previous runs with --signatures, or Parquet files of signatures, all of "
        "different ids: the lexical step, alone, removes rows near to one of them; of their texts "
        "it needs nothing",
    )


def add_signatures_option(options: Options) -> None:
    """Add `--signatures`."""
    options.add_argument(
        "--signatures",
        action="store_true",
        help="write signatures of the kept texts, for --history of later runs",
    )


def check_history(options: argparse.Namespace) -> None:
    """Refuse what signatures cannot do, and signatures that are not there.

    Raises:
      InputError: there is one.
    """
    if options.history is None:
        return
    if options.by != "lexical":
        raise InputError(
            f"--history with --by {options.by}; signatures are compared by --by lexical alone: run "
            "the other steps on what it keeps"
        )
    if options.lexical_similarity != "jaccard":
        raise InputError("--history by containment; signatures estimate jaccard alone")
    for name in ("reference", "annotate"):
        if getattr(options, name):
            raise InputError(f"--history with --{name}; leave one out")
    for path in map(_place_of, options.history):
        if not committed_files(path, write_parquet):
            with naming("--history"):
                match_files(path, [])


def _place_of(path: str) -> str:
    """Name the signatures of a run, given its output; files and folders stand for themselves."""
    folder = f"{path.rstrip('/')}/{SIGNATURES}"
    return folder if committed_files(folder, write_parquet) else path


def history_of(
    pipeline: beam.Pipeline, options: argparse.Namespace
) -> beam.PCollection[Block] | None:
    """Read the signatures of previous runs; None without `--history`."""
    if options.history is None:
        return None
    parts = tuple(
        pipeline | f"ReadHistory{number}" >> ReadVectors(_place_of(path))
        for number, path in enumerate(options.history, 1)
    )
    return parts | "History" >> beam.Flatten()


def signatures_of(
    kept: beam.PCollection[Block], options: argparse.Namespace, columns: Columns
) -> beam.PCollection[Block]:
    """Sign the kept texts."""
    return kept | "SignTexts" >> SignTexts(options.scope, columns=columns)
