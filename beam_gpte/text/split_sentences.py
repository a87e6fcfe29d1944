"""Split texts into sentences, one row per sentence: `rows | SplitSentences("de")`.

rows --> CheckTexts --> Split --> rows of sentences
             |
             +--> rejects
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.text.sentences import check_language, split_sentences
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.chunk_rows import CHUNK_COLUMNS, chunk_rows
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
)
from beam_gpte.elements.rows import over_blocks


@dataclasses.dataclass(eq=False)
class SplitSentences(AddsColumns, RejectingTransform):
    """Split each text into sentences, one row per sentence, with all columns of its text.

    Takes any kind of rows and returns the same kind. The text becomes the sentence, without
    surrounding white space, the id ``<id>#<number>``; `parent_id`, `chunk_index` (the sentence's
    number, from 0), `chunk_start` and `chunk_end` (characters of the parent's text) are added.
    `chunk_index` keeps the order of sentences, and nothing but white space between sentences is
    lost. See `core.text.sentences` for the rules.

    Rows without a usable text (null, empty, blank, not valid Unicode) have no sentence: they fail
    the job, or are collected by `with_exception_handling()`.

    Attributes:
      language: of all texts, one of `core.text.sentences.LANGUAGES`. `IdentifyLanguage` identifies
        and separates languages.
      text_column: of the texts.
      id_column: of the ids; None if there is none.
      rename: names for added columns that rows have already, as in ``{"parent_id": "page"}``.
    """

    language: str
    text_column: str = TEXT
    id_column: str | None = ID

    def __post_init__(self) -> None:
        check_language(self.language)
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name where a sentence comes from."""
        return CHUNK_COLUMNS

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows of sentences; with exception handling, `GoodAndRejects`."""
        return over_blocks(pcoll, self._split, self.text_column, self.id_column, added=self.added())

    def _split(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block] | GoodAndRejects:
        names, added = (self.text_column, self.id_column), self.added()
        check = CheckTexts(self.step, *names, self._isolate, added)
        texts, rejects = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        split = beam.FlatMap(_sentences, self.language, *names, added)
        sentences = texts | "Split" >> split.with_output_types(Block)
        return GoodAndRejects(sentences, merge_rejects([rejects])) if self._isolate else sentences


def _sentences(
    block: Block, language: str, text_column: str, id_column: str | None, added: AddedColumns
) -> Iterator[Block]:
    texts = comparable(block.column(text_column)).cast(pa.large_string()).to_pylist()
    spans = [split_sentences(text, language) for text in texts]
    parents = np.repeat(np.arange(len(texts)), [len(found) for found in spans])
    chars = np.concatenate([np.empty((0, 2), np.int64), *spans])
    Metrics.counter(NAMESPACE, "sentences").inc(len(parents))
    return chunk_rows(block, parents, chars, texts, text_column, id_column, added)
