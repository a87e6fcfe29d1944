"""Rows at the YAML door: what a transform gives becomes Beam Rows with a schema, known when the pipeline is built.

    rows --> (a transform of ours) --> rows or blocks --> AsRows --> Rows --> the next step
                                            |                          :
                                            +---- given() finds them --+

A later step of ours takes the blocks that lie behind the rows, as a Python pipeline would: vectors keep their metadata and
never become lists of floats on the way.
"""

import collections.abc
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Optional, cast

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_fields_from_element_type

from beam_gpte.core.columns import REJECT_REASON, REJECT_STEP, UNREADABLE, is_hidden
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.postprocess import Postprocess
from beam_gpte.elements.block import Block
from beam_gpte.elements.row_kinds import column_values, row_fields
from beam_gpte.sinks.write_rejects import plain
from beam_gpte.sources.corpus_files import match_files
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.read_corpus import ReadCorpus, read_file, with_ids
from beam_gpte.sources.read_vectors import ReadVectors, read_vectors

Fields = dict[str, Any]  # name to type, of a Row
REPORT: Fields = {"report": str}
VECTOR = Sequence[np.float32]
FILES_SEEN = 100  # of a corpus, when its schema is found out
_GIVEN = "_beam_gpte_given"  # attribute of a PCollection of Rows


def fields_of(pcoll: beam.PCollection, step: str) -> Fields:
    """The fields of a collection's rows.

    Raises:
      InputError: it has no schema.
    """
    try:
        return dict(named_fields_from_element_type(cast(type, pcoll.element_type)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{step}: its input has no schema; put MapToFields before it, which gives one"
        ) from error


def given(rows: beam.PCollection) -> beam.PCollection:
    """What a transform of ours gave, where `rows` were made of it; else `rows`."""
    return getattr(rows, _GIVEN, rows)


@dataclasses.dataclass(eq=False)
class AsRows(beam.PTransform):
    """Blocks, rows, dataclasses or reports become Rows with these fields; null where one is missing.

    Attributes:
      closed: fail where a block has a column that is no field.
      linked: blocks hold just what the rows do, and a later step of ours may take them.
    """

    fields: Fields
    closed: bool = False
    linked: bool = True

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        convert = beam.FlatMap(_rows, _kinds(self.fields), self.closed)
        rows = pcoll | convert.with_output_types(
            RowTypeConstraint.from_fields(list(self.fields.items()))
        )
        if pcoll.element_type is Postprocess or (self.linked and pcoll.element_type is Block):
            setattr(rows, _GIVEN, pcoll)
        return rows


class AsReports(beam.PTransform):
    """Dicts become Rows of one text, JSON: which figures a report has depends on what was found."""

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        row = RowTypeConstraint.from_fields(list(REPORT.items()))
        return reports | beam.Map(_report_row).with_output_types(row)


def _report_row(report: dict[str, Any]) -> beam.Row:
    return beam.Row(report=json.dumps(plain(report), ensure_ascii=False))


@dataclasses.dataclass(eq=False)
class AsErrors(beam.PTransform):
    """Rejects become Rows as Beam YAML has them: `element` (the row), `msg` (the reason), `stack` (the step)."""

    fields: Fields

    def expand(self, rejects: beam.PCollection) -> beam.PCollection:
        element: Any = RowTypeConstraint.from_fields(list(self.fields.items()))
        row = RowTypeConstraint.from_fields([("element", element), ("msg", str), ("stack", str)])
        errors = rejects | beam.FlatMap(_errors, _kinds(self.fields)).with_output_types(row)
        if rejects.element_type is Block:
            setattr(errors, _GIVEN, rejects)
        return errors


def rejects_of(errors: beam.PCollection) -> beam.PCollection:
    """The opposite of `AsErrors`, for rows that have been through steps of others: mappings with step and reason."""
    known = given(errors)
    return known if known is not errors else errors | "Rejects" >> beam.Map(_reject)


def _reject(row: Any) -> dict[str, Any]:
    fields = row_fields(row)
    if not {"element", "msg"} <= fields.keys():
        return fields
    return {
        **row_fields(fields["element"]),
        REJECT_STEP: fields.get("stack"),
        REJECT_REASON: fields["msg"],
    }


def _rows(element: Any, kinds: dict[str, str | None], closed: bool) -> Iterator[beam.Row]:
    if closed and isinstance(element, Block):
        unknown = [name for name in element.schema.names if name not in kinds]
        if unknown:
            raise InputError(
                f"columns {', '.join(unknown)} are not in the first rows of any file; name what to read by columns"
            )
    for values in _all_fields(element):
        yield _row(values, kinds)


def _errors(element: Any, kinds: dict[str, str | None]) -> Iterator[beam.Row]:
    for values in _all_fields(element):
        yield beam.Row(
            element=_row(values, kinds), msg=values[REJECT_REASON], stack=values[REJECT_STEP]
        )


def _row(values: dict[str, Any], kinds: dict[str, str | None]) -> beam.Row:
    return beam.Row(**{name: _fit(values.get(name), kind, name) for name, kind in kinds.items()})


def _all_fields(element: Any) -> Iterator[dict[str, Any]]:
    if isinstance(element, Block):
        names = [name for name in element.schema.names if not is_hidden(name)]
        columns = [column_values(element.column(name)) for name in names]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    elif dataclasses.is_dataclass(element):
        yield vars(element)
    else:
        yield row_fields(element)


def _fit(value: Any, kind: str | None, name: str) -> Any:
    """`value` as its field holds it: ids of rows are compared as text, rejected texts need not be any."""
    if value is None:
        return None
    if kind == "str" and not isinstance(value, str):
        return str(value)
    if kind == "int" and not isinstance(value, int):
        try:
            whole = int(value)
            if whole == float(value):
                return whole
        except (TypeError, ValueError):
            pass
        raise InputError(
            f"column {name!r} holds {value!r}, and integers in the first rows; convert it to one type"
        )
    return value.tolist() if isinstance(value, np.ndarray) else value


def _kinds(fields: Fields) -> dict[str, str | None]:
    return {name: _kind(one) for name, one in fields.items()}


def _kind(one: Any) -> str | None:
    union = typing.get_origin(one) in (typing.Union, types.UnionType)
    kinds = {kind for kind in (typing.get_args(one) if union else (one,)) if kind is not type(None)}
    if kinds == {str}:
        return "str"
    whole = all(isinstance(kind, type) and issubclass(kind, int | np.integer) for kind in kinds)
    return "int" if whole and kinds != {bool} else None


def optional(fields: Fields) -> Fields:
    return {name: _nullable(one) for name, one in fields.items()}


def _nullable(one: Any) -> Any:
    return one if one is Any else Optional[one]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any


def merged(parts: Sequence[Fields]) -> Fields:
    """The fields of all parts, nullable; of any type where two differ."""
    whole: Fields = {}
    for part in map(optional, parts):
        whole.update(
            {name: one if whole.get(name, one) == one else Any for name, one in part.items()}
        )
    return whole


def corpus_fields(read: ReadCorpus) -> Fields:
    """The fields of a corpus, by a look at the first rows of its first 100 files.

    Raises:
      InputError: no file matches, or one cannot be read.
    """
    columns = None if read.columns is None else tuple(read.columns)
    wanted = ColumnSelection(columns, read.id_column, read.text_column)
    named = None if read.id_column is not None else ""
    found: list[Fields] = []
    for file in match_files(read.pattern)[:FILES_SEEN]:
        first = next(iter(read_file(file.path, wanted, read.format, read.rows_per_block)), None)
        if first is not None:
            found.append(
                {field.name: arrow_type(field.type) for field in with_ids(first, named).schema}
            )
    return merged(found)


def stored_fields(read: ReadVectors) -> Fields:
    """The fields of what a sink wrote, by its first row.

    Raises:
      InputError: there is nothing to read.
    """
    first = next(read_vectors(read.path, read.table, rows_per_block=1), None)
    return optional(
        {} if first is None else {field.name: arrow_type(field.type) for field in first.schema}
    )


def unreadable_fields() -> Fields:
    """What a row of a file has that could not be parsed."""
    return {field.name: arrow_type(field.type) for field in UNREADABLE}


@functools.cache
def arrow_type(kind: pa.DataType) -> Any:
    """The type of a field that holds an Arrow column's values; Any where Beam's schemas have none."""
    tests = (
        ((pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view), str),
        ((pa.types.is_boolean,), bool),
        ((pa.types.is_integer,), np.int64),
        ((pa.types.is_float16, pa.types.is_float32), np.float32),
        ((pa.types.is_float64,), float),
        ((pa.types.is_binary, pa.types.is_large_binary), bytes),
    )
    for checks, plain_type in tests:
        if any(check(kind) for check in checks):
            return plain_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return collections.abc.Sequence[arrow_type(kind.value_type)]  # type: ignore[misc]
    return Any
