"""Read JSON Lines and plain text files."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from beam_gpte.core.columns import ID
from beam_gpte.core.python_values import json_text
from beam_gpte.elements.arrow_values import MAX_NESTING, MISFITS, nesting
from beam_gpte.elements.plain_types import common_type
from beam_gpte.sources.formats.rows import (
    BATCH_BYTES,
    INVALID,
    MAX_COLUMNS,
    MAX_CONTENT_CHARS,
    ColumnSelection,
    FileRows,
    RowError,
    bounded_lines,
    brief,
    readable,
    valid_rows,
)

PEEKED_LINES = 1000  # of JSON Lines, whose rows may lack keys
CELLS = 1 << 20  # of a batch: rows times columns, 8 bytes each though the rows lack most keys
PEEKED_NAMES = 100  # of keys that are not read, for an error


def read_jsonl(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a JSON Lines file.

    A key that a row lacks is null, and a column has one type in the whole file.
    """
    types: dict[str, pa.DataType] = {}
    seen: dict[str, None] = {}
    for lines in _numbered_lines(file, rows, selection):
        parsed, errors = _parsed_lines(lines.lines)
        for name in itertools.chain(*(row for _, _, row in parsed)):
            if selection.includes(name) or name == ID or len(seen) < PEEKED_NAMES:
                seen[name] = None
        if (selection.id_column is None and ID in seen) or len(seen) > MAX_COLUMNS:
            selection.of([*seen])  # raises, unless few of them are selected
        errors = sorted(lines.errors + errors, key=lambda error: error.row)
        names = {name for _, _, row in parsed for name in row if selection.includes(name)}
        at_once, blank = max(1, CELLS // max(1, len(names.union(types)))), lines.blank
        for start in range(0, max(1, len(parsed)), at_once):
            part, rest = parsed[start : start + at_once], parsed[start + at_once :]
            of_part = [error for error in errors if not rest or error.row < rest[0][0]]
            errors = errors[len(of_part) :]
            read = _typed_rows(part, types, selection)
            of_part = sorted(of_part + read.errors, key=lambda error: error.row)
            yield dataclasses.replace(read, errors=of_part, blank=blank)
            blank = 0
    if seen:
        selection.of([*seen])


Parsed = tuple[int, bytes, dict[str, Any]]  # row number, line and its values


def _parsed_lines(lines: list[tuple[int, bytes]]) -> tuple[list[Parsed], list[RowError]]:
    parsed: list[Parsed] = []
    errors = []
    for number, line in lines:
        try:
            parsed.append((number, line, parse_object(line)))
        except ValueError as error:
            errors.append(RowError(number, str(error), readable(line)[:MAX_CONTENT_CHARS]))
    return parsed, errors


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse the object in a line of JSON.

    Raises:
      ValueError: the line has none; the message is the reason of a reject.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{INVALID}: byte {error.start + 1} of the line") from None
    try:
        value = _DECODER.decode(text)
    except _RepeatedKeyError as error:
        raise ValueError(f"repeated key: {brief(error.args[0])}") from None
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


class _RepeatedKeyError(ValueError):
    """An object has two values of one name."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; Python would keep the last value of a repeated key."""
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _RepeatedKeyError(repeated)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _typed_rows(
    parsed: list[Parsed], types: dict[str, pa.DataType], selection: ColumnSelection
) -> FileRows:
    """Convert the parsed rows to columns; widens `types`, those of the file's columns so far."""
    for name in itertools.chain(*(row for _, _, row in parsed), selection.required):
        if selection.includes(name):
            types.setdefault(name, pa.string() if name == selection.text_column else pa.null())
    misfits: dict[int, dict[str, str]] = {}
    columns = []
    present = {name for _, _, row in parsed for name in row}
    for name in types:
        if name not in present:
            columns.append(pa.nulls(len(parsed), types[name]))
            continue
        column, refused = _typed_column(
            [row.get(name) for _, _, row in parsed], name, types, selection
        )
        columns.append(column)
        for i, reason in refused.items():
            misfits.setdefault(i, {})[name] = reason
    batch = pa.RecordBatch.from_arrays(columns, names=list(types))
    good = [i for i in range(len(parsed)) if i not in misfits]
    errors = [_misfit(parsed[i], list(types), reasons) for i, reasons in sorted(misfits.items())]
    taken = batch.take(pa.array(good, pa.int64())) if misfits else batch
    return FileRows(taken, [parsed[i][0] for i in good], errors)


def _typed_column(
    values: list[Any], name: str, types: dict[str, pa.DataType], selection: ColumnSelection
) -> tuple[pa.Array, dict[int, str]]:
    """Convert the values of one column, widening its type; return why some do not fit, by index."""
    refused = _not_allowed(values, name, selection)
    if name != selection.text_column:
        allowed = [None if i in refused else value for i, value in enumerate(values)]
        types[name], others = _common_type(allowed, types[name])
        reason = f"value of another type than its column: {name} is %s, the column {types[name]}"
        refused |= {i: reason % brief(values[i]) for i in others}
    fitting = [None if i in refused else value for i, value in enumerate(values)]
    return pa.array(fitting, types[name]), refused


def _misfit(parsed: Parsed, names: list[str], reasons: dict[str, str]) -> RowError:
    """Describe a row with values that do not fit, those as JSON."""
    number, line, row = parsed
    kept = {name: json_text(row.get(name)) if name in reasons else row.get(name) for name in names}
    first = next(iter(reasons.values()))
    return RowError(number, first, readable(line)[:MAX_CONTENT_CHARS], kept)


def _not_allowed(values: list[Any], name: str, selection: ColumnSelection) -> dict[int, str]:
    """Return why a value cannot be in its column, whatever the others are, by its index."""
    if name not in selection.required:
        too_deep = f"value nested deeper than {MAX_NESTING} levels: {name}"
        return {i: too_deep for i, value in enumerate(values) if nesting(value) > MAX_NESTING}
    is_text = name == selection.text_column
    allowed, kind = ((str,), "a string") if is_text else ((str, int), "a string or integer")
    return {
        i: f"{name} is not {kind}: {brief(value)}"
        for i, value in enumerate(values)
        if value is not None and type(value) not in allowed
    }


def _common_type(values: list[Any], known: pa.DataType) -> tuple[pa.DataType, set[int]]:
    """Find a type no narrower than `known` that fits most values, and the indices of the others."""
    try:
        common = common_type(known, pa.array(values).type)
        pa.array(values, common)
        return common, set()
    except MISFITS:
        pass
    kinds = [_type_of(value) for value in values]
    common = known
    for candidate, _ in Counter(kind for kind in kinds if kind is not None).most_common():
        try:
            common = common_type(common, candidate)
        except pa.ArrowException:
            continue
    return common, {
        i for i, kind in enumerate(kinds) if kind is None or not _fits(values[i], kind, common)
    }


def _type_of(value: Any) -> pa.DataType | None:
    if type(value) is int and 1 << 63 <= value < 1 << 64:
        return pa.uint64()  # which Arrow does not infer
    try:
        return pa.array([value]).type
    except MISFITS:
        return None


def _fits(value: Any, kind: pa.DataType, column: pa.DataType) -> bool:
    try:
        pa.array([value], column)
        return common_type(column, kind) == column
    except MISFITS:
        return False


def read_text(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read one text per line; blank lines are left out and counted, and count as rows."""
    name = selection.of([selection.text_column])[0]
    for lines in _numbered_lines(file, rows, selection):
        column = pa.array([line for _, line in lines.lines], pa.binary()).view(pa.string())
        batch = pa.RecordBatch.from_arrays([column], names=[name])
        read = valid_rows(batch, [number for number, _ in lines.lines], "")
        blank = [not value.strip() for value in read.batch.column(0).to_pylist()]
        text = read.batch.filter(pa.array([not b for b in blank], pa.bool_()))
        numbers = [number for number, b in zip(read.numbers, blank, strict=True) if not b]
        errors = sorted(lines.errors + read.errors, key=lambda error: error.row)
        yield FileRows(text, numbers, errors, lines.blank + sum(blank))


@dataclasses.dataclass
class _Lines:
    """Hold lines with their numbers, from 1, those too long, and how many are blank."""

    lines: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)
    errors: list[RowError] = dataclasses.field(default_factory=list)
    blank: int = 0
    size: int = 0


def _numbered_lines(file: BinaryIO, rows: int, selection: ColumnSelection) -> Iterator[_Lines]:
    """Yield up to `rows` lines at a time, and not much more than `BATCH_BYTES`."""
    found = _Lines()
    for number, (line, too_long) in enumerate(bounded_lines(file, selection.max_row_bytes), 1):
        if too_long:
            content = readable(line)[:MAX_CONTENT_CHARS]
            found.errors.append(RowError(number, selection.too_long, content))
        elif line.strip():
            found.lines.append((number, line))
            found.size += len(line)
        else:
            found.blank += 1
        if len(found.lines) + len(found.errors) >= rows or found.size >= BATCH_BYTES:
            yield found
            found = _Lines()
    if found != _Lines():
        yield found
