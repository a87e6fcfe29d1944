"""Show the first rows of a block as a small HTML table, for notebooks.

Texts, names and metadata are other people's: all are escaped, long ones are cut. The table has no
color of its own, so it is that of the notebook, light or dark.
"""

import html
from typing import Any

import pyarrow as pa

from beam_gpte.core.errors import printable
from beam_gpte.core.metadata import vector_fields
from beam_gpte.core.python_values import python_values

MAX_ROWS = 5
MAX_COLUMNS = 12
MAX_CHARS = 80  # of a text or a name
MAX_NUMBERS = 3  # of a vector
_LEFT = ' style="text-align:left;vertical-align:top"'
_FAINT = ' style="opacity:.65;font-weight:normal"'


def block_html(batch: pa.RecordBatch) -> str:
    """Return a table of the first rows and columns, and what made the vectors."""
    fields = list(batch.schema)[:MAX_COLUMNS]
    columns = [_cells(batch.column(i)[:MAX_ROWS]) for i in range(len(fields))]
    head = "".join(f"<th{_LEFT}>{_name(field)}</th>" for field in fields)
    rows = "".join(
        f"<tr>{''.join(f'<td{_LEFT}>{cell}</td>' for cell in row)}</tr>"
        for row in zip(*columns, strict=True)
    )
    notes = "".join(f"<div{_FAINT}>{note}</div>" for note in _notes(batch))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div>{table if fields else ''}{notes}</div>"


def _name(field: pa.Field) -> str:
    return f"{_text(field.name)}<br><small{_FAINT}>{_text(str(field.type))}</small>"


def _notes(batch: pa.RecordBatch) -> list[str]:
    """Count rows and columns, and say what made each column of vectors."""
    shown = min(batch.num_rows, MAX_ROWS), min(batch.num_columns, MAX_COLUMNS)
    all_shown = shown == (batch.num_rows, batch.num_columns)
    first = "" if all_shown else f" ({shown[0]} rows, {shown[1]} columns shown)"
    notes = [f"Block: {batch.num_rows:,} rows, {batch.num_columns:,} columns{first}"]
    for name, known in vector_fields(batch.schema).items():
        made = [known.model, f"{known.dim} dimensions", f"{known.pooling} pooling"]
        made += [known.quantization, f"prompt {known.prompt!r}" if known.prompt else ""]
        made.append(f"route {known.route!r}" if known.route else "")
        notes.append(f"{_text(name)}: {', '.join(_text(part) for part in made if part)}")
    return notes


def _cells(column: pa.Array) -> list[str]:
    is_vector = pa.types.is_fixed_size_list(column.type)
    return [
        "<i>null</i>" if value is None else _vector(value) if is_vector else _text(value)
        for value in python_values(column)
    ]


def _vector(values: list[Any]) -> str:
    first = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:MAX_NUMBERS]]
    more = ["\u2026"] if len(values) > MAX_NUMBERS else []
    return _text(f"[{', '.join([*first, *more])}]")


def _text(value: Any) -> str:
    """Write a value on one line of visible characters, cut and escaped."""
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}\u2026"
    return html.escape(printable(cut))
