"""Decide what the values of a column are ordered by: the one rule of all that sorts rows."""

import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.errors import InputError

_NUMBER = r"^\s*[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+|[nN][aA][nN]|[iI]nf(inity)?)\s*$"
_UNORDERED = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)


def orderable(column: pa.Array, name: str) -> pa.Array:
    """Return the values that rows are ordered by, for a sort with nulls last.

    NaN becomes null, and a dictionary its values, which order as text whatever order it declares.

    Args:
      column: the values.
      name: of the column, for errors.

    Raises:
      InputError: the values are numbers as text, of which 10 would come before 9, or have no order.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _check_no_numbers(column, name)
    if any(is_unordered(kind) for is_unordered in _UNORDERED):
        raise InputError(f"column {name!r} is {kind}, which has no order; name another column")
    return column


def _check_no_numbers(column: pa.Array, name: str) -> None:
    """Refuse text that is all numbers, or has numbers that text orders otherwise."""
    texts = column.drop_null().unique()
    texts = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), ""))
    is_number = pc.match_substring_regex(texts, _NUMBER)
    numbers = texts.filter(is_number)
    if not len(numbers) or (len(numbers) < len(texts) and _is_ordered(numbers)):
        return
    example = numbers[0].as_py()
    raise InputError(
        f"column {name!r} holds numbers as text, such as {example!r}, and text orders 10 before 9; "
        f"convert it to numbers (in a CSV file: ReadCorpus(types={{{name!r}: pa.float64()}}))"
    )


def _is_ordered(numbers: pa.Array) -> bool:
    in_text_order = numbers.take(pc.sort_indices(numbers)).to_pylist()
    values = [float(text) for text in in_text_order]
    return values == sorted(values)
