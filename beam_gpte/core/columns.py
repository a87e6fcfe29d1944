"""Name the columns of all results and the hidden columns that travel inside pipelines.

The names of results are the on-disk contract. Rejects keep all columns of their row and gain
`REJECT_STEP` and `REJECT_REASON`. Names that begin with `HIDDEN` never reach a user or a file, and
none comes from there: `check_visible` refuses them.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from beam_gpte.core.errors import InputError

ID = "id"
TEXT = "text"
IMAGE = "image"
EMBEDDING = "embedding"

# Added to the rows of a text that was split into sentences or chunks; see `elements.chunk_rows`.
PARENT_ID = "parent_id"
CHUNK_INDEX = "chunk_index"
CHUNK_START = "chunk_start"
CHUNK_END = "chunk_end"
PARENT_HASH = "parent_hash"  # by EmbedText alone, see `embedding.previous`

# Added by EmbedImages(storage=ImageStorage(sha256=True)).
IMAGE_SHA256 = "image_sha256"

# Added by EmbedText(token_columns=True).
TOKENS = "tokens"
TOKENS_DROPPED = "tokens_dropped"

# Added to the removed rows of a deduplication.
DUPLICATE_OF = "duplicate_of"  # the id of a kept row; has the id column's type
SCORE = "score"  # float32: the similarity to it
FOUND_BY = "found_by"  # the step: exact, lexical or semantic

# Added to all rows of a deduplication that annotates clusters.
CLUSTER_ID = "cluster_id"  # the id of the row that stays; has the id column's type
CLUSTER_SIZE = "cluster_size"  # int64: rows of the corpus in the cluster
IS_REPRESENTATIVE = "is_representative"  # bool: whether the row is the one that stays

# Of SignTexts, beside the ids.
SIGNATURE = "signature"  # FixedSizeList<uint32>[num_perm]
SHINGLES = "shingles"  # int64: n-grams of the text
SIGNATURE_SCOPE = "signature_scope"  # uint64: a hash of the value of the scope's column

# A span that CutRepeatedSpans cut, beside the id of its row and `FIRST_ID`.
CUT_START = "cut_start"  # int64: its first character in the text as it came
CUT_END = "cut_end"  # int64: the character after it
CUT_TEXT = "cut_text"

# A pair of duplicates: `FIRST_ID` comes first in the order of keeping, then `SECOND_ID`, `SCORE`.
FIRST_ID = "first_id"
SECOND_ID = "second_id"

# A pair of a source and a target, or a candidate for one; see `core.mining.margin`.
SIDES = ("source", "target")
SOURCE_ID = "source_id"
TARGET_ID = "target_id"
SIDE_IDS = (SOURCE_ID, TARGET_ID)
SIDE_DOCUMENTS = ("source_document", "target_document")  # of a pair of documents
COSINE = "cosine"
FORWARD_RANK = "forward_rank"
BACKWARD_RANK = "backward_rank"
FORWARD_MEAN = "forward_mean"
BACKWARD_MEAN = "backward_mean"
MARGIN = "margin"
BEST_FORWARD = "best_forward"  # bool: the source's best candidate
BEST_BACKWARD = "best_backward"  # bool: the target's best candidate
CANDIDATE = (
    SOURCE_ID,
    TARGET_ID,
    COSINE,
    FORWARD_RANK,
    FORWARD_MEAN,
    BACKWARD_RANK,
    BACKWARD_MEAN,
    MARGIN,
    BEST_FORWARD,
    BEST_BACKWARD,
)

# In the `history` of DeduplicateStream.
TIMESTAMP = "event_time_micros"  # int64

# Added by WatchCorpus where users bring their ids: file and row, as in generated ids.
SOURCE = "source"

REJECT_STEP = "reject_step"
REJECT_REASON = "reject_reason"

HIDDEN = "__gpte_"

# Rows of the user inside blocks; see `elements.rows`.
KIND = b"beam_gpte.kind"  # schema metadata of a block made of a table or a record batch
ROW = HIDDEN + "row"  # binary: the user's row, pickled
ROW_TIME = HIDDEN + "timestamp"  # int64: the row's event time in microseconds
POSITION = HIDDEN + "position"  # int64: the row in the frame that a notebook gave
DEFECT = HIDDEN + "defect"  # string: why the row could not be read, null where it could

# Rows spilled to a disk; see `shuffle.spill`.
FILE = HIDDEN + "file"  # int64: names a file; the field's metadata hold the folder and its columns
AT = HIDDEN + "at"  # int64: the row in that file

# What a previous run has of the vectors of the same text; see `embedding.previous`.
PREVIOUS = HIDDEN + "previous"
IMAGE_KEY = HIDDEN + "image_key"  # string: the SHA-256 of an image, by which it is looked up there

# Rows under deduplication.
ORDER_VALUE = HIDDEN + "order"  # orders rows before their ids do; absent where ids alone decide
REFERENCE = HIDDEN + "reference"  # bool: rows of another corpus, ordered first and never removed
CORPUS_ID = HIDDEN + "corpus_id"  # string: names rows where there is a reference
SCOPE = HIDDEN + "scope"  # rows are compared only within one; in mining too
TEXT_KEY = HIDDEN + "key"  # string: a hash of what duplicates share
NORMAL = HIDDEN + "normal"  # string: the text as it is compared
BUCKET = HIDDEN + "bucket"  # uint64: the hash of one band of a text's MinHash signature
SIZE = HIDDEN + "size"  # uint32: the number of distinct shingles of a text
PROBES = HIDDEN + "probes"  # lists of uint64: shingles that find what contains a text
NEEDED = HIDDEN + "needed"  # int64: how many of them that has
VECTOR = HIDDEN + "vector"  # FixedSizeList<float32>[dim], of length 1; in mining too
VECTOR_KEY = HIDDEN + "vector_key"  # uint64, equal for equal vectors of one scope
CELL = HIDDEN + "cell"  # int16: the row's home cell
SKETCH = HIDDEN + "sketch"  # FixedSizeList<float16>[s + 1]
VISITS = HIDDEN + "visits"  # list of int16: further cells of a tile that a row is compared in
DENSE = HIDDEN + "dense"  # bool: marks the rows that are named dense
OPEN = HIDDEN + "open"  # bool: rows that others may remove by pairs that are listed
HOME = HIDDEN + "home"  # bool: whether a row is in its home cell, or a replica

# Rows and pairs under mining.
DECOY = HIDDEN + "decoy"  # bool: a source known to have no translation
SIDE = HIDDEN + "side"  # int8: 0 for the source
# null: marks the rows of an input, that is of a side, or of decoys, by the name of the column
MARKS = tuple(HIDDEN + name for name in (*SIDES, "decoys"))
REPRESENTATIVE = HIDDEN + "representative"  # the id of the row that represents a duplicate
DUPLICATES = HIDDEN + "duplicates"  # list of ids: the rows that a row represents; null for none
OWN_ID = HIDDEN + "own_id"  # the id in its own type, where it is compared as another
PLACE = HIDDEN + "place"  # int: the sentence's row among those of its documents
QUERY = HIDDEN + "query"  # the id of the query that represents the pair's; smallest of equal texts
DOCUMENT = HIDDEN + "document"
SPAN_START = HIDDEN + "span_start"  # int64: the first sentence of several, by its place
SPAN_SIZE = HIDDEN + "span_size"  # int64: how many there are
SENTENCES = HIDDEN + "sentences"  # binary: the vectors of a document's sentences, float16
PAIR_SCORE = HIDDEN + "score"  # float32: the pair's cosine
PAIR_TEXTS = (HIDDEN + "query_text", HIDDEN + "document_text")  # string
PAIR = HIDDEN + "pair"

# A row of a file that could not be parsed; `row` counts from 1.
UNREADABLE = pa.schema([("file", pa.string()), ("row", pa.int64()), ("content", pa.string())])


@dataclasses.dataclass(frozen=True)
class Columns:
    """Name the columns that a transform reads its rows from.

    Attributes:
      id: holds the ids, strings or integers.
      text: holds the texts.
      embedding: holds the vectors.
    """

    id: str = ID
    text: str = TEXT
    embedding: str = EMBEDDING


def is_hidden(name: str) -> bool:
    """Return whether a column travels inside pipelines only."""
    return name.startswith(HIDDEN)


def check_visible(names: Iterable[Any], metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Refuse columns that would reach into a transform.

    Args:
      names: of the columns of a user.
      metadata: of their schema.

    Raises:
      InputError: one has a hidden name, or the metadata a hidden key; names it.
    """
    for name in names:
        if isinstance(name, str) and name.startswith(HIDDEN):
            raise InputError(
                f"a column is named {name!r}; names that begin with {HIDDEN} are those of "
                "columns inside transforms: rename it"
            )
    if metadata and KIND in metadata:
        raise InputError(
            f"the schema has metadata {KIND.decode()!r}, which tables inside transforms "
            "have: drop it with replace_schema_metadata"
        )
