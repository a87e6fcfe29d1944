"""Read and write fields of every kind of row: mappings, Beam Rows, NamedTuples, items, strings."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import EMBEDDING, ID, IMAGE, TEXT
from beam_gpte.core.errors import InputError
from beam_gpte.core.python_values import json_text, python_values, safe_text
from beam_gpte.core.sparse.columns import INDICES, sparse_columns

_NOT_A_ROW = (
    "a value of type {} is not a row; give blocks, pyarrow tables or record batches, mappings, "
    "Beam Rows, NamedTuples, EmbeddableItems or strings"
)


@dataclasses.dataclass(frozen=True)
class RowValues:
    """Hold what a transform reads from one row, made safe for Arrow, and its defect if any."""

    id: str | int | None
    text: str | None
    values: tuple
    texts: tuple
    defect: str | None


def read_row(
    element: Any,
    text_column: str | None,
    id_column: str | None,
    columns: tuple[str, ...],
    texts: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> RowValues:
    """Read id, text and further columns of a row of any kind.

    Args:
      element: the row.
      text_column: of its text; None to read none.
      id_column: of its id; None to read none.
      columns: to read as they are; None, and a defect, where the row lacks one.
      texts: to read and make safe, as the text is.
      optional: further columns to read as they are; None where the row lacks one.

    Raises:
      InputError: `element` is not a row.
    """
    get = _getter(element, text_column)
    text, defect = _safe_text(get(text_column)) if text_column is not None else (None, None)
    key, key_defect = _safe_id(get(id_column)) if id_column is not None else (None, None)
    if key is None and id_column is not None and key_defect is None and _has(element, id_column):
        key_defect = f"{id_column} is null"
    others = [_safe_text(get(name)) for name in texts]
    defects = [key_defect, defect, *(found for _, found in others)]
    defects += [f"no column {name!r}" for name in columns if not _has(element, name)]
    values = tuple(get(name) for name in (*columns, *optional))
    found = next(filter(None, defects), None)
    return RowValues(key, text, values, tuple(other for other, _ in others), found)


def row_fields(element: Any) -> dict[str, Any]:
    """Read all fields of a row, by name."""
    if isinstance(element, Mapping):
        return dict(element)
    if isinstance(element, str):
        return {TEXT: element}
    if is_item(element):
        fields = {ID: element.id, TEXT: element.content.text, **_image_of(element)}
        return fields | element.metadata | _item_vectors(element)
    if isinstance(element, beam.Row):
        return element.as_dict()
    if _is_row(element):
        return element._asdict()
    raise InputError(_NOT_A_ROW.format(type(element).__qualname__))


def row_names(element: Any) -> Iterable[str]:
    """Name the fields of a row that have a value; of a NamedTuple, None is filled in."""
    if isinstance(element, str | bytes) or element is None:
        return ()
    if isinstance(element, Mapping):
        return element
    if is_item(element):
        return (*element.metadata, *_item_vectors(element))
    if isinstance(element, beam.Row):
        return element.as_dict()
    if _is_row(element):
        return [name for name, value in element._asdict().items() if value is not None]
    return ()


def _getter(element: Any, text_column: str | None) -> Callable[[str], Any]:
    if isinstance(element, str | bytes) or element is None:
        return lambda name: element if name == text_column else None
    if isinstance(element, Mapping):
        return element.get
    if is_item(element):
        fields: dict[Any, Any] = {text_column: element.content.text, ID: element.id}
        fields |= _image_of(element) | _item_vectors(element)
        return lambda name: fields[name] if name in fields else element.metadata.get(name)
    if _is_row(element):
        return lambda name: getattr(element, name, None)
    raise InputError(_NOT_A_ROW.format(type(element).__qualname__))


def _has(element: Any, column: str) -> bool:
    """Check for a field; a row without an id is fine, one whose id is None is not."""
    if isinstance(element, Mapping):
        return column in element
    if is_item(element):
        return column in element.metadata or column in _image_of(element)
    return _is_row(element) and hasattr(element, column)


def item_class() -> Any:
    """Return `EmbeddableItem` once something has imported it: Beam's ml package loads torch."""
    return getattr(sys.modules.get("apache_beam.ml.rag.types"), "EmbeddableItem", ())


def is_item(element: Any) -> bool:
    """Return whether a row is an `EmbeddableItem`."""
    return isinstance(element, item_class())


def _image_of(item: Any) -> dict[str, Any]:
    """Return the image of an item, by the column that it is read as; nothing if it has none."""
    return {} if item.content.image is None else {IMAGE: item.content.image}


def _is_row(element: Any) -> bool:
    return isinstance(element, beam.Row) or hasattr(element, "_fields")


def _safe_text(value: Any) -> tuple[str | None, str | None]:
    """Convert a text to what Arrow can hold; also return what was wrong with it."""
    if value is None:
        return None, None
    if isinstance(value, bytes):
        try:
            return value.decode(), None
        except UnicodeDecodeError:
            return value.decode(errors="backslashreplace"), "text is not valid UTF-8"
    if not isinstance(value, str):
        return safe_text(_written(value)), f"text is not a string: {type(value).__name__}"
    safe = safe_text(value)
    return safe, None if safe == value else "text is not valid Unicode: it has a lone surrogate"


def _safe_id(value: Any) -> tuple[str | int | None, str | None]:
    """Convert an id to what Arrow can hold; also return what was wrong with it."""
    if value is None:
        return None, None
    if not isinstance(value, str) and (isinstance(value, bool) or not hasattr(value, "__index__")):
        return None, f"id is neither string nor integer: {type(value).__name__}"
    if not isinstance(value, str):
        number = value.__index__()
        fits = -(1 << 63) <= number < 1 << 64
        return (number, None) if fits else (None, "id does not fit 64 bits; write it as a string")
    shown = safe_text(value)
    return shown, None if shown == value else "id is not valid Unicode: it has a lone surrogate"


def _written(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        return str(json_text(value))


def column_values(column: pa.Array) -> list:
    """Convert a column to Python values; a vector, or a list of vectors, to a numpy array."""
    if pa.types.is_list(column.type) and pa.types.is_fixed_size_list(column.type.value_type):
        return _vector_lists(column)
    if not pa.types.is_fixed_size_list(column.type):
        return python_values(column)
    width = column.type.list_size
    flat = column.values.to_numpy(zero_copy_only=False)
    vectors = flat[column.offset * width :].reshape(-1, width)[: len(column)]
    is_valid = column.is_valid().to_pylist()
    return [vector if valid else None for vector, valid in zip(vectors, is_valid, strict=True)]


def _vector_lists(column: pa.ListArray) -> list:
    """Convert each list of vectors to an array (n, dim), None where it is null."""
    flat = column.flatten()
    values = flat.flatten()
    kind = values.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if flat.null_count or values.null_count or not is_number:
        return python_values(column)
    vectors = values.to_numpy(zero_copy_only=False).reshape(len(flat), flat.type.list_size)
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    parts = np.split(vectors, np.cumsum(counts)[:-1]) if len(column) else []
    is_valid = column.is_valid().to_pylist()
    return [part if valid else None for part, valid in zip(parts, is_valid, strict=True)]


def write_row(element: Any, fields: dict[str, Any], text_column: str | None) -> Any:
    """Return `element` with `fields` added, as its kind allows."""
    if isinstance(element, Mapping):
        return {**element, **fields}
    if is_item(element):
        return _fill_item(element, fields)
    if isinstance(element, str | bytes) or element is None:
        return {text_column or TEXT: element, **fields}
    plain = {name: plain_value(value) for name, value in fields.items()}
    present = element.as_dict() if isinstance(element, beam.Row) else element._asdict()
    if hasattr(element, "_replace") and set(plain) <= set(present):
        return element._replace(**plain)
    return beam.Row(**{**present, **plain})


def plain_value(value: Any) -> Any:
    """Convert a vector to a list; Beam Rows hold no numpy arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def _item_vectors(item: Any) -> dict[str, Any]:
    """Return the vectors that an item has, by column: the dense one, and the terms and weights."""
    dense = item.dense_embedding
    found: dict[str, Any] = {} if dense is None else {EMBEDDING: dense}
    return found | sparse_fields(item.sparse_embedding)


def sparse_fields(sparse: tuple[list[int], list[float]] | None) -> dict[str, list]:
    """Return the columns of the sparse vector of an item; none if it has none."""
    if sparse is None:
        return {}
    names, parts = sparse_columns(), (list(part) for part in sparse)
    return dict(zip(names, parts, strict=True))


def _fill_item(item: Any, fields: dict[str, Any]) -> Any:
    """Return an item with new vectors in their places, and other fields in its metadata."""
    from apache_beam.ml.rag.types import Embedding

    dense, sparse = item.dense_embedding, item.sparse_embedding
    vector = next((name for name, value in fields.items() if getattr(value, "ndim", 0) == 1), None)
    rest = {name: plain_value(value) for name, value in fields.items() if name != vector}
    content = item.content
    if content.image is not None and IMAGE in rest:
        content = dataclasses.replace(content, image=rest.pop(IMAGE))
    if vector is not None:
        dense = fields[vector].tolist()
    for name in fields:
        pair = sparse_columns(name.removesuffix(INDICES)) if name.endswith(INDICES) else ("", "")
        if pair[0] == name and all(isinstance(rest.get(one), list) for one in pair):
            sparse = rest.pop(pair[0]), rest.pop(pair[1])
    is_filled = vector is not None or sparse is not item.sparse_embedding
    return dataclasses.replace(
        item,
        content=content,
        embedding=Embedding(dense, sparse) if is_filled else item.embedding,
        metadata={**item.metadata, **rest} if rest else item.metadata,
    )
