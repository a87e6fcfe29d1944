"""Texts become chunks, a row each: `rows | ChunkText("sentences", size=400)`.

rows --> CheckTexts --> Chunk --> rows of chunks
             |            |
             +--> rejects <
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
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.chunk_rows import chunk_rows
from beam_gpte.elements.rejects import (
    NAMESPACE,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.files.remote_model import fetch_model

STEP = "ChunkText"
By = Literal["tokens", "sentences", "markdown", "code"]


@dataclasses.dataclass(eq=False)
class ChunkText(RejectingTransform):
    """Give a row for each chunk of a text, with all its columns; takes any kind of rows and gives the same kind back.

    The text becomes the chunk, without the blanks around it, the id ``<id>#<number>``; `parent_id`, `chunk_index` (from 0),
    `chunk_start` and `chunk_end` (characters of the parent's text: ``text[start:end]`` is the chunk) are added. Every
    character that is no white space is in a chunk, and no chunk is larger than `size`, but for a single character of more
    tokens than that. See `core.chunking`.

    ``tokens``: words, as many as fit. ``sentences``: whole sentences, as many as fit, and words of one that does not.
    ``markdown``: a section with its subsections if it fits, else its own text and each subsection for itself, cut between
    paragraphs, list items and blocks of code, then sentences or lines. ``code``: a function or class of the top level with
    the comments above it, or what stands between two; a class that does not fit is cut into its head and its methods,
    a function into lines.

    Rows without a usable text (null, empty, blank, not valid Unicode), and rows of a language that cannot be cut, fail the
    job, or are set aside by `with_exception_handling()`.

    Attributes:
      by: ``tokens``, ``sentences``, ``markdown`` or ``code``; the last two need ``pip install 'beam-gpte[chunks]'``.
      size: the most of a chunk, in tokens of `model`, or without it in characters. None for what the model takes.
      overlap: the most that neighbouring chunks share, in the same unit: whole words, sentences or lines. Sections and
        functions share nothing with their neighbours.
      model: a hub name, a folder, a URI, or an `EncoderConfig`, whose prompt is taken off what it takes.
      language: for ``code`` one of `core.chunking_code.LANGUAGES`, else the rules for sentences, one of
        `core.sentences.LANGUAGES`; None for ``en``.
      language_column: the language of each row, in place of `language`.
    """

    by: By
    size: int | None = None
    overlap: int = 0
    model: str | EncoderConfig | None = None
    language: str | None = None
    language_column: str | None = None
    text_column: str = TEXT
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise InputError(f"by is {self.by!r}; use {', '.join(get_args(By))}")
        if not isinstance(self.model, str | EncoderConfig | None):
            raise InputError(f"model {self.model!r}: give a name, a folder or an EncoderConfig")
        if self.model is None and (self.size is None or self.by == "tokens"):
            raise InputError(
                f"by {self.by!r} without a model; give one"
                + ("" if self.by == "tokens" else ", or a size")
            )
        check_limits(self.overlap + 1 if self.size is None else self.size, self.overlap)
        if self.language is not None and self.language_column is not None:
            raise InputError(
                f"language {self.language!r} and language_column {self.language_column!r}: give one of them"
            )
        if self.by == "code" and self.language is None and self.language_column is None:
            raise InputError(
                f"code of which language? give one as language: {', '.join(LANGUAGES)}; or a language_column"
            )
        if self.by == "code" and self.language is not None and language_name(self.language) is None:
            raise InputError(f"language is {self.language!r}; use {', '.join(LANGUAGES)}")
        if self.by != "code" and self.language is not None:
            check_language(self.language)

    def expand(self, pcoll: beam.PCollection) -> Any:
        columns = () if self.language_column is None else (self.language_column,)
        return over_blocks(pcoll, self._chunk, self.text_column, self.id_column, columns)

    def _chunk(self, blocks: beam.PCollection[Block]) -> Any:
        check = CheckTexts(STEP, self.text_column, self.id_column, self._isolate)
        good, refused = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        settings = _Settings(self)
        chunks, foreign = good | "Chunk" >> reject_outputs(
            beam.FlatMap(_chunk, settings, self._isolate)
        )
        return (chunks, merge_rejects([refused, foreign])) if self._isolate else chunks


class _Settings:
    """What workers are told."""

    def __init__(self, own: ChunkText) -> None:
        self.by = own.by
        self.size = own.size
        self.overlap = own.overlap
        self.model = EncoderConfig(own.model) if isinstance(own.model, str) else own.model
        self.language = own.language or "en"
        self.language_column = own.language_column
        self.text_column = own.text_column
        self.id_column = own.id_column

    def languages(self, block: Block) -> list[str | None]:
        """Of each row, under its one name; None for one that cannot be cut."""
        told = [self.language] * len(block)
        if self.language_column is not None:
            if self.language_column not in block.schema.names:
                names = ", ".join(block.schema.names)
                raise InputError(
                    f"{STEP}: no column {self.language_column!r} among {names}; name one by language_column"
                )
            told = [
                "" if value is None else str(value)
                for value in block.column(self.language_column).to_pylist()
            ]
        if self.by == "code":
            return [language_name(language) for language in told]
        return [language if language in SENTENCE_LANGUAGES else None for language in told]

    def parts(self, text: str, language: str) -> list[Part]:
        if self.by == "markdown":
            return markdown_parts(text)
        if self.by == "code":
            return code_parts(text, language)
        return [Part(0, len(text), split="words" if self.by == "tokens" else "sentences")]


@functools.cache
def _ruler(model: EncoderConfig) -> TokenRuler:
    return TokenRuler(model, fetch_model(model.model))


def _chunk(block: Block, own: _Settings, isolate: bool) -> Iterator[Any]:
    languages = own.languages(block)
    reasons = [
        None if language else f"{own.language_column} is none that can be cut"
        for language in languages
    ]
    for part in split_rejects(block, pa.array(reasons, pa.string()), STEP, isolate, own.id_column):
        yield (
            part
            if isinstance(part, beam.pvalue.TaggedOutput)
            else _chunks(part, own, [one for one in languages if one])
        )


def _chunks(block: Block, own: _Settings, languages: list[str]) -> Block:
    column = block.column(own.text_column)
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    texts = column.cast(pa.large_string()).to_pylist()
    sizes: list[Sizes] = [Characters() for _ in texts]
    limit = own.size
    if own.model is not None:
        ruler = _ruler(own.model)
        sizes, limit = list(ruler.sizes(texts)), own.size or ruler.room
    assert limit is not None  # without a model there is a size
    check_limits(limit, own.overlap)
    spans = []
    for text, language, measure in zip(texts, languages, sizes, strict=True):
        rules = own.language if own.by == "code" else language  # code is cut by lines
        sentences = functools.partial(split_sentences, language=rules)
        spans.append(
            list(
                Chunker(text, measure, limit, own.overlap, sentences).chunks(
                    own.parts(text, language)
                )
            )
        )
    parents = np.repeat(np.arange(len(texts)), [len(found) for found in spans])
    chars = np.array([span for found in spans for span in found], np.int64).reshape(-1, 2)
    Metrics.counter(NAMESPACE, "chunks").inc(len(parents))
    return chunk_rows(block, parents, chars, texts, own.text_column, own.id_column)
