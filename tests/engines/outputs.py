"""Read what a program wrote in terms that do not depend on the runner: rows, not files."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TIMES = "<h2>Throughput and padding</h2>"  # of a report
OF_ONE_RUN = 'class="of-the-run"'  # of a report: date and command
# of a summary: times, and how many files hold the rows, which the runner's bundles decide
OF_THE_RUN = {"seconds", "texts_per_second", "tokens_per_second", "files"}


def contents(folder: Path) -> dict[str, Any]:
    """Read everything below a folder, by name of the data set or file.

    Parquet files of a folder and lines of rejects are one set of rows each, in the order of their
    values; vectors are compared by their bits.
    """
    found: dict[str, Any] = {}
    tables, lines = defaultdict(list), defaultdict(list)
    for path in sorted(folder.rglob("*")):
        name, place = str(path.relative_to(folder)), str(path.parent.relative_to(folder))
        if path.suffix == ".parquet":
            tables[place].append(pq.read_table(path))
        elif path.suffix == ".jsonl":
            lines[place] += path.read_text(encoding="utf-8").splitlines()
        elif path.suffix == ".json":
            found[name] = _without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: (arrays[key].shape, arrays[key].tobytes()) for key in arrays}
        elif path.suffix == ".duckdb":
            with duckdb.connect(str(path), read_only=True) as database:
                found[name] = _rows([database.sql("FROM vectors").to_arrow_table()])
        elif path.suffix == ".html":
            found[name] = _page_without_times(path.read_text(encoding="utf-8"))
        elif path.is_file():
            found[name] = path.read_bytes()
    found |= {place: _rows(parts) for place, parts in tables.items()}
    return found | {f"{place}: lines": sorted(texts) for place, texts in lines.items()}


def _without_times(summary: Any) -> Any:
    if isinstance(summary, dict):
        return {k: _without_times(v) for k, v in summary.items() if k not in OF_THE_RUN}
    return [_without_times(value) for value in summary] if isinstance(summary, list) else summary


def _page_without_times(page: str) -> list[str]:
    """Return the lines of a report up to its section of times, which the parameters follow."""
    results, heading, _ = page.partition(TIMES)
    assert heading, "the report has no section of times"
    lines = results.splitlines()
    return [line for line in lines if "second" not in line and OF_ONE_RUN not in line]


def _rows(parts: list[pa.Table]) -> tuple[list[str], list[str]]:
    """Return the fields, and the rows as text, in which floats keep their bits."""
    fields = {str(part.schema.remove_metadata()) for part in parts}
    rows = [repr(list(row.items())) for part in parts for row in part.to_pylist()]
    return sorted(fields), sorted(rows)
