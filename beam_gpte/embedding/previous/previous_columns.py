"""Name the columns of a previous run, and say by what its rows are matched.

text of a row of the corpus --> key --+
                                      +--> equal keys: the same input of the model
text of a previous row -------> key --+
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import apache_beam as beam
import pyarrow as pa

from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    PARENT_HASH,
    PARENT_ID,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block

# Columns of previous rows, whatever their names in files.
KEY = "key"  # the text; of a chunk, the hash of its parent's
SAME_ID = "id"  # of the text's row
MADE = (VECTOR, WEIGHTS) = ("vector", "weights")  # the indices of a sparse vector, and its weights
INDEX = "index"  # of a chunk
KNOWN = (START, END, TOKEN_COUNT, DROPPED) = ("start", "end", "tokens", "dropped")  # with a vector

HASH_BYTES = 16

Describe = Callable[[pa.Field], Any]  # the metadata of a column; None if it is not of the kind


class NotReused(NamedTuple):
    """Tell why previous vectors are of no use, and of how many texts they are."""

    reason: str
    texts: int


@dataclasses.dataclass(frozen=True)
class PreviousColumns:
    """Name the columns of a previous run; those of the corpus have the same names.

    Attributes:
      text: the texts.
      id: the ids; None if there is none.
      made: what the model made of a text: a column, or two of a sparse vector.
      describe: tells columns of the model's from others.
      splits: whether texts are split into chunks.
      tokens: whether the numbers of tokens are asked for.
      added: the names of the other columns.
    """

    text: str
    id: str | None
    made: tuple[str, ...]
    describe: Describe = vector_metadata
    splits: bool = False
    tokens: bool = False
    added: AddedColumns = dataclasses.field(default_factory=AddedColumns)

    without_key: ClassVar = "the previous run has rows without a text"

    def of_file(self, schema: pa.Schema) -> Self:
        """Return the columns of a file of this schema."""
        return self

    def required(self) -> tuple[str, ...]:
        """Name the columns that a file of a previous run has to have."""
        return self.made if self.splits else (self.text, *self.made)

    def files(self) -> dict[str, str | None]:
        """Return the name in files of each column of previous rows."""
        names: dict[str, str | None] = {KEY: self.text, SAME_ID: self.id}
        names |= dict(zip(MADE, self.made, strict=False))
        if self.splits:
            names |= {KEY: self.added[PARENT_HASH], SAME_ID: self.added[PARENT_ID]}
            places = INDEX, START, END
            ours = CHUNK_INDEX, CHUNK_START, CHUNK_END
            names |= {place: self.added[name] for place, name in zip(places, ours, strict=True)}
        if self.tokens:
            names |= {TOKEN_COUNT: self.added[TOKENS], DROPPED: self.added[TOKENS_DROPPED]}
        return names

    def lacking(self, present: list[str]) -> str | None:
        """Name a column without which chunks cannot be matched; None if there are all."""
        names = self.files()
        places = (names[ours] for ours in (KEY, INDEX, START, END) if self.splits)
        return next((name for name in places if name not in present), None)

    def read_keys(self, values: pa.Array) -> pa.Array:
        """Return what previous rows are matched by, given the column of a file; null for none."""
        return values

    def prepared(self, block: Block) -> Block:
        """Add what `keys` reads, where that takes more than a look at the rows of the corpus."""
        return block

    def keys(self, block: Block) -> Sequence[bytes | None]:
        """Return what the rows of the corpus are matched by; None for a row that matches none."""
        texts = block.column(self.text).cast(pa.large_binary()).to_pylist()
        return [_hash(text or b"").encode() if self.splits else text or b"" for text in texts]


def parent_hashes(texts: list[str]) -> pa.Array:
    """Hash whole texts, by which their chunks are found again: hex of 128 bits of BLAKE2b."""
    return pa.array([_hash(text.encode()) for text in texts], pa.string())


class HashTexts(beam.PTransform):
    """Add the hash of each text, which its chunks will have; texts are strings or UTF-8."""

    def __init__(self, text_column: str, name: str) -> None:
        super().__init__()
        self._columns = text_column, name

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Add the column."""
        return blocks | beam.Map(_with_hashes, *self._columns).with_output_types(Block)


def _with_hashes(block: Block, text_column: str, name: str) -> Block:
    texts = block.column(text_column).cast(pa.large_binary()).to_pylist()
    hashes = pa.array([_hash(text) for text in texts], pa.string())
    return block.with_column(pa.field(name, pa.string()), hashes)


def _hash(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=HASH_BYTES).hexdigest()
