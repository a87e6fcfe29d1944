"""Cut repeated spans before the steps of `beam-gpte dedup`: options, checks and wiring."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import apache_beam as beam

from beam_gpte import Block, Columns, CutRepeatedSpans, InputError
from beam_gpte.cli.corpus_options import Options
from beam_gpte.core.errors import naming
from beam_gpte.core.text.spans import SpanUnit
from beam_gpte.dedup.spans.cut_repeated import Keep

_DEFAULTS = {  # of the options besides --spans
    "spans_max_documents": 1,
    "spans_keep": "first",
    "spans_min_characters": 1,
    "spans_language": "en",
}


def add_span_options(options: Options) -> None:
    """Add `--spans`, and what it is of."""

    def add(name: str, **settings: Any) -> None:
        options.add_argument(f"--{name}", default=_DEFAULTS[name], **settings)

    options.add_argument(
        "--spans",
        choices=get_args(SpanUnit),
        help="before the steps cut those that too many texts have; a row of whose text nothing is "
        "left goes to emptied (default: cut nothing)",
    )
    add("spans_max_documents", type=int, metavar="N", help="maximum number of texts with a span")
    add("spans_keep", choices=get_args(Keep), help="of a repeated span: its first place, or none")
    add("spans_min_characters", type=int, metavar="N", help="shorter spans are not cut")
    add("spans_language", metavar="CODE", help="of sentences")


def spans_of(options: argparse.Namespace, columns: Columns) -> CutRepeatedSpans | None:
    """Make the transform; None without `--spans`.

    Raises:
      InputError: a setting is impossible, or is given without `--spans`.
    """
    if options.spans is None:
        for name, default in _DEFAULTS.items():
            if getattr(options, name) != default:
                raise InputError(f"--{name} is of --spans; name the unit, such as --spans lines")
        return None
    with naming("--spans"):
        return CutRepeatedSpans(
            options.spans,
            options.spans_max_documents,
            options.spans_keep,
            options.spans_min_characters,
            options.spans_language,
            options.scope,
            columns,
        )


def check_spans(
    options: argparse.Namespace, columns: Columns, first: str, present: Sequence[str]
) -> None:
    """Refuse to cut texts whose vectors the input has.

    Raises:
      InputError: it has them.
    """
    if spans_of(options, columns) is not None and columns.embedding in present:
        raise InputError(
            f"{first} has vectors, of texts that --spans would change; drop the column "
            f"{columns.embedding!r}, and give --model"
        )


class CutRows(NamedTuple):
    """Hold the rows that the steps get, and what else there is to write.

    Attributes:
      rows: with the texts that are left.
      results: `emptied` and `cut`; nothing without `--spans`.
      rejects: no or one collection.
    """

    rows: beam.PCollection[Block]
    results: dict[str, beam.PCollection[Block]]
    rejects: tuple[beam.PCollection[Block], ...] = ()


def cut_spans(
    rows: beam.PCollection[Block], options: argparse.Namespace, columns: Columns
) -> CutRows:
    """Cut the spans of rows; give these as they are without `--spans`."""
    cut = spans_of(options, columns)
    if cut is None:
        return CutRows(rows, {})
    found = rows | "CutSpans" >> cut.with_exception_handling()
    return CutRows(found.good, {"emptied": found.emptied, "cut": found.cut}, (found.rejects,))
