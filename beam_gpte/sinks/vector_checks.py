"""Refuse vectors that are null or not finite, before they are in a file."""

import numpy as np
import pyarrow as pa

from beam_gpte.core.errors import InputError


def check_values(table: pa.Table, name: str, id_column: str | None) -> None:
    """Refuse vectors that are no vectors, and what pyarrow writes but cannot read.

    Those are null lists of fixed size (apache/arrow#35692).

    Args:
      table: the rows.
      name: the column to check, of any type.
      id_column: names a row in the message, if the table has it.

    Raises:
      InputError: a vector is null, or a value of it is NaN, infinite or null.
    """
    first = 0
    for values in table.column(name).chunks:
        if not pa.types.is_fixed_size_list(values.type):
            if _has_null_vector(values):
                raise InputError(
                    f"column {name!r} is {values.type} with nulls, which pyarrow could not read "
                    "again; cast its lists to variable size before writing"
                )
            continue
        if values.null_count:
            raise InputError(
                f"column {name!r}: a row has no vector; "
                "embed every row, or drop such rows before writing"
            )
        if pa.types.is_floating(values.type.value_type):
            matrix = values.flatten().to_numpy(zero_copy_only=False)
            finite = np.isfinite(matrix.reshape(len(values), -1)).all(axis=1)
            if not finite.all():
                row = _row_name(table, first + int(finite.argmin()), id_column)
                raise InputError(
                    f"column {name!r}: the vector of {row} has a value that is not finite; "
                    "drop such rows before writing, or let EmbedText(...)"
                    ".with_exception_handling() reject them"
                )
        first += len(values)


def _row_name(table: pa.Table, row: int, id_column: str | None) -> str:
    if id_column is not None and id_column in table.column_names:
        return f"the row with {id_column} {table.column(id_column)[row].as_py()!r}"
    return f"row {row}"


def _has_null_vector(values: pa.Array) -> bool:
    """Return whether a list of fixed size is null, within structs, lists and maps."""
    kind = values.type
    if pa.types.is_struct(kind):
        inner = [values.field(i) for i in range(kind.num_fields)]
        return any(map(_has_null_vector, inner)) or (
            values.null_count > 0 and any(_has_vectors(field.type) for field in kind)
        )
    if pa.types.is_fixed_size_list(kind):
        return values.null_count > 0 or _has_null_vector(values.flatten())
    if pa.types.is_map(kind):
        return _has_null_vector(values.keys) or _has_null_vector(values.items)
    return _has_vectors(kind) and _has_null_vector(values.flatten())


def _has_vectors(kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return True
    return any(_has_vectors(kind.field(i).type) for i in range(kind.num_fields))
