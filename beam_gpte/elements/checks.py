"""Check texts and columns of blocks, and separate the rows that fail."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT, ROW, TEXT
from beam_gpte.core.errors import InputError
from beam_gpte.core.visible_text import VISIBLE
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.arrow_values import is_utf8
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import is_string
from beam_gpte.elements.rejects import split_rejects


class CheckTexts(beam.DoFn):
    """Separate the rows without a usable text or id, before a step that embeds or cuts texts."""

    def __init__(
        self,
        step: str,
        text_column: str,
        id_column: str | None,
        isolate: bool,
        added: AddedColumns | None = None,
    ) -> None:
        """Configure the check.

        Args:
          step: the transform that the user wrote.
          text_column: has to be there.
          id_column: has to have no nulls, if a block has it; None for no ids.
          isolate: False raises for the first bad row.
          added: names of the columns to be added, which must not be there; None for none.
        """
        self._step = step
        self._text_column = text_column
        self._id_column = id_column
        self._isolate = isolate
        self._added = added

    def process(self, block: Block) -> Iterator[Any]:
        """Yield good rows, then, tagged, bad ones.

        Raises:
          InputError: the text column is missing, or the column to be added is there.
        """
        check_columns(block, (self._text_column,), self._step)
        if self._added is not None:
            self._added.check(block.schema.names)
        defects = self._defects(block)
        rows = block.without_columns([DEFECT])
        for part in split_rejects(rows, defects, self._step, self._isolate, self._id_column):
            if isinstance(part, beam.pvalue.TaggedOutput):
                part.value = _with_readable_text(part.value, self._text_column)
            yield part

    def _defects(self, block: Block) -> pa.Array:
        names, id_column = block.schema.names, self._id_column
        defects = text_defects(block.column(self._text_column), self._text_column)
        if id_column is not None and id_column in names and ROW not in names:
            null_id = pc.if_else(pc.is_null(block.column(id_column)), f"{id_column} is null", None)
            defects = pc.coalesce(null_id, defects)
        return pc.coalesce(block.column(DEFECT), defects) if DEFECT in names else defects


def text_defects(column: pa.Array, name: str = TEXT) -> pa.Array:
    """Return why each value cannot be embedded: a string array, null where it can.

    White space, control and format characters alone are no text; see `core.visible_text`.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        binary = column
    elif is_string(kind):
        binary = column.cast(pa.large_binary())
    else:
        return pc.if_else(pc.is_null(column), f"{name} is null", f"{name} is not a string: {kind}")
    valid = _valid_utf8(binary)
    text = pc.if_else(valid, binary, pa.scalar(b"-", binary.type)).cast(pa.large_string())
    visible = pc.match_substring_regex(text, VISIBLE)
    if pc.all(pc.and_(visible, valid), min_count=0, skip_nulls=False).as_py():
        return pa.nulls(len(column), pa.string())
    return pc.case_when(
        pc.make_struct(
            pc.is_null(column),
            pc.invert(valid),
            visible,
            pc.equal(text, ""),
            pc.equal(pc.utf8_trim_whitespace(text), ""),
        ),
        f"{name} is null",
        f"{name} is not valid UTF-8",
        pa.scalar(None, pa.string()),
        f"{name} is empty",
        f"{name} is blank",
        f"{name} is empty: it has no visible character",
    )


def _valid_utf8(binary: pa.Array) -> pa.Array:
    """Check whether each value decodes; the fast path is one check of the whole column."""
    try:
        binary.cast(pa.large_string())
        return pa.array([True] * len(binary), pa.bool_())
    except pa.ArrowInvalid:
        valid = [value is None or is_utf8(value) for value in binary.to_pylist()]
        return pa.array(valid, pa.bool_())


def _with_readable_text(rejects: Block, text_column: str) -> Block:
    r"""Write invalid bytes of the text as \xff, so that every file format can hold the rows."""
    column = rejects.column(text_column)
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return rejects
    values = column.cast(pa.large_binary()).to_pylist()
    safe = [None if value is None else value.decode(errors="backslashreplace") for value in values]
    return rejects.with_column(pa.field(text_column, pa.string()), pa.array(safe, pa.string()))


def check_text(block: Block, column: str, step: str | None = None) -> pa.Array:
    """Return why each row has no text to compare: a string array, null where it has one.

    Args:
      block: the rows.
      column: of the texts.
      step: the transform that errors name; None for none.

    Raises:
      InputError: there is no such column, or it does not hold strings.
    """
    check_columns(block, (column,), step)
    values = block.column(column)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (is_string(kind) or pa.types.is_null(kind)):
        raise step_error(step, f"column {column!r} is {kind}, not text; convert it to strings")
    missing = pc.if_else(pc.is_null(values), f"{column} is null", pa.scalar(None, pa.string()))
    return pc.coalesce(missing, utf8_defects(values, column))


def utf8_defects(values: pa.Array, column: str) -> pa.Array:
    """Return why each string cannot be read: a string array, null where it is valid UTF-8."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not is_string(values.type):
        return pa.nulls(len(values), pa.string())
    valid = _valid_utf8(values.cast(pa.large_binary()))
    return pc.if_else(valid, pa.scalar(None, pa.string()), f"{column} is not valid UTF-8")


def check_visible_text(block: Block, column: str, step: str | None = None) -> pa.Array:
    """Return why each row has no text to embed; see `check_text` and `text_defects`."""
    check_text(block, column, step)
    return text_defects(block.column(column), column)


def check_columns(block: Block, columns: tuple[str, ...], step: str | None = None) -> None:
    """Check that a block has all of `columns`.

    Args:
      block: the rows.
      columns: the names.
      step: the transform that the error names; None for none.

    Raises:
      InputError: it lacks one.
    """
    for name in columns:
        if name not in block.schema.names:
            present = ", ".join(block.schema.names)
            raise step_error(step, f"no column {name!r} among {present}; name one of these")


def step_error(step: str | None, message: str) -> InputError:
    """Make an error that names the transform that the user wrote, if it is known."""
    return InputError(message if step is None else f"{step}: {message}")
