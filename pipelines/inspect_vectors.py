"""Look into a folder of Parquet files or a DuckDB file: rows, model, dimension, norms, duplicates, nulls.

python pipelines/inspect_vectors.py vectors
python pipelines/inspect_vectors.py vectors.duckdb --json
python pipelines/inspect_vectors.py vectors --report page.html  # norms, cosines, nearest pairs and a map of a sample
"""

import argparse
import json
from typing import Any

from beam_gpte.cli.inspect_vectors import describe_vectors
from beam_gpte.cli.runtime import Stopwatch, add_report_option, run_program
from beam_gpte.reports.output_pages import vectors_page
from beam_gpte.reports.page import Run, check_report, write_page
from beam_gpte.reports.sample import sample_vectors
from beam_gpte.sources.read_vectors import read_vectors

MADE_BY = (
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


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """What a person wants to know of one column of vectors; what is as it should be takes no line."""
    told = [f"  {what:>14}  {found[what]}" for what in MADE_BY if found[what] not in ("", None)]
    norms = found["norms"]
    if norms:
        told.append(
            f"  {'norms':>14}  {norms['least']:.4f} to {norms['most']:.4f}, mean {norms['mean']:.4f}"
        )
    told.append(f"  {'duplicates':>14}  {found['duplicates']:,} vectors equal an earlier one")
    for what in ("nulls", "zeros", "not_finite"):
        if found[what]:
            told.append(f"  {what.replace('_', ' '):>14}  {found[what]:,}")
    if (
        found["normalized"]
        and found["quantization"] in ("float32", "float16")
        and found["not_of_length_1"]
    ):
        told.append(
            f"  {'not of length 1':>14}  {found['not_of_length_1']:,}, though the model normalises"
        )
    return [f"column {name}", *told]


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
    return vectors_page(
        Run("inspect_vectors.py", vars(arguments), speed), found, samples, str(label)
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", help="folder, Parquet file or glob, or DuckDB file")
    parser.add_argument("--table", default="vectors", help="of the DuckDB file (default: vectors)")
    parser.add_argument("--id_column", default="id")
    parser.add_argument(
        "--text_column", default="text", help="shown beside vectors in a report (default: text)"
    )
    parser.add_argument("--json", action="store_true", help="for a machine")
    add_report_option(parser)
    arguments, watch = parser.parse_args(argv), Stopwatch()
    if arguments.report:
        check_report(arguments.report)
    found = describe_vectors(
        read_vectors(arguments.path, arguments.table, rows_per_block=4096), arguments.id_column
    )
    if arguments.report:
        write_page(arguments.report, page(arguments, found, watch))
    if arguments.json:
        print(json.dumps({"path": arguments.path, **found}, indent=2, ensure_ascii=False))
        return
    print(f"{arguments.path}: {found['rows']:,} rows\n")
    for name, kind in found["columns"].items():
        nulls = found["nulls"].get(name)
        print(f"  {name:<20} {kind}" + (f", {nulls:,} nulls" if nulls else ""))
    if found["repeated_ids"]:
        print(
            f"\n  {found['repeated_ids']:,} rows have the {arguments.id_column} of an earlier one"
        )
    for name, about in found["vectors"].items():
        print("\n" + "\n".join(lines(name, about)))
    if not found["vectors"]:
        print("\n  no column says of itself that it holds vectors")
    if arguments.report:
        print(f"\nreport in {arguments.report}")


if __name__ == "__main__":
    run_program(main)
