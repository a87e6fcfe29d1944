"""Check texts and columns of blocks, and separate the rows that fail."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT, ROW, TEXT
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import split_rejects


class CheckTexts(beam.DoFn):
    """Separates the rows without a usable text or id, as `step`; a column `absent` must not be there."""

    def __init__(
        self,
        step: str,
        text_column: str,
        id_column: str | None,
        isolate: bool,
        absent: str | None = None,
    ) -> None:
        self._step = step
        self._text_column = text_column
        self._id_column = id_column
        self._isolate = isolate
        self._absent = absent

    def process(self, block: Block) -> Iterator[Any]:
        names = block.schema.names
        if self._text_column not in names:
            raise InputError(
                f"{self._step}: no column {self._text_column!r} among {', '.join(names)}; name one by text_column"
            )
        if self._absent in names:
            raise InputError(
                f"{self._step}: a column {self._absent!r} is there already; name another by embedding_column"
            )
        defects = text_defects(block.column(self._text_column), self._text_column)
        if self._id_column is not None and self._id_column in names and ROW not in names:
            null = pc.if_else(
                pc.is_null(block.column(self._id_column)), f"{self._id_column} is null", None
            )
            defects = pc.coalesce(null, defects)
        if DEFECT in names:
            defects = pc.coalesce(block.column(DEFECT), defects)
            block = block.without_columns([DEFECT])
        for part in split_rejects(block, defects, self._step, self._isolate, self._id_column):
            if isinstance(part, beam.pvalue.TaggedOutput):
                part.value = _with_readable_text(part.value, self._text_column)
            yield part


def text_defects(column: pa.Array, name: str = TEXT) -> pa.Array:
    """Why each value is no text to embed: a string array, null where it is one."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        binary = column
    elif (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    ):
        binary = column.cast(pa.large_binary())
    else:
        return pc.if_else(pc.is_null(column), f"{name} is null", f"{name} is not a string: {kind}")
    valid = _valid_utf8(binary)
    text = pc.if_else(valid, binary, pa.scalar(b"-", binary.type)).cast(pa.large_string())
    return pc.case_when(
        pc.make_struct(
            pc.is_null(column),
            pc.invert(valid),
            pc.equal(text, ""),
            pc.equal(pc.utf8_trim_whitespace(text), ""),
        ),
        f"{name} is null",
        f"{name} is not valid UTF-8",
        f"{name} is empty",
        f"{name} is blank",
        pa.scalar(None, pa.string()),
    )


def _valid_utf8(binary: pa.Array) -> pa.Array:
    """Whether each value decodes; the fast path is one check of the whole column."""
    try:
        binary.cast(pa.large_string())
        return pa.array([True] * len(binary), pa.bool_())
    except pa.ArrowInvalid:
        return pa.array(
            [value is None or _decodes(value) for value in binary.to_pylist()], pa.bool_()
        )


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_readable_text(rejects: Block, text_column: str) -> Block:
    """The same rows with invalid bytes of the text written as \\xff, so that every file format can hold them."""
    column = rejects.column(text_column)
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return rejects
    values = column.cast(pa.large_binary()).to_pylist()
    safe = [None if value is None else value.decode(errors="backslashreplace") for value in values]
    return rejects.with_column(pa.field(text_column, pa.string()), pa.array(safe, pa.string()))


def check_text(block: Block, column: str) -> pa.Array:
    """Why a row has no text to compare: strings, null where it has one."""
    if column not in block.schema.names:
        raise InputError(
            f"no column {column!r} among {', '.join(block.schema.names)}; name one by text_column"
        )
    values = block.column(column)
    if not (
        pa.types.is_string(values.type)
        or pa.types.is_large_string(values.type)
        or pa.types.is_null(values.type)
    ):
        raise InputError(f"column {column!r} is {values.type}, no text; convert it to strings")
    return pc.if_else(pc.is_null(values), f"{column} is null", pa.scalar(None, pa.string()))


def check_columns(block: Block, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in block.schema.names:
            raise InputError(f"no column {name!r} among {', '.join(block.schema.names)}")
