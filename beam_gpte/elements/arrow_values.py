"""Convert Python values to Arrow arrays, and keep dictionaries small."""

import json
from typing import Any

import pyarrow as pa

MISFITS = (
    pa.ArrowException,
    OverflowError,
    TypeError,
    ValueError,
)  # what pa.array raises for a value of another type


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, the dictionaries without values that do not occur: a block is written with all of them."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            column = batch.column(i).dictionary_decode().dictionary_encode().cast(field.type)
            batch = batch.set_column(i, field, column)
    return batch


def lenient_array(values: list[Any]) -> pa.Array:
    """The values of a column of rejects; as JSON if they are of several types."""
    try:
        return pa.array(values)
    except MISFITS:
        return pa.array([json_text(value) for value in values], pa.string())


def json_text(value: Any) -> str | None:
    return (
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
