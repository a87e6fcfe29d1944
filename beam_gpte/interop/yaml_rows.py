"""Convert between the blocks of our transforms and the Beam Rows with a schema of Beam YAML.

    rows --> (our transform) --> rows or blocks --> AsRows --> Rows --> the next step
                                        |                       :
                                        +---- original() finds them

The schema is known when the pipeline is built. A following step of ours takes the blocks that the
rows were converted from, as in a Python pipeline: vectors keep their metadata and never become
lists of floats in between.
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

from beam_gpte.core.columns import REJECT_REASON, REJECT_STEP, UNREADABLE
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.python_values import json_value
from beam_gpte.core.vectors.head import Head
from beam_gpte.core.vectors.postprocess import Postprocess
from beam_gpte.core.vectors.vector_map import VectorMap
from beam_gpte.elements.block import Block
from beam_gpte.elements.row_kinds import column_values, row_fields
from beam_gpte.elements.rows import blocks_behind
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_corpus import ReadCorpus
from beam_gpte.sources.read_files import read_file, with_ids
from beam_gpte.sources.read_vectors import ReadVectors, read_vectors

Fields = dict[str, Any]  # name to type, of a Row
REPORT: Fields = {"report": str}
VECTOR = Sequence[np.float32]
SCHEMA_FILES = 100  # of a corpus, read for its schema
_ORIGINAL = "_beam_gpte_original"  # attribute of a PCollection of Rows


def fields_of(pcoll: beam.PCollection, step: str) -> Fields:
    """Read the fields of a collection's rows from its schema.

    Raises:
      InputError: it has no schema.
    """
    try:
        return dict(named_fields_from_element_type(cast(type, pcoll.element_type)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{step}: its input has no schema; put MapToFields before it, which adds one"
        ) from error


def original(rows: beam.PCollection) -> beam.PCollection:
    """Find the collection that `rows` were converted from; `rows` if they were not."""
    return getattr(rows, _ORIGINAL, rows)


@dataclasses.dataclass(eq=False)
class AsRows(beam.PTransform):
    """Convert blocks, rows or dataclasses to Rows; a missing field is null.

    Attributes:
      fields: of the Rows.
      closed: fail where a block has a column that is not a field.
      linked: let a following step of ours take the blocks, which hold just what the Rows do.
    """

    fields: Fields
    closed: bool = False
    linked: bool = True

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Return Rows, linked to `pcoll`."""
        pcoll = blocks_behind(pcoll)
        convert = beam.FlatMap(_rows, _kinds(self.fields), self.closed)
        rows = pcoll | convert.with_output_types(
            RowTypeConstraint.from_fields(list(self.fields.items()))
        )
        if pcoll.element_type in (Postprocess, Head, VectorMap) or (
            self.linked and pcoll.element_type is Block
        ):
            setattr(rows, _ORIGINAL, pcoll)
        return rows


class AsReports(beam.PTransform):
    """Convert reports to Rows of one text, JSON: which figures a report has depends on the data."""

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        """Return Rows with the field `report`."""
        row = RowTypeConstraint.from_fields(list(REPORT.items()))
        return reports | beam.Map(_report_row).with_output_types(row)


def _report_row(report: dict[str, Any]) -> beam.Row:
    return beam.Row(report=json.dumps(json_value(report), ensure_ascii=False))


@dataclasses.dataclass(eq=False)
class AsErrors(beam.PTransform):
    """Convert rejects to the error Rows of Beam YAML.

    Their fields are `element` (the row), `msg` (the reason) and `stack` (the step).

    Attributes:
      fields: of the rejected row.
    """

    fields: Fields

    def expand(self, rejects: beam.PCollection) -> beam.PCollection:
        """Return error Rows, linked to `rejects` if they are blocks."""
        rejects = blocks_behind(rejects)
        element: Any = RowTypeConstraint.from_fields(list(self.fields.items()))
        row = RowTypeConstraint.from_fields([("element", element), ("msg", str), ("stack", str)])
        errors = rejects | beam.FlatMap(_errors, _kinds(self.fields)).with_output_types(row)
        if rejects.element_type is Block:
            setattr(errors, _ORIGINAL, rejects)
        return errors


def rejects_of(errors: beam.PCollection) -> beam.PCollection:
    """Undo `AsErrors`, also for Rows from steps of Beam: mappings with step and reason."""
    rejects = original(errors)
    return rejects if rejects is not errors else errors | "Rejects" >> beam.Map(_reject)


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
                f"columns {', '.join(unknown)} are not in the first rows of any file; "
                "name what to read by columns"
            )
    for values in _all_fields(element):
        yield _row(values, kinds)


def _errors(element: Any, kinds: dict[str, str | None]) -> Iterator[beam.Row]:
    for values in _all_fields(element):
        yield beam.Row(
            element=_row(values, kinds), msg=values[REJECT_REASON], stack=values[REJECT_STEP]
        )


def _row(values: dict[str, Any], kinds: dict[str, str | None]) -> beam.Row:
    fields = {name: _field_value(values.get(name), kind, name) for name, kind in kinds.items()}
    return beam.Row(**fields)


def _all_fields(element: Any) -> Iterator[dict[str, Any]]:
    if isinstance(element, Block):
        names = element.schema.names
        columns = [column_values(element.column(name)) for name in names]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    elif dataclasses.is_dataclass(element):
        yield vars(element)
    else:
        yield row_fields(element)


def _field_value(value: Any, kind: str | None, name: str) -> Any:
    """Convert a value to the type of its field.

    Types differ because ids of rows are compared as strings, and rejected texts may be anything.
    """
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
            f"column {name!r} holds {shown(value)}, and integers in the first rows; "
            "convert it to one type"
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
    """Make all fields nullable."""
    return {name: _nullable(one) for name, one in fields.items()}


def _nullable(one: Any) -> Any:
    return one if one is Any else Optional[one]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any


def merged(parts: Sequence[Fields]) -> Fields:
    """Merge the fields of all parts, nullable; of any type where two differ."""
    whole: Fields = {}
    for part in map(optional, parts):
        whole.update(
            {name: one if whole.get(name, one) == one else Any for name, one in part.items()}
        )
    return whole


def corpus_fields(read: ReadCorpus) -> Fields:
    """Read the fields of a corpus from the first rows of its first 100 files.

    Raises:
      InputError: no file matches, or one cannot be read.
    """
    named = None if read.id_column is not None else ""
    found: list[Fields] = []
    for file in match_files(read.pattern, [])[:SCHEMA_FILES]:
        first = next(
            iter(read_file(file.path, read.selection, read.format, read.rows_per_block)), None
        )
        if first is not None:
            fields = [(field.name, field.type) for field in with_ids(first, named).schema]
            kinds = {name: read.selection.types.get(name, kind) for name, kind in fields}
            found.append({name: arrow_type(kind) for name, kind in kinds.items()})
    return merged(found)


def stored_fields(read: ReadVectors) -> Fields:
    """Read the fields of what a sink wrote from its first row.

    Raises:
      InputError: there is nothing to read.
    """
    first = next(read_vectors(read.path, read.table, rows_per_block=1), None)
    return optional(
        {} if first is None else {field.name: arrow_type(field.type) for field in first.schema}
    )


def unreadable_fields() -> Fields:
    """Return the fields of a row of a file that could not be parsed."""
    return {field.name: arrow_type(field.type) for field in UNREADABLE}


def list_type(item: Any, of: type = list) -> Any:
    """Return the type of a list whose items have a type that is known at run time only."""
    return types.GenericAlias(of, (item,))


@functools.cache
def arrow_type(kind: pa.DataType) -> Any:
    """Return the type of a field for an Arrow column; Any where Beam's schemas have none."""
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
        return list_type(arrow_type(kind.value_type), collections.abc.Sequence)
    return Any
