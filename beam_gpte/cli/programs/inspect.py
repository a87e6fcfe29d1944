"""Inspect Parquet files or a DuckDB file: rows, model, dimensions, norms, duplicates, nulls.

beam-gpte inspect vectors
beam-gpte inspect vectors.duckdb --json
beam-gpte inspect vectors --report page.html  # norms, cosines, a map of a sample
"""

import argparse
import json
from typing import Any

from beam_gpte.cli.arguments import Program
from beam_gpte.cli.escaped_output import one_line
from beam_gpte.cli.programs.vector_report import describe_vectors
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.reports.output_pages import vectors_page
from beam_gpte.reports.page import Run, check_report, write_page
from beam_gpte.reports.sample import sample_vectors
from beam_gpte.sources.read_vectors import read_vectors

ORIGIN = (
    "model",
    "dim",
    "quantization",
    "pooling",
    "prompt",
    "normalized",
    "postprocess",
    "engine",
    "fingerprint",
)


def describe_column(name: str, found: dict[str, Any]) -> list[str]:
    """Describe one column of vectors in lines of text, without a line for what is as expected."""
    lines = [f"column {name}"]
    lines += [f"  {key:>14}  {found[key]}" for key in ORIGIN if found[key] not in ("", None)]
    if norms := found["norms"]:
        extent = f"{norms['min']:.4f} to {norms['max']:.4f}, mean {norms['mean']:.4f}"
        lines.append(f"  {'norms':>14}  {extent}")
    lines.append(f"  {'duplicates':>14}  {found['duplicates']:,} vectors equal an earlier one")
    for key in ("nulls", "zeros", "not_finite"):
        if found[key]:
            lines.append(f"  {key.replace('_', ' '):>14}  {found[key]:,}")
    normalized = found["normalized"] and found["quantization"] in ("float32", "float16")
    if normalized and found["not_of_length_1"]:
        count = f"{found['not_of_length_1']:,}"
        lines.append(f"  {'not of length 1':>14}  {count}, though the model normalizes")
    return lines


def page(arguments: argparse.Namespace, found: dict[str, Any], watch: Stopwatch) -> str:
    plain = [name for name in found["columns"] if name not in found["vectors"]]
    ids = arguments.id_column if arguments.id_column in plain else next(iter(plain), None)
    label = arguments.text_column if arguments.text_column in plain else ids
    samples = {}
    if ids is not None and label is not None:
        for name in found["vectors"]:
            samples[name] = sample_vectors(
                arguments.path, (ids,), (label,), (name,), table=arguments.table
            )
    seconds = watch.seconds()
    speed = {"seconds": round(seconds, 2), "rows_per_second": round(found["rows"] / seconds, 1)}
    about = Run(PROGRAM.name, vars(arguments), speed)
    return vectors_page(about, found, samples, str(label))


def print_findings(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    print(f"{arguments.path}: {found['rows']:,} rows\n")
    for name, kind in found["columns"].items():
        nulls = found["nulls"].get(name)
        print(f"  {one_line(name):<20} {kind}" + (f", {nulls:,} nulls" if nulls else ""))
    if repeated := found["repeated_ids"]:
        print(f"\n  {repeated:,} rows have the {arguments.id_column} of an earlier one")
    for name, about in found["vectors"].items():
        print("\n" + "\n".join(map(one_line, describe_column(name, about))))
    if not found["vectors"]:
        print("\n  no column is marked as vectors by its metadata")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder, Parquet file or glob, or DuckDB file")
    parser.add_argument("--table", default="vectors", help="of the DuckDB file (default: vectors)")
    parser.add_argument("--id_column", default="id", help="ids (default: id)")
    parser.add_argument(
        "--text_column", default="text", help="shown next to vectors in a report (default: text)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_report_option(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    blocks = read_vectors(arguments.path, arguments.table, rows_per_block=4096)
    found = describe_vectors(blocks, arguments.id_column)
    if arguments.report:
        write_page(arguments.report, page(arguments, found, watch))
    if arguments.json:
        print(json.dumps({"path": arguments.path, **found}, indent=2, ensure_ascii=False))
        return
    print_findings(arguments, found)
    if arguments.report:
        print(f"\nreport in {arguments.report}")


PROGRAM = Program("inspect", __doc__, add_options, run, is_job=False)
