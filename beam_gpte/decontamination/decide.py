"""Remove contaminated documents, or cut their spans: `DocumentsAndFindings(...) | Decide(...)`.

documents -------------+
findings by words -----+--> by document --> kept, removed, matches, rejects, figures
findings by meaning ---+
failures --------------+

What meets by document: its row and all that was found in it, of which overlapping passages are one
finding. Findings by meaning wait for the threshold, which all passages decide, so no earlier
shuffle can carry them.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import FOUND_BY, REJECT_REASON, SCORE
from beam_gpte.core.visible_text import is_visible
from beam_gpte.decontamination.benchmark_index import BenchmarkIndex
from beam_gpte.decontamination.figures import COPY, Figures, add_figures
from beam_gpte.decontamination.findings import DOCUMENT, END, ITEM_TEXT, START, DocumentSettings
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.rejects import NAMESPACE, REJECTS, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named
from beam_gpte.shuffle.unique_ids import id_array, named_type

Remove = Literal["rows", "spans"]

BENCHMARK = "benchmark"
ITEM_ID = "item_id"
WAYS = ("ngram", "meaning")
REMOVED_COLUMNS = (BENCHMARK, ITEM_ID, FOUND_BY, START, END, SCORE)
DOCUMENT_ID = "document_id"
PASSAGE = "passage"
ITEM = "item"


class Finding(NamedTuple):
    """Hold one finding in a document; sorted, the one to name first comes first.

    Attributes:
      way: 0 for words, 1 for meaning.
      loss: the score, negative.
      size: characters.
      start: of the span.
      end: of the span, exclusive.
      text: the number of the item's text.
    """

    way: int
    loss: float
    size: int
    start: int
    end: int
    text: int


class DocumentsAndFindings(NamedTuple):
    """Hold documents of unique ids, and what concerns them: none or one collection each."""

    documents: beam.PCollection[Block]
    ngrams: tuple[beam.PCollection[Block], ...] = ()
    meanings: tuple[beam.PCollection[Block], ...] = ()
    failures: tuple[beam.PCollection[Block], ...] = ()


class Decided(NamedTuple):
    """Hold the result of `Decide`, see `Decontamination`; figures are in parts."""

    kept: beam.PCollection[Block]
    removed: beam.PCollection[Block]
    matches: beam.PCollection[Block]
    rejects: beam.PCollection[Block]
    figures: beam.PCollection[Figures]


@dataclasses.dataclass(eq=False)
class Decide(beam.PTransform):
    """Keep the documents without a finding; name the findings of the others.

    A worker holds the index and the findings of one of 16 partitions of the ids; of the documents
    one block at a time.

    Attributes:
      settings: of the documents.
      remove: ``rows`` or ``spans``.
      added: names of the columns of removed rows.
      index: a side input.
    """

    settings: DocumentSettings
    remove: Remove
    added: AddedColumns
    index: AsSingleton

    @named_collections
    def expand(self, inputs: DocumentsAndFindings) -> Decided:
        """Group by document, and decide each."""
        given = {"documents": inputs.documents}
        for name in ("ngrams", "meanings", "failures"):
            given.update((name, one) for one in getattr(inputs, name))
        columns = dict.fromkeys(given, DOCUMENT)
        columns["documents"] = self.settings.columns.id
        decide = beam.FlatMap(_decide, self.index, self.settings, self.remove, self.added)
        decide = decide.with_output_types(
            Block, removed=Block, matches=Block, rejects=Block, figures=Figures
        )
        parts = (
            given
            | "ByDocument" >> CoGroupById(columns)
            | "Decide" >> decide.with_outputs("removed", "matches", REJECTS, "figures", main="kept")
        )
        return Decided(parts.kept, parts.removed, parts.matches, parts.rejects, parts.figures)


def _decide(
    element: tuple[int, Iterable[Named]],
    index: BenchmarkIndex,
    settings: DocumentSettings,
    remove: Remove,
    added: AddedColumns,
) -> Iterator[Any]:
    group = CoGroup(element)
    found: dict[Any, list[Finding]] = collections.defaultdict(list)
    for way, name in enumerate(("ngrams", "meanings")):
        for block in group[name]:
            _add_findings(found, block, way)
    failed: dict[Any, str] = {}
    for block in group["failures"]:
        columns = (block.column(name).to_pylist() for name in (DOCUMENT, REJECT_REASON))
        for document, reason in zip(*columns, strict=True):
            failed[document] = min(reason, failed.get(document, reason))
    figures = []
    for block in group["documents"]:
        ids = id_array(block, settings.columns.id).to_pylist()
        reasons = pa.array([failed.get(document) for document in ids], pa.string())
        parts = split_rejects(block, reasons, settings.step, settings.isolate, settings.columns.id)
        for part in parts:
            if isinstance(part, TaggedOutput):
                yield part
            else:
                decision = _Decision(part, found, index, settings, remove)
                figures.append(decision.figures())
                yield from decision.outputs(added)
    yield TaggedOutput("figures", add_figures(figures))


def _add_findings(found: dict[Any, list[Finding]], block: Block, way: int) -> None:
    columns = (block.column(name).to_pylist() for name in (DOCUMENT, ITEM_TEXT, START, END, SCORE))
    for document, text, start, end, score in zip(*columns, strict=True):
        found[document].append(Finding(way, -score, end - start, start, end, text))


def distinct_findings(findings: Iterable[Finding], items: np.ndarray) -> list[Finding]:
    """Choose findings of one document: of those of an item that overlap, the one of the best score.

    Ties go to the shorter span, then the one that starts first.

    Args:
      findings: by words and by meaning, which are chosen apart.
      items: the item of each text.
    """
    chosen: dict[tuple[int, int], list[Finding]] = collections.defaultdict(list)
    for one in sorted(findings):
        others = chosen[one.way, int(items[one.text])]
        if all(one.end <= other.start or other.end <= one.start for other in others):
            others.append(one)
    return sorted(one for part in chosen.values() for one in part)


class _Decision:
    """Decide the documents of one block.

    Args:
      block: of documents.
      found: the findings, by id.
      index: names them.
      settings: of the documents.
      remove: ``rows`` or ``spans``.
    """

    def __init__(
        self,
        block: Block,
        found: dict[Any, list[Finding]],
        index: BenchmarkIndex,
        settings: DocumentSettings,
        remove: Remove,
    ) -> None:
        self._block = block
        self._index = index
        self._columns = settings.columns
        ids = id_array(block, settings.columns.id).to_pylist()
        self._findings = [
            distinct_findings(found[document], index.items) if document in found else []
            for document in ids
        ]
        self._dirty = np.array([bool(findings) for findings in self._findings], bool)
        self._texts = settings.texts(block) if self._dirty.any() else []
        self._left: list[str] | None = None
        self._removed = self._dirty
        if remove == "spans" and self._dirty.any():
            self._left = [
                cut_spans(text, [(one.start, one.end) for one in findings])
                for text, findings in zip(self._texts, self._findings, strict=True)
            ]
            self._removed = self._dirty & ~np.array([is_visible(text) for text in self._left])

    def figures(self) -> Figures:
        """Count what was found."""
        parts = [figures_of(findings, self._index) for findings in self._findings if len(findings)]
        removed = int(self._removed.sum())
        counts = Figures(len(self._block), removed, int(self._dirty.sum()) - removed)
        return add_figures([counts, *parts])

    def outputs(self, added: AddedColumns) -> Iterator[Block | TaggedOutput]:
        """Yield kept rows, and tagged removed rows and matches."""
        if not self._dirty.any():
            yield self._block
            return
        yield TaggedOutput("matches", self._matches())
        kept = self._block
        if self._left is not None:
            name = self._columns.text
            kind = named_type(kept.schema.field(name).type)
            left = pa.array(self._left, pa.large_string()).cast(kind)
            kept = kept.with_column(pa.field(name, kind), left)
        kept = kept.filter(pa.array(~self._removed))
        if kept:
            yield kept
        rows = np.flatnonzero(self._removed)
        if len(rows):
            Metrics.counter(NAMESPACE, "removed").inc(len(rows))
            removed = self._block.take(pa.array(rows))
            columns = _named([self._findings[row][0] for row in rows], self._index)
            for name in REMOVED_COLUMNS:
                removed = added.add(removed, name, columns[name])
            yield TaggedOutput("removed", removed)

    def _matches(self) -> Block:
        pairs = [(row, one) for row in np.flatnonzero(self._dirty) for one in self._findings[row]]
        ids = self._block.column(self._columns.id).take(pa.array([row for row, _ in pairs]))
        passages = [self._texts[row][one.start : one.end] for row, one in pairs]
        texts = [self._index.texts[one.text] for _, one in pairs]
        return hidden_block(
            {
                DOCUMENT_ID: ids.cast(named_type(ids.type)),
                **_named([one for _, one in pairs], self._index),
                PASSAGE: pa.array(passages, pa.large_string()),
                ITEM: pa.array(texts, pa.large_string()),
            }
        )


def _named(findings: list[Finding], index: BenchmarkIndex) -> dict[str, pa.Array]:
    """Name findings: the columns that removed rows get."""
    texts = [one.text for one in findings]
    return {
        BENCHMARK: pa.array([index.benchmarks[text] for text in texts], pa.string()),
        ITEM_ID: index.ids.take(pa.array(texts, pa.int64())),
        FOUND_BY: pa.array([WAYS[one.way] for one in findings], pa.string()),
        START: pa.array([one.start for one in findings], pa.int64()),
        END: pa.array([one.end for one in findings], pa.int64()),
        SCORE: pa.array([-one.loss for one in findings], pa.float32()),
    }


def figures_of(findings: list[Finding], index: BenchmarkIndex) -> Figures:
    """Count the findings of one document."""
    by_words, by_meaning = (
        frozenset(int(index.items[one.text]) for one in findings if one.way == way)
        for way in (0, 1)
    )
    copies = {int(index.items[one.text]) for one in findings if one.way == 0 and -one.loss >= COPY}
    return Figures(
        matches=len(findings),
        by_words=by_words,
        by_meaning=by_meaning,
        of_benchmarks=tuple((name, 1) for name in {index.benchmarks[one.text] for one in findings}),
        copies=len(copies),
        copies_found=len(copies & by_meaning),
    )


def cut_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Cut spans of characters, which may overlap, out of a text.

    A blank separates what stood before and after a span, unless white space does.
    """
    pieces, at = [], 0
    for start, end in sorted(spans):
        if start > at:
            pieces.append(text[at:start])
        at = max(at, end)
    return functools.reduce(_joined, [*pieces, text[at:]])


def _joined(before: str, after: str) -> str:
    apart = not before or not after or before[-1].isspace() or after[0].isspace()
    return before + after if apart else f"{before} {after}"
