"""Tell rows of a corpus and of a reference apart where both have the same ids.

A corpus that is compared with a reference has ids of its own, which may be those of other rows
there. So while steps compare rows of both, `CORPUS_ID` names a row: a string of which of the two it
is of, and of its id. These strings sort as the ids do, the reference's first.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import CORPUS_ID, DUPLICATE_OF, FIRST_ID, REFERENCE, SECOND_ID
from beam_gpte.core.errors import InputError
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.plain_types import is_string
from beam_gpte.shuffle.unique_ids import id_array, like_ids

_HALF = np.uint64(1 << 63)
_REFERENCE, _CORPUS = "0", "1"
_STRING, _SIGNED, _UNSIGNED = "s", "i", "u"
_DIGITS = 20  # of 2^64
_START = 2  # of the id: after the corpus and the type


def with_corpus_ids(block: Block, id_column: str) -> Block:
    """Add `CORPUS_ID` to rows of either corpus, none of whose ids is null."""
    ids = id_array(block, id_column)
    corpus = _REFERENCE if REFERENCE in block.schema.names else _CORPUS
    named = _joined(corpus + _STRING, ids) if is_string(ids.type) else _sortable(corpus, ids)
    return with_hidden(block, pa.field(CORPUS_ID, named.type), named)


def own_ids(named: pa.Array) -> pa.Array:
    """Return the ids in values of `CORPUS_ID`: int64, uint64 or large_string (n,).

    Raises:
      InputError: ids of one corpus are strings and those of the other integers.
    """
    is_text = pc.equal(pc.utf8_slice_codeunits(named, 1, 2), _STRING)
    if pc.any(is_text).as_py() is not False:
        _check_kinds(pc.all(is_text).as_py() is not False)
        return pc.utf8_slice_codeunits(named, _START)
    end = _START + 1 + _DIGITS
    digits = pc.utf8_slice_codeunits(named, _START + 1, end).cast(pa.uint64())
    values = digits.to_numpy(zero_copy_only=False) ^ _HALF
    is_unsigned = pc.any(pc.equal(pc.utf8_slice_codeunits(named, end), _UNSIGNED)).as_py()
    return pa.array(values if is_unsigned else values.view(np.int64))


def are_of_reference(named: pa.Array) -> np.ndarray:
    """Return which values of `CORPUS_ID` name rows of the reference, bool (n,)."""
    return pc.starts_with(named, _REFERENCE).to_numpy(zero_copy_only=False)


def with_own_ids(block: Block, id_column: str, added: AddedColumns) -> Block:
    """Drop `CORPUS_ID` from rows; in removed ones, `duplicate_of` gets the type of their ids.

    Raises:
      InputError: as `own_ids`.
    """
    if CORPUS_ID not in block.schema.names:
        return block
    name = added[DUPLICATE_OF]
    if name in block.schema.names:
        ids, known = own_ids(block.column(name)), id_array(block, id_column)
        _check_kinds(is_string(ids.type) == is_string(known.type))
        ids = like_ids(ids, block.schema.field(id_column).type)
        block = with_hidden(block, pa.field(name, ids.type), ids)
    return block.without_columns([CORPUS_ID])


def with_own_pair_ids(pairs: Block, id_column: str) -> Block:
    """Give pairs, by ids of `id_column`, those of the rows."""
    if id_column != CORPUS_ID:
        return pairs
    for name in (FIRST_ID, SECOND_ID):
        ids = own_ids(pairs.column(name))
        pairs = with_hidden(pairs, pa.field(name, ids.type), ids)
    return pairs


def _check_kinds(are_equal: bool) -> None:
    if not are_equal:
        raise InputError("one corpus has strings as ids and the other integers; convert these")


def _joined(start: str, texts: pa.Array, end: str = "") -> pa.Array:
    parts = (pa.scalar(part, pa.large_string()) for part in (start, end, ""))
    first, last, separator = parts
    return pc.binary_join_element_wise(first, texts, last, separator)


def _sortable(corpus: str, ids: pa.Array) -> pa.Array:
    """Write integers, increased by 2^63, with all digits; from 2^64 on, less that, after a 1."""
    is_unsigned = ids.type == pa.uint64()
    values = ids.to_numpy(zero_copy_only=False).astype(np.uint64)
    is_large = pa.array((values >= _HALF) & is_unsigned)
    digits = pc.utf8_lpad(pa.array(values ^ _HALF).cast(pa.large_string()), _DIGITS, "0")
    carry = pc.if_else(is_large, "1", "0").cast(pa.large_string())
    whole = pc.binary_join_element_wise(carry, digits, pa.scalar("", pa.large_string()))
    return _joined(corpus + _SIGNED, whole, _UNSIGNED if is_unsigned else _SIGNED)
