"""Find what documents share with items: n-grams of words, and passages of a near meaning.

documents --> FindNgrams -------------------------------------> findings
    |
    +--> CutPassages --> EmbedText --> nearest items (scored passages)
                             |
                             +--> failures

A finding is a row of a block: `DOCUMENT` (the id), `ITEM_TEXT` (the number of the item's text),
`START`, `END` (characters of the document) and `SCORE`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import EMBEDDING, REJECT_REASON, SCOPE, SCORE, TEXT, Columns
from beam_gpte.core.text.normalize import scope_keys
from beam_gpte.core.text.passages import passages_of
from beam_gpte.core.vectors.similarity import unit_rows, vectors_to_arrow
from beam_gpte.decontamination.benchmark_index import BenchmarkIndex
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, hidden_block
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.vectors import vectors_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.embed_text import EmbedText
from beam_gpte.shuffle.unique_ids import id_array

DOCUMENT = "document"
ITEM_TEXT = "item_text"
START = "start"
END = "end"
FIRST = "first"  # bool: the first passage of its document
NEAREST = "nearest"  # FixedSizeList<int64>[k]: numbers of items' texts, the nearest first
COSINES = "cosines"  # FixedSizeList<float32>[k]: of these; -inf where there is none
PER_PASSAGE = 32  # items that a passage names at most: 384 bytes


@dataclasses.dataclass(frozen=True)
class DocumentSettings:
    """Say how documents are read and searched.

    Attributes:
      step: the transform that the user wrote.
      columns: of the ids and texts.
      scope: the column whose values are searched apart; None for none.
      model: embeds the passages.
      sentences: of a passage, for each size of window.
      language: of the rules for sentences.
      min_containment: the minimum share of an item's n-grams that a document has.
      isolate: collect passages that cannot be embedded, instead of failing.
    """

    step: str
    columns: Columns
    scope: str | None
    model: Any
    sentences: tuple[int, ...]
    language: str
    min_containment: float
    isolate: bool

    def texts(self, block: Block) -> list[str]:
        """Return the texts of a block of documents."""
        return comparable(block.column(self.columns.text)).cast(pa.large_string()).to_pylist()

    def scopes(self, block: Block) -> list[str]:
        """Return the scopes of documents, each empty if there are none."""
        if self.scope is None:
            return [""] * len(block)
        return scope_keys(block.column(self.scope)).to_pylist()


def find_ngrams(block: Block, index: BenchmarkIndex, settings: DocumentSettings) -> Iterator[Block]:
    """Yield the runs of words that documents share with items; `SCORE` is the containment."""
    assert index.ngrams is not None
    documents, texts, spans, scores = [], [], [], []
    rows = zip(settings.texts(block), settings.scopes(block), strict=True)
    for number, (text, scope) in enumerate(rows):
        found = index.ngrams.find(text, settings.min_containment)
        near = np.ones(len(found.items), bool)
        if index.scopes is not None:
            near = index.scopes[found.items] == scope
        documents.append(np.full(near.sum(), number))
        texts.append(found.items[near])
        spans.append(found.spans[near])
        scores.append(found.containment[near])
    at = np.concatenate(documents)
    if len(at):
        ids = id_array(block, settings.columns.id).take(pa.array(at))
        yield findings(ids, np.concatenate(texts), np.concatenate(spans), np.concatenate(scores))


def findings(ids: pa.Array, texts: np.ndarray, spans: np.ndarray, scores: np.ndarray) -> Block:
    """Make a block of findings."""
    return hidden_block(
        {
            DOCUMENT: ids,
            ITEM_TEXT: pa.array(texts, pa.int64()),
            START: pa.array(spans[:, 0], pa.int64()),
            END: pa.array(spans[:, 1], pa.int64()),
            SCORE: pa.array(scores, pa.float32()),
        }
    )


class ScoredPassages(NamedTuple):
    """Hold the result of `ScorePassages`.

    Attributes:
      passages: blocks of `DOCUMENT`, `START`, `END`, `FIRST`, `NEAREST`, `COSINES`.
      failures: `DOCUMENT` and `REJECT_REASON` of passages that could not be embedded; none or one
        collection.
    """

    passages: beam.PCollection[Block]
    failures: tuple[beam.PCollection[Block], ...]


@dataclasses.dataclass(eq=False)
class ScorePassages(beam.PTransform):
    """Cut documents into passages, embed these, and find the items nearest to each.

    Every passage is compared with every item, so nothing is missed. A worker holds the index, and
    the passages of a block.

    Attributes:
      settings: of the documents.
      index: a side input.
    """

    settings: DocumentSettings
    index: AsSingleton

    @named_collections
    def expand(self, documents: beam.PCollection[Block]) -> ScoredPassages:
        """Return the passages."""
        settings = self.settings
        cut = beam.FlatMap(_cut_passages, settings).with_output_types(Block)
        embed = EmbedText(settings.model, TEXT, None, EMBEDDING).as_part_of(settings.step)
        passages = documents | "CutPassages" >> cut
        failures: tuple[beam.PCollection[Block], ...] = ()
        if settings.isolate:
            vectors, failed = passages | "Embed" >> embed.with_exception_handling()
            name = beam.Map(_named_failures).with_output_types(Block)
            failures = (failed | "Failures" >> name,)
        else:
            vectors = passages | "Embed" >> embed
        score = beam.Map(_score, self.index).with_output_types(Block)
        return ScoredPassages(vectors | "Score" >> score, failures)


def _cut_passages(block: Block, settings: DocumentSettings) -> Iterator[Block]:
    texts, scopes = settings.texts(block), settings.scopes(block)
    cut = [passages_of(text, settings.sentences, settings.language) for text in texts]
    of = np.repeat(np.arange(len(texts)), [len(spans) for spans in cut])
    spans = np.concatenate([np.zeros((0, 2), np.int64), *cut])
    ids = id_array(block, settings.columns.id).take(pa.array(of))
    first = np.diff(of, prepend=-1) > 0
    for start in range(0, len(of), ROWS_PER_BLOCK):
        part = slice(start, start + ROWS_PER_BLOCK)
        rows = zip(of[part].tolist(), spans[part].tolist(), strict=True)
        columns = {
            DOCUMENT: ids[part],
            TEXT: pa.array([texts[row][a:b] for row, (a, b) in rows], pa.large_string()),
            START: pa.array(spans[part, 0]),
            END: pa.array(spans[part, 1]),
            FIRST: pa.array(first[part]),
        }
        if settings.scope is not None:
            columns[SCOPE] = pa.array([scopes[row] for row in of[part]], pa.large_string())
        yield hidden_block(columns)


def _named_failures(block: Block) -> Block:
    return block.select([DOCUMENT, REJECT_REASON])


def _score(block: Block, index: BenchmarkIndex) -> Block:
    vectors = unit_rows(vectors_of(block, EMBEDDING).astype(np.float64)).astype(np.float32)
    scopes = None
    if SCOPE in block.schema.names:
        scopes = np.array(block.column(SCOPE).to_pylist(), object)
    texts, cosines = index.nearest(vectors, scopes, min(PER_PASSAGE, len(index.texts)))
    columns = {name: block.column(name) for name in (DOCUMENT, START, END, FIRST)}
    return hidden_block(
        {**columns, NEAREST: vectors_to_arrow(texts), COSINES: vectors_to_arrow(cosines)}
    )
