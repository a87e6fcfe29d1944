"""Cut texts into chunks, one row per chunk: `rows | ChunkText("sentences", size=400)`.

rows --> CheckTexts --> Chunk --> rows of chunks
             |            |
             +------------+--> rejects
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Characters, Chunker, Part, Sizes, check_limits
from beam_gpte.core.text.chunking_code import LANGUAGES, code_parts, language_name
from beam_gpte.core.text.chunking_markdown import markdown_parts
from beam_gpte.core.text.chunking_tokens import TokenRuler
from beam_gpte.core.text.sentences import LANGUAGES as SENTENCE_LANGUAGES
from beam_gpte.core.text.sentences import check_language, split_sentences
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts, check_columns
from beam_gpte.elements.chunk_rows import CHUNK_COLUMNS, chunk_rows
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.files.remote_model import fetch_model

By = Literal["tokens", "sentences", "markdown", "code"]

DEFAULT_LANGUAGE = "en"  # of the rules for sentences


@dataclasses.dataclass(frozen=True)
class FromColumn:
    """Read a setting of each row from one of its columns.

    Attributes:
      name: of the column.
    """

    name: str


@dataclasses.dataclass(eq=False)
class ChunkText(AddsColumns, RejectingTransform):
    """Cut each text into chunks, one row per chunk, with all columns of its text.

    Takes any kind of rows and returns the same kind. The text becomes the chunk, without
    surrounding white space, the id ``<id>#<number>``; `parent_id`, `chunk_index` (from 0),
    `chunk_start` and `chunk_end` (characters of the parent's text: ``text[start:end]`` is the
    chunk) are added. Every character that is not white space is in a chunk, and no chunk is larger
    than `size`, except for a single character of more tokens than that. See `core.text.chunking`.

    ``tokens``: as many words as fit. ``sentences``: as many whole sentences as fit, and words of a
    sentence that does not. ``markdown``: a section with its subsections if it fits, else its own
    text and each subsection separately, cut between paragraphs, list items and blocks of code, then
    sentences or lines. ``code``: a top-level function or class with the comments above it, or the
    code between two; a class that does not fit is cut into its head and its methods, a function
    into lines.

    Rows without a usable text (null, empty, blank, not valid Unicode), and rows of a language that
    is not supported, fail the job, or are collected by `with_exception_handling()`.

    Attributes:
      by: ``tokens``, ``sentences``, ``markdown`` or ``code``; the last two need ``pip install
        'beam-gpte[chunks]'``.
      size: maximum size of a chunk, in tokens of `model`, or in characters without one. None for
        the maximum of the model.
      overlap: maximum size of the text that neighboring chunks share, in the same unit: whole
        words, sentences or lines. Sections and functions share nothing with their neighbors.
      model: a hub name, a folder, a URI, or an `EncoderConfig`, whose prompt counts towards the
        maximum of the model.
      language: for ``code`` one of `core.text.chunking_code.LANGUAGES`, else one of
        `core.text.sentences.LANGUAGES`, whose rules find sentences; None for ``en``.
        ``FromColumn("lang")`` takes the language of each row from its column ``lang``.
      text_column: of the texts.
      id_column: of the ids; None if there is none.
      rename: names for added columns that rows have already, as in ``{"parent_id": "page"}``.
    """

    by: By
    size: int | None = None
    overlap: int = 0
    model: str | EncoderConfig | None = None
    language: str | FromColumn | None = None
    text_column: str = TEXT
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise InputError(f"by is {self.by!r}; use {', '.join(get_args(By))}")
        if not isinstance(self.model, str | EncoderConfig | None):
            raise InputError(f"model {self.model!r}: give a name, a folder or an EncoderConfig")
        if self.model is None and (self.size is None or self.by == "tokens"):
            choices = "give one" if self.by == "tokens" else "give one, or a size"
            raise InputError(f"by {self.by!r} without a model; {choices}")
        check_limits(self.overlap + 1 if self.size is None else self.size, self.overlap)
        self._check_language()
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name where a chunk comes from."""
        return CHUNK_COLUMNS

    def _check_language(self) -> None:
        if isinstance(self.language, FromColumn):
            return
        if self.by != "code":
            check_language(self.language or DEFAULT_LANGUAGE)
        elif self.language is None:
            raise InputError(
                f"code without a language; give one of {', '.join(LANGUAGES)}, "
                'or FromColumn("COLUMN")'
            )
        elif language_name(self.language) is None:
            raise InputError(f"language is {self.language!r}; use {', '.join(LANGUAGES)}")

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows of chunks; with exception handling, `GoodAndRejects`."""
        columns = (self.language.name,) if isinstance(self.language, FromColumn) else ()
        return over_blocks(
            pcoll, self._chunk, self.text_column, self.id_column, columns, added=self.added()
        )

    def _chunk(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block] | GoodAndRejects:
        check = CheckTexts(self.step, self.text_column, self.id_column, self._isolate, self.added())
        texts, refused = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        cut = beam.FlatMap(_chunk, _Settings(self))
        chunks, unsupported = texts | "Chunk" >> reject_outputs(cut)
        if not self._isolate:
            return chunks
        return GoodAndRejects(chunks, merge_rejects([refused, unsupported]))


class _Settings:
    """Carry the settings of a `ChunkText` to workers."""

    def __init__(self, transform: ChunkText) -> None:
        self.step = transform.step
        self.isolate = transform._isolate
        self.by = transform.by
        self.size = transform.size or 0  # 0 for the maximum of the model
        self.overlap = transform.overlap
        model = transform.model
        self.model = EncoderConfig(model) if isinstance(model, str) else model
        self.language = transform.language or DEFAULT_LANGUAGE
        self.text_column = transform.text_column
        self.id_column = transform.id_column
        self.added = transform.added()

    def languages(self, block: Block) -> list[str | None]:
        """Return each row's language by its canonical name; None where it is not supported."""
        if isinstance(self.language, FromColumn):
            check_columns(block, (self.language.name,), self.step)
            values = block.column(self.language.name).to_pylist()
            names = ["" if value is None else str(value) for value in values]
        else:
            names = [self.language] * len(block)
        if self.by == "code":
            return [language_name(name) for name in names]
        return [name if name in SENTENCE_LANGUAGES else None for name in names]

    def reasons(self, languages: list[str | None]) -> pa.Array:
        """Return why rows cannot be cut: a string array, null where they can."""
        column = self.language.name if isinstance(self.language, FromColumn) else "language"
        reason = f"{column} is not a supported language"
        return pa.array([None if language else reason for language in languages], pa.string())

    def parts(self, text: str, language: str) -> list[Part]:
        """Divide a text into parts, which no chunk crosses."""
        if self.by == "markdown":
            return markdown_parts(text)
        if self.by == "code":
            return code_parts(text, language)
        return [Part(0, len(text), split="words" if self.by == "tokens" else "sentences")]

    def measure(self, texts: list[str]) -> tuple[list[Sizes], int]:
        """Return the measure of each text, and the maximum size of a chunk."""
        if self.model is None:
            return [Characters() for _ in texts], self.size
        ruler = _ruler(self.model)
        return list(ruler.sizes(texts)), self.size or ruler.room


@functools.cache
def _ruler(model: EncoderConfig) -> TokenRuler:
    return TokenRuler(model, fetch_model(model.model), fetch_model(model.adapter or ""))


def _chunk(block: Block, settings: _Settings) -> Iterator[Any]:
    languages = settings.languages(block)
    reasons = settings.reasons(languages)
    supported = [language for language in languages if language]
    parts = split_rejects(block, reasons, settings.step, settings.isolate, settings.id_column)
    for part in parts:
        if isinstance(part, beam.pvalue.TaggedOutput):
            yield part
        else:
            yield from _chunks(part, settings, supported)


def _chunks(block: Block, settings: _Settings, languages: list[str]) -> Iterator[Block]:
    texts = comparable(block.column(settings.text_column)).cast(pa.large_string()).to_pylist()
    sizes, limit = settings.measure(texts)
    check_limits(limit, settings.overlap)
    spans = []
    for text, language, measured in zip(texts, languages, sizes, strict=True):
        sentences = functools.partial(split_sentences, language=language)  # code is cut by lines
        chunker = Chunker(text, measured, limit, settings.overlap, sentences)
        spans.append(chunker.chunks_of(settings.parts(text, language)))
    parents = np.repeat(np.arange(len(texts)), [len(found) for found in spans])
    chars = np.concatenate([np.empty((0, 2), np.int64), *spans])
    Metrics.counter(NAMESPACE, "chunks").inc(len(parents))
    names = settings.text_column, settings.id_column
    return chunk_rows(block, parents, chars, texts, *names, settings.added)
