"""Texts become sentences, a row each: `rows | SplitSentences("de")`.

rows --> CheckTexts --> Split --> rows of sentences
             |
             +--> rejects
"""

import dataclasses
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.text.sentences import check_language, split_sentences
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.chunk_rows import chunk_rows
from beam_gpte.elements.rejects import NAMESPACE, RejectingTransform, merge_rejects, reject_outputs
from beam_gpte.elements.rows import over_blocks

STEP = "SplitSentences"


@dataclasses.dataclass(eq=False)
class SplitSentences(RejectingTransform):
    """Give a row for each sentence of a text, with all its columns; takes any kind of rows and gives the same kind back.

    The text becomes the sentence, without the blanks around it, the id ``<id>#<number>``; `parent_id`, `chunk_index` (the
    sentence's number, from 0), `chunk_start` and `chunk_end` (characters of the parent's text) are added. Sentences keep
    their order in `chunk_index`, and no character but white space between sentences is lost. See `core.sentences` for the
    rules.

    Rows without a usable text (null, empty, blank, not valid Unicode) have no sentence: they fail the job, or are set aside
    by `with_exception_handling()`.

    Attributes:
      language: of all texts, one of `core.sentences.LANGUAGES`. `IdentifyLanguage` tells and parts languages.
    """

    language: str
    text_column: str = TEXT
    id_column: str | None = ID

    def __post_init__(self) -> None:
        check_language(self.language)

    def expand(self, pcoll: beam.PCollection) -> Any:
        return over_blocks(pcoll, self._split, self.text_column, self.id_column)

    def _split(self, blocks: beam.PCollection[Block]) -> Any:
        check = CheckTexts(STEP, self.text_column, self.id_column, self._isolate)
        good, refused = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        split = beam.Map(_sentences, self.language, self.text_column, self.id_column)
        sentences = good | "Split" >> split.with_output_types(Block)
        return (sentences, merge_rejects([refused])) if self._isolate else sentences


def _sentences(block: Block, language: str, text_column: str, id_column: str | None) -> Block:
    column = block.column(text_column)
    texts = (
        (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
        .cast(pa.large_string())
        .to_pylist()
    )
    spans = [split_sentences(text, language) for text in texts]
    parents = np.repeat(np.arange(len(texts)), [len(own) for own in spans])
    chars = np.array([span for own in spans for span in own], np.int64).reshape(-1, 2)
    Metrics.counter(NAMESPACE, "sentences").inc(len(parents))
    return chunk_rows(block, parents, chars, texts, text_column, id_column)
