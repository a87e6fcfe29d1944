"""Names and schemas of all results: the on-disk contract, in one place.

Rejects keep all columns of their row and gain `STEP` and `REASON`. Names that begin with `HIDDEN` travel inside a
pipeline only: the row adapter puts them in and takes them out, no user and no file ever sees them.
"""

import pyarrow as pa

ID = "id"
TEXT = "text"
EMBEDDING = "embedding"

# Added to the rows of a text that became several, its sentences or chunks, see `chunks`.
PARENT_ID = "parent_id"
CHUNK_INDEX = "chunk_index"
CHUNK_START = "chunk_start"
CHUNK_END = "chunk_end"

# Added by EmbedText(token_columns=True).
TOKENS = "tokens"
TOKENS_DROPPED = "tokens_dropped"

# Added to the removed rows of a deduplication.
DUPLICATE_OF = "duplicate_of"  # the id of a kept row, of the id column's type
SCORE = "score"  # float32: the similarity to it
FOUND_BY = "found_by"  # the step: exact, lexical or semantic

# A pair of duplicates: `FIRST_ID` is the one that comes first in the order of keeping, then `SECOND_ID`, then `SCORE`.
FIRST_ID = "first_id"
SECOND_ID = "second_id"

# Added by WatchCorpus where the ids are the user's own: the file and row a row came from, as made ids have it.
SOURCE = "source"

STEP = "reject_step"
REASON = "reject_reason"

HIDDEN = "__gpte_"
ROW = HIDDEN + "row"  # binary: the user's row, pickled
TIMESTAMP = HIDDEN + "timestamp"  # int64: the row's event time in microseconds
FORMER = HIDDEN + "former"  # the vector a former run gave to the same text, with its metadata; null for a new text
DEFECT = HIDDEN + "defect"  # string: why the row could not be read, null where it could

# A row of a file that could not be parsed; `row` counts from 1.
UNREADABLE = pa.schema([("file", pa.string()), ("row", pa.int64()), ("content", pa.string())])


def is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN)
