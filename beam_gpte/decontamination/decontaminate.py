"""Remove benchmark items from a corpus: `{"corpus": a, "benchmarks": b} | Decontaminate(model)`.

benchmarks --> IndexBenchmarks --> index (side input of all steps below)

corpus --> Check --> RejectDuplicateIds --> documents --+--> FindNgrams -----------------+
                                                        +--> ScorePassages --> passages  |
                                                        |        (threshold)      |      |
                                                        |                      Above     |
                                                        |                         |      |
                                                        +--------------------> Decide <--+
                                                                                 |
                                         kept, removed, matches, rejects, report <+

What meets: figures and histograms of all documents, for the report and the threshold; rows meet in
the steps above.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError
from beam_gpte.core.text.sentences import check_language
from beam_gpte.decontamination.benchmark_index import (
    IndexBenchmarks,
    ItemSettings,
)
from beam_gpte.decontamination.calibrate import (
    CountScores,
    PassageScores,
    Threshold,
    above,
    choose_threshold,
)
from beam_gpte.decontamination.decide import (
    REMOVED_COLUMNS,
    Decide,
    Decided,
    DocumentsAndFindings,
    Remove,
)
from beam_gpte.decontamination.figures import AddFigures, Figures
from beam_gpte.decontamination.findings import (
    DocumentSettings,
    ScorePassages,
    find_ngrams,
)
from beam_gpte.decontamination.report import make_report
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts, check_columns
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import RejectingTransform, merge_rejects, reject_outputs
from beam_gpte.elements.rows import RowBlocks, as_blocks, back_to_rows, in_kind_of, to_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.models import as_model
from beam_gpte.neighbors.plan import check_choice
from beam_gpte.neighbors.sides import check_sides
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds

_SIDES = ("corpus", "benchmarks")
_CLEAN = "clean"  # the name of passages known to be clean


class Decontamination(NamedTuple):
    """Hold the result of a decontamination.

    Attributes:
      kept: documents without a finding, as they came; with ``remove="spans"`` also those that have
        text left, without the spans that were found.
      removed: the other documents, whole, with `benchmark`, `item_id`, `found_by` (``ngram`` or
        ``meaning``), `start`, `end` (characters) and `score` (float32) of one finding: by n-grams
        before meaning, then of the largest score.
      matches: all findings: `document_id`, the columns above, `passage` (the span) and `item` (its
        text). The score is a containment for ``ngram``: the share of the item's distinct n-grams
        that the document has; for ``meaning`` the cosine of the passage and the item.
      report: one dict: the settings, counts of documents, the threshold and where it is from, the
        best scores of passages, the measured recall, and `benchmarks`, a table with the items of
        each benchmark, how many were found and by what, and the documents that have some.
      rejects: bad rows of all inputs, with step and reason; empty unless
        `with_exception_handling()` was called.
    """

    kept: beam.PCollection
    removed: beam.PCollection
    matches: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(frozen=True)
class Contamination:
    """Set what counts as contamination.

    Attributes:
      min_words: an item of fewer words than an n-gram is searched as a whole if it has as many
        words as this; a shorter one is searched by meaning alone, and counted in the report.
      min_containment: the minimum share of an item's distinct n-grams in a document; 0 for any
        n-gram.
      sentences: of a passage, for each size; passages of one size overlap by half. A size for items
        of that many sentences finds them best.
      language: of the documents' sentences, one of `core.text.sentences.LANGUAGES`.
      false_alarms: the share of clean documents that may be found by meaning; chooses the threshold
        where none is given.
    """

    min_words: int = 8
    min_containment: float = 0.0
    sentences: tuple[int, ...] = (1, 3)
    language: str = "en"
    false_alarms: float = 0.001

    def __post_init__(self) -> None:
        if self.min_words < 1:
            raise InputError(f"min_words is {self.min_words}; use 1 or more")
        if not 0 <= self.min_containment <= 1:
            raise InputError(f"min_containment is {self.min_containment}; use 0 to 1")
        if isinstance(self.sentences, int | str) or not self.sentences:
            raise InputError(f"sentences is {self.sentences!r}; use a list, as in (1, 3)")
        if min(self.sentences) < 1:
            raise InputError(f"sentences has {min(self.sentences)}; use 1 or more")
        check_language(self.language)
        if not 0 < self.false_alarms < 1:
            raise InputError(f"false_alarms is {self.false_alarms}; use a share between 0 and 1")


@dataclasses.dataclass(eq=False)
class Decontaminate(AddsColumns, RejectingTransform):
    """Find the items of benchmarks in a corpus, by words and by meaning, and remove them.

    Gives a `Decontamination`. Takes a dict of collections of any kind of rows: `corpus`, with ids
    and texts, and `benchmarks`, items with an id, a text and the name of their benchmark. Rows of
    one benchmark and id are texts of one item, such as a question with and without its answers.

    By words: a document that has one of an item's n-grams of words (13 as in GPT-3, Brown et al.,
    arXiv 2005.14165), whatever their case, punctuation and white space. Characters of scripts
    without blanks between words count as words. By meaning: windows of sentences whose cosine with
    an item reaches the threshold, which finds paraphrases and, with a multilingual model,
    translations (arXiv 2602.12413).

    Without `threshold` it is chosen so that at most `false_alarms` of clean documents are found: a
    Gumbel distribution is fitted to the best scores of all passages, or, better, a third input
    `clean`, documents known to have no item, is searched too. Fewer than 100 passages are searched
    at 0.8. See `decontamination.calibrate`.

    Every passage is compared with every item, so the search misses nothing. `recall_of_copies` of
    the report measures the meaning side on what is known: of the items of which a document has 80 %
    of the n-grams, how many were found in it by meaning too.

    The result does not depend on the order of the rows, the blocks or the workers. Rows without an
    id, with the id of another document, or without a text fail the job, or are collected by
    `with_exception_handling()`. Memory of a worker: all items (4 bytes per number of a vector, 28
    per n-gram, and the texts), one block of documents, and the findings of one of 16 partitions of
    these. A passage names its 32 nearest items at most.

    Attributes:
      model: embeds passages and items, as `EmbedText` does; None to search by words alone. Items
        that have vectors, of that model, keep them.
      ngrams: words of an n-gram; None to search by meaning alone.
      threshold: the minimum cosine; None to choose it.
      remove: ``rows``, or ``spans`` to cut the spans that were found and keep the rest.
      scope: compare only documents and items with the same value of this column; None for all.
      benchmark_column: of the items, names their benchmark.
      contamination: what counts as such; see `Contamination`.
      columns: of all inputs; see `Columns`.
      rename: names for columns that removed rows have already, as in ``{"start": "from"}``.
    """

    model: Any = None
    ngrams: int | None = 13
    threshold: float | None = None
    remove: Remove = "rows"
    scope: str | None = None
    benchmark_column: str = "benchmark"
    contamination: Contamination = dataclasses.field(default_factory=Contamination)
    columns: Columns = dataclasses.field(default_factory=Columns)

    _gives_rows = False

    def __post_init__(self) -> None:
        check_choice("remove", self.remove, Remove)
        if self.model is None and self.ngrams is None:
            raise InputError("model and ngrams are None; give one, or nothing is found")
        if self.ngrams is not None and self.ngrams < 1:
            raise InputError(f"ngrams is {self.ngrams}; use 1 or more, or None")
        if self.model is not None:
            check_one_row(as_model(self.model))
        elif self.threshold is not None:
            raise InputError("threshold without a model; give one, or leave the threshold out")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine, from -1 to 1")
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name what removed rows get."""
        return REMOVED_COLUMNS

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Decontamination:
        """Return what is kept, what is removed, and why."""
        check_sides(inputs, _SIDES, self.step, optional=(_CLEAN,))
        corpus = inputs["corpus"]
        indexed = inputs["benchmarks"] | "Benchmarks" >> IndexBenchmarks(self._item_settings())
        index = AsSingleton(indexed.items)
        rows = self._rows(corpus)
        documents, refused = self._checked(rows.blocks)
        settings = self._document_settings()
        ngrams: tuple[beam.PCollection[Block], ...] = ()
        if self.ngrams is not None:
            find = beam.FlatMap(find_ngrams, index, settings).with_output_types(Block)
            ngrams = (documents | "FindNgrams" >> find,)
        found, meaning = DocumentsAndFindings(documents, ngrams), None
        if self.model is not None:
            clean = tuple(rows for name, rows in inputs.items() if name == _CLEAN)
            find_meaning = _FindMeaning(
                settings, index, self.threshold, self.contamination.false_alarms
            )
            meaning = _ToSearch(documents, clean) | "Meaning" >> find_meaning
            found = found._replace(meanings=(meaning.findings,), failures=meaning.failures)
        decided = found | "Decide" >> Decide(settings, self.remove, self.added(), index)
        report = corpus.pipeline | "Report" >> self._report(decided, index, meaning)
        results = decided.kept, decided.removed, merge_rejects([*refused, decided.rejects])
        kept, removed, rejects = back_to_rows(rows, results)
        others = [indexed.rejects, *(() if meaning is None else meaning.rejects)]
        given = others | "OtherRejects" >> beam.Flatten()
        return Decontamination(
            kept,
            removed,
            in_kind_of(corpus, decided.matches, "FromMatches"),
            report,
            (rejects, in_kind_of(corpus, given, "FromRejects")) | "AllRejects" >> beam.Flatten(),
        )

    def _rows(self, corpus: beam.PCollection) -> RowBlocks:
        """Read documents; their texts are written back where spans are cut."""
        columns = self.columns
        more = () if self.scope is None else (self.scope,)
        text, replaced = (columns.text, ()) if self.remove == "rows" else (None, (columns.text,))
        return to_blocks(corpus, text, columns.id, more, replaced, added=self.added())

    def _checked(
        self, blocks: beam.PCollection[Block]
    ) -> tuple[beam.PCollection[Block], list[beam.PCollection[Block]]]:
        """Return documents with texts and unique ids, and the others."""
        columns = self.columns
        check = CheckTexts(self.step, columns.text, columns.id, self._isolate, self.added())
        texts, refused = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        unique = RejectDuplicateIds(columns.id).as_part_of(self.step)
        if not self._isolate:
            return texts | "UniqueIds" >> unique, [refused]
        good, duplicates = texts | "UniqueIds" >> unique.with_exception_handling()
        return good, [refused, duplicates]

    def _item_settings(self) -> ItemSettings:
        return ItemSettings(
            f"{self.step} benchmarks",
            self.columns,
            self.benchmark_column,
            self.scope,
            self.model,
            self.ngrams,
            self.contamination.min_words,
            self._isolate,
        )

    def _document_settings(self) -> DocumentSettings:
        options = self.contamination
        return DocumentSettings(
            self.step,
            self.columns,
            self.scope,
            self.model,
            tuple(options.sentences),
            options.language,
            options.min_containment,
            self._isolate,
        )

    def _report(
        self, decided: Decided, index: AsSingleton, meaning: "_Meaning | None"
    ) -> FromSideInputs:
        figures = decided.figures | "Figures" >> beam.CombineGlobally(
            AddFigures()
        ).without_defaults().with_output_types(Figures)
        settings = {"ngrams": self.ngrams, "remove": self.remove}
        return FromSideInputs(
            dict,
            make_report,
            settings,
            index,
            AsSingleton(figures, default_value=Figures()),
            None if meaning is None else meaning.scores,
            None if meaning is None else meaning.threshold,
        )


class _ToSearch(NamedTuple):
    """Hold documents, and those known to be clean; none or one collection."""

    documents: beam.PCollection[Block]
    clean: tuple[beam.PCollection, ...]


class _Meaning(NamedTuple):
    """Hold what was found by meaning.

    Attributes:
      findings: in documents.
      failures: of passages; none or one collection.
      rejects: bad rows of `clean`; none or one collection.
      scores: a side input, of the passages of documents.
      threshold: a side input.
    """

    findings: beam.PCollection[Block]
    failures: tuple[beam.PCollection[Block], ...]
    rejects: tuple[beam.PCollection[Block], ...]
    scores: AsSingleton
    threshold: AsSingleton


@dataclasses.dataclass(eq=False)
class _FindMeaning(beam.PTransform):
    """Score the passages of documents, choose the threshold, and keep what reaches it."""

    settings: DocumentSettings
    index: AsSingleton
    threshold: float | None
    false_alarms: float

    @named_collections
    def expand(self, inputs: _ToSearch) -> _Meaning:
        """Return the findings."""
        documents = inputs.documents
        scored = documents | "Passages" >> ScorePassages(self.settings, self.index)
        scores = _count(scored.passages, "CountScores")
        clean, rejects = None, []
        if inputs.clean and self.threshold is None:
            passages, *rejects = self._clean(*inputs.clean)
            clean = _count(passages, "CountClean")
        choose = FromSideInputs(
            Threshold,
            choose_threshold,
            scores,
            clean,
            self.threshold,
            self.false_alarms,
        )
        threshold = AsSingleton(documents.pipeline | "Threshold" >> choose)
        keep = beam.FlatMap(above, threshold).with_output_types(Block)
        findings = scored.passages | "Above" >> keep
        return _Meaning(findings, scored.failures, tuple(rejects), scores, threshold)

    def _clean(self, rows: beam.PCollection) -> tuple[beam.PCollection[Block], ...]:
        """Return the scored passages of clean documents, and bad rows of these."""
        settings = self.settings
        step = f"{settings.step} {_CLEAN}"
        check = CheckTexts(step, settings.columns.text, None, settings.isolate)
        texts, rejects = as_blocks(rows, step=step) | "CheckClean" >> reject_outputs(
            beam.ParDo(check)
        )
        number = beam.Map(_numbered, settings).with_output_types(Block)
        score = ScorePassages(settings, self.index)
        return (texts | "Number" >> number | "Clean" >> score).passages, rejects


def _numbered(block: Block, settings: DocumentSettings) -> Block:
    """Keep the texts and scopes, with numbers as ids."""
    scope = [] if settings.scope is None else [settings.scope]
    check_columns(block, tuple(scope), f"{settings.step} {_CLEAN}")
    numbers = pa.array(range(len(block)), pa.int64())
    bare = block.select([settings.columns.text, *scope])
    return bare.with_column(pa.field(settings.columns.id, numbers.type), numbers)


def _count(passages: beam.PCollection[Block], label: str) -> AsSingleton:
    count = beam.CombineGlobally(CountScores()).without_defaults().with_output_types(PassageScores)
    return AsSingleton(passages | label >> count, default_value=PassageScores())
