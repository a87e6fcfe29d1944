"""Look into a folder of Parquet files or a DuckDB file: rows, model, dimension, norms, duplicates, nulls.

python pipelines/inspect_vectors.py vectors
python pipelines/inspect_vectors.py vectors.duckdb --json
"""

import argparse
import json
from typing import Any

from beam_gpte.program import run_program
from beam_gpte.read_vectors import read_vectors
from beam_gpte.vector_survey import survey

MADE_BY = ("model", "dim", "quantization", "pooling", "prompt", "normalized", "postprocess", "engine", "fingerprint")


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """What a person wants to know of one column of vectors; what is as it should be takes no line."""
    told = [f"  {what:>14}  {found[what]}" for what in MADE_BY if found[what] not in ("", None)]
    norms = found["norms"]
    if norms:
        told.append(f"  {'norms':>14}  {norms['least']:.4f} to {norms['most']:.4f}, mean {norms['mean']:.4f}")
    told.append(f"  {'duplicates':>14}  {found['duplicates']:,} vectors equal an earlier one")
    for what in ("nulls", "zeros", "not_finite"):
        if found[what]:
            told.append(f"  {what.replace('_', ' '):>14}  {found[what]:,}")
    if found["normalized"] and found["quantization"] in ("float32", "float16") and found["not_of_length_1"]:
        told.append(f"  {'not of length 1':>14}  {found['not_of_length_1']:,}, though the model normalises")
    return [f"column {name}", *told]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder, Parquet file or glob, or DuckDB file")
    parser.add_argument("--table", default="vectors", help="of the DuckDB file (default: vectors)")
    parser.add_argument("--id_column", default="id")
    parser.add_argument("--json", action="store_true", help="for a machine")
    arguments = parser.parse_args(argv)
    found = survey(read_vectors(arguments.path, arguments.table, rows_per_block=4096), arguments.id_column)
    if arguments.json:
        print(json.dumps({"path": arguments.path, **found}, indent=2, ensure_ascii=False))
        return
    print(f"{arguments.path}: {found['rows']:,} rows\n")
    for name, kind in found["columns"].items():
        nulls = found["nulls"].get(name)
        print(f"  {name:<20} {kind}" + (f", {nulls:,} nulls" if nulls else ""))
    if found["repeated_ids"]:
        print(f"\n  {found['repeated_ids']:,} rows have the {arguments.id_column} of an earlier one")
    for name, about in found["vectors"].items():
        print("\n" + "\n".join(lines(name, about)))
    if not found["vectors"]:
        print("\n  no column says of itself that it holds vectors")


if __name__ == "__main__":
    run_program(main)
