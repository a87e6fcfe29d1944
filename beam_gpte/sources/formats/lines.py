"""Read JSON Lines and plain text files."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from beam_gpte.core.columns import ID
from beam_gpte.elements.arrow_values import MISFITS, json_text
from beam_gpte.sources.formats.rows import (
    MAX_CONTENT_CHARS,
    ColumnSelection,
    FileRows,
    RowError,
    brief,
    readable,
    valid_rows,
)

PEEKED_LINES = 1000  # of JSON Lines, whose rows need not all have all keys


def read_jsonl(file: BinaryIO, wanted: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Rows of a JSON Lines file; a key that a row lacks is null, and a column has one type in all of the file."""
    types: dict[str, pa.DataType] = {}
    seen: dict[str, None] = {}
    for lines in _numbered_lines(file, rows):
        parsed: list[tuple[int, bytes, dict[str, Any]]] = []
        defects = []
        for number, line in lines:
            try:
                if line.strip():
                    parsed.append((number, line, parse_object(line)))
            except ValueError as error:
                defects.append(RowError(number, str(error), readable(line)[:MAX_CONTENT_CHARS]))
        seen.update((name, None) for _, _, row in parsed for name in row)
        if wanted.id_column is None and ID in seen:
            wanted.of([*seen])  # refuses
        read = _typed_rows(parsed, types, wanted)
        blank = len(lines) - len(parsed) - len(defects)
        yield dataclasses.replace(read, defects=defects + read.defects, blank=blank)
    if seen:
        wanted.of([*seen])


def parse_object(line: bytes) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises:
      ValueError: the line holds none; the message is the reason of a reject.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8: byte {error.start + 1} of the line") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {brief(value)}")
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("lone surrogate: half of a \\u pair") from None
    return value


def _typed_rows(
    parsed: list[tuple[int, bytes, dict[str, Any]]],
    types: dict[str, pa.DataType],
    wanted: ColumnSelection,
) -> FileRows:
    """The parsed rows as columns; widens `types`, the columns of the file and their types so far."""
    for name in itertools.chain(*(row for _, _, row in parsed), wanted.required):
        if wanted.includes(name):
            types.setdefault(name, pa.string() if name == wanted.text_column else pa.null())
    misfits: dict[int, dict[str, str]] = {}
    columns = []
    for name in types:
        values = [row.get(name) for _, _, row in parsed]
        refused = _not_allowed(values, name, wanted)
        if name != wanted.text_column:
            types[name], others = _common_type(
                [None if i in refused else v for i, v in enumerate(values)], types[name]
            )
            reason = (
                f"value of another type than its column: {name} is %s, the column {types[name]}"
            )
            refused |= {i: reason % brief(values[i]) for i in others}
        columns.append(
            pa.array([None if i in refused else v for i, v in enumerate(values)], types[name])
        )
        for i, reason in refused.items():
            misfits.setdefault(i, {})[name] = reason
    batch = pa.RecordBatch.from_arrays(columns, names=list(types))
    good = [i for i in range(len(parsed)) if i not in misfits]
    defects = []
    for i, reasons in sorted(misfits.items()):
        number, line, row = parsed[i]
        kept = {
            name: json_text(row.get(name)) if name in reasons else row.get(name) for name in types
        }
        defects.append(
            RowError(number, next(iter(reasons.values())), readable(line)[:MAX_CONTENT_CHARS], kept)
        )
    return FileRows(
        batch.take(pa.array(good, pa.int64())) if misfits else batch,
        [parsed[i][0] for i in good],
        defects,
    )


def _not_allowed(values: list[Any], name: str, wanted: ColumnSelection) -> dict[int, str]:
    """Why a value cannot be a text or an id, by its index."""
    if name not in wanted.required:
        return {}
    allowed, kind = (
        ((str,), "a string") if name == wanted.text_column else ((str, int), "a string or integer")
    )
    return {
        i: f"{name} is not {kind}: {brief(value)}"
        for i, value in enumerate(values)
        if value is not None and type(value) not in allowed
    }


def _common_type(values: list[Any], known: pa.DataType) -> tuple[pa.DataType, set[int]]:
    """A type no narrower than `known` that fits most of `values`, and the indices of those it does not fit."""
    try:
        common = _wider(known, pa.array(values).type)
        pa.array(values, common)
        return common, set()
    except MISFITS:
        pass
    own = [_type_of(value) for value in values]
    common = known
    for candidate, _ in Counter(kind for kind in own if kind is not None).most_common():
        try:
            common = _wider(common, candidate)
        except pa.ArrowException:
            continue
    return common, {
        i for i, kind in enumerate(own) if kind is None or not _fits(values[i], kind, common)
    }


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("", one)]), pa.schema([("", other)])]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _type_of(value: Any) -> pa.DataType | None:
    try:
        return pa.array([value]).type
    except MISFITS:
        return None


def _fits(value: Any, kind: pa.DataType, column: pa.DataType) -> bool:
    try:
        pa.array([value], column)
        return _wider(column, kind) == column
    except MISFITS:
        return False


def read_text(file: BinaryIO, wanted: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """One text a line; blank lines are left out and counted, and count as rows."""
    name = wanted.of([wanted.text_column])[0]
    for lines in _numbered_lines(file, rows):
        column = pa.array([line for _, line in lines], pa.binary()).view(pa.string())
        read = valid_rows(
            pa.RecordBatch.from_arrays([column], names=[name]), [number for number, _ in lines], ""
        )
        blank = [not value.strip() for value in read.batch.column(0).to_pylist()]
        text = read.batch.filter(pa.array([not b for b in blank], pa.bool_()))
        numbers = [number for number, b in zip(read.numbers, blank, strict=True) if not b]
        yield FileRows(text, numbers, read.defects, sum(blank))


def _numbered_lines(file: BinaryIO, rows: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lines without their ends, numbered from 1, in lists of `rows`; only a newline ends a line."""
    lines = (
        (number, line.removesuffix(b"\n").removesuffix(b"\r"))
        for number, line in enumerate(file, 1)
    )
    while chunk := list(itertools.islice(lines, rows)):
        yield chunk
