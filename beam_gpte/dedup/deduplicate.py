"""Deduplicate a corpus in several steps; the base and the result of every deduplication.

rows ------> Check --+--> RejectDuplicateIds --> rows, reference --> a step's decide --> decisions
             (Spill) |                                |                                    |
reference -> Check --+                                +--> ApplyDecisions <----------------+
                                                           ^  |        |
                             the next step's rows <-- kept ---+        +--> removed
                                                           |                   |
                                  the next step's decisions, by `duplicate_of` +

kept, removed of the last step --> AnnotateClusters --> annotated, if these are asked for
"""

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsIter, AsList, AsSingleton, TaggedOutput

from beam_gpte.core.columns import (
    CORPUS_ID,
    DUPLICATE_OF,
    FIRST_ID,
    FOUND_BY,
    ID,
    REFERENCE,
    SCORE,
    SECOND_ID,
    Columns,
)
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.dedup.apply_decisions import (
    REMOVED_COLUMNS,
    ApplyDecisions,
    RowsToDecide,
    with_found_by,
)
from beam_gpte.dedup.checks import (
    Blocks,
    CheckedRows,
    Defects,
    RowChecks,
    RowResults,
    check_rows,
    restore_rows,
    restoring,
    separate_reference,
)
from beam_gpte.dedup.clusters.annotate_rows import (
    CLUSTER_COLUMNS,
    AnnotateClusters,
    KeptAndRemoved,
    with_cluster_id,
)
from beam_gpte.dedup.figures import StepFigures, pair_figures
from beam_gpte.dedup.recall_audit import count_found
from beam_gpte.dedup.report import Deduplication, FiguresOfSteps, StepSummary, SummarizeSteps
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import RejectingTransform, merge_rejects
from beam_gpte.elements.rows import back_to_rows, columns_as_blocks, in_kind_of, to_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import unmarked, without_made
from beam_gpte.shuffle.corpus_ids import with_own_pair_ids
from beam_gpte.shuffle.id_types import with_types
from beam_gpte.shuffle.spill import SpillRows, new_spill_folder
from beam_gpte.shuffle.unique_ids import named_type

T = TypeVar("T", bound="GivesDeduplication")


@dataclasses.dataclass(frozen=True)
class StepContext:
    """Describe the deduplication that a step runs in.

    Attributes:
      has_reference: whether reference rows, marked by `REFERENCE`, are among the rows.
      id_column: names each row of both.
      isolate: collect rows that fail, instead of failing the job.
      spill: writes rows to a disk once a step has added large columns; None keeps them in memory.
      added: names of the columns that removed rows get.
      id_types: a side input of the types of the ids, see `shuffle.id_types`.
    """

    has_reference: bool = False
    id_column: str = ID
    isolate: bool = False
    spill: SpillRows | None = None
    added: AddedColumns = dataclasses.field(default_factory=AddedColumns)
    id_types: Any = ()


class StepResult(NamedTuple):
    """Hold the findings of a step.

    Attributes:
      rows: those it was given, reference rows too, perhaps with more columns.
      pairs: blocks of `first_id`, `second_id`, `score`.
      decisions: blocks of the removed row's id in the context's id column, `duplicate_of`, `score`;
        one per removed row.
      figures: for the report.
      expected: pairs that a search without loss finds, with a vector of a sample; none or one
        collection.
      rejects: rows that failed in the step, after the checks; none or one collection.
      saved_index: see `Deduplication`.
      threshold: a side input of the one that was chosen for a target; None if none was.
    """

    rows: Blocks
    pairs: Blocks
    decisions: Blocks
    figures: tuple[beam.PCollection[StepFigures], ...] = ()
    expected: tuple[Blocks, ...] = ()
    rejects: tuple[Blocks, ...] = ()
    saved_index: beam.PCollection[bytes] | None = None
    threshold: AsSingleton | None = None


class GivesDeduplication(AddsColumns, RejectingTransform):
    """Give a `Deduplication`, as a base of the transforms that do."""

    _sample: beam.PTransform | None = None
    annotate: bool

    def sampled_by(self: T, sample: beam.PTransform) -> T:
        """Apply `sample` to blocks of kept and removed rows with all vectors that steps made."""
        clone = copy.copy(self)
        clone._sample = sample
        return clone

    def adds(self) -> tuple[str, ...]:
        """Name what removed rows get."""
        return REMOVED_COLUMNS

    def id_column(self) -> str:
        """Name the column of the ids."""
        raise NotImplementedError

    def empty_output(self, name: str, rows: pa.Schema) -> pa.Schema:
        """Give the columns of an output without rows, which a notebook shows."""
        if name not in ("removed", "pairs", "annotated") or self.id_column() not in rows.names:
            return super().empty_output(name, rows)
        kind = named_type(rows.field(self.id_column()).type)
        found = [(SCORE, pa.float32()), (FOUND_BY, pa.string())]
        if name == "pairs":
            return pa.schema([(FIRST_ID, kind), (SECOND_ID, kind), *found])
        new = [(DUPLICATE_OF, kind), *found]
        if name == "annotated":
            new = list(zip(CLUSTER_COLUMNS, (kind, pa.int64(), pa.bool_()), strict=True))
        added = self.added()
        return pa.schema([*rows, *((added[ours], k) for ours, k in new)])


class DeduplicationStep(GivesDeduplication):
    """Deduplicate by one criterion: a subclass names its columns, and decides."""

    name: ClassVar[str]  # in `found_by` and the report
    annotate = False
    columns: Columns
    keep: str | None
    reference: beam.PCollection | None
    history: beam.PCollection | None = None

    def read_columns(self) -> tuple[str, ...]:
        """Name the columns that it reads besides id and text."""
        raise NotImplementedError

    def reads_text(self) -> bool:
        """Return whether it reads the text."""
        raise NotImplementedError

    def makes_vectors(self) -> bool:
        """Return whether it embeds texts, so that rows have vectors afterwards."""
        return self.embeds_with() is not None

    def embeds_with(self) -> tuple[str, Any] | None:
        """Return the column of the vectors that it makes, and their model; None for none."""
        return None

    def light_columns(self) -> tuple[str, ...]:
        """Name the columns that it reads from rows on a disk: all except vectors."""
        return (*self.read_columns(), *((self.columns.text,) if self.reads_text() else ()))

    def defects(self) -> Defects:
        """Give the function that finds rows it cannot compare; it holds no PCollection."""
        raise NotImplementedError

    def decide(self, rows: Blocks, context: StepContext) -> StepResult:
        """Decide which of the checked `rows` to remove."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Give the settings that the report shows; `threshold` is one of them."""
        raise NotImplementedError

    def report_thresholds(self) -> tuple[float, ...]:
        """Give the larger thresholds that it counts the removed rows at."""
        return ()

    def id_column(self) -> str:
        """Name the column of the ids."""
        return self.columns.id

    def keeps(self) -> str:
        """Give what is kept of several duplicates."""
        return self.keep or "first"

    def order(self) -> KeepOrder:
        """Give the order of keeping."""
        return KeepOrder.parse(self.keeps(), self.columns.text)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Run this step alone; gives a `Deduplication`."""
        known = self.reference if self.history is None else self.history
        return _deduplicate(pcoll, (self,), known, None, self)


@dataclasses.dataclass(eq=False)
class Deduplicate(GivesDeduplication):
    """Remove duplicates in several steps, each among the rows that the steps before it kept.

        corpus | Deduplicate((DeduplicateExact(), DeduplicateSemantic(model=MODEL)))

    Gives one `Deduplication`; every `duplicate_of` names a row that all steps keep. Cheap steps
    first: rows they remove are not embedded. A step of another `model` than the one before it
    embeds the rows again that are left, so that a static model can go before a language model. Rows
    that any step cannot compare are rejected first.

    Attributes:
      steps: with the same id and text columns, and without a `reference` or `rename`.
      reference: rows of another corpus; rows near to one of them are removed, they themselves are
        not. Ids may be the same in both; those that results name do not say of which.
      scratch: a folder, on a disk that all workers share, for rows while their ids and sketches are
        shuffled. For runners that keep shuffles in memory, as Beam's local one does: with it a
        million vectors of 384 dimensions fit there. A run creates its own folder in it, for its
        user alone. On the local runner it is removed with the pipeline, or by the next run of this
        user if the process was killed; elsewhere delete it when the job has ended.
      annotate: give `annotated` too, all rows that were not rejected with `cluster_id`,
        `cluster_size` and `is_representative`, for one more shuffle of the rows.
      rename: names for the columns of `removed` and `annotated` that rows have already, as in
        ``{"score": "similarity"}``.
    """

    steps: tuple[DeduplicationStep, ...]
    reference: beam.PCollection | None = None
    scratch: str | None = None
    annotate: bool = False

    def __post_init__(self) -> None:
        self.steps = tuple(self.steps)
        if not self.steps:
            raise InputError(
                "no steps; give one or more, e.g. (DeduplicateExact(), DeduplicateSemantic())"
            )
        first = self.steps[0].columns
        for step in self.steps:
            if step.reference is not None:
                raise InputError(
                    f"{step.step} has a reference; give it to Deduplicate, for all steps"
                )
            if step.history is not None:
                raise InputError(f"{step.step} has a history; use this step alone, before others")
            if step.rename:
                raise InputError(f"{step.step} has a rename; give it to Deduplicate, for all steps")
            for column in ("id", "text"):
                one, other = getattr(first, column), getattr(step.columns, column)
                if one != other:
                    raise InputError(f"steps with {column} columns {one!r} and {other!r}; use one")
        places = range(1, len(self.steps))
        if self.scratch is not None and any(
            _has_another_model(self.steps[i], self.steps[:i]) for i in places
        ):
            raise InputError(
                "steps with two models, and scratch, where vectors lie with their rows; run these "
                "steps one after the other, or leave scratch out"
            )
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name what removed and annotated rows get."""
        return (*REMOVED_COLUMNS, *(CLUSTER_COLUMNS if self.annotate else ()))

    def id_column(self) -> str:
        """Name the column of the ids."""
        return self.steps[0].columns.id

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Run the steps one after the other; gives a `Deduplication`."""
        return _deduplicate(pcoll, self.steps, self.reference, self.scratch, self)


Steps = tuple[DeduplicationStep, ...]


def _deduplicate(
    pcoll: beam.PCollection,
    steps: Steps,
    reference: beam.PCollection | None,
    scratch: str | None,
    transform: "DeduplicationStep | Deduplicate",
) -> Deduplication:
    """Check the rows, run the steps, and give rows of the kind of `pcoll` back."""
    if not (pcoll.is_bounded and pcoll.windowing.is_default()):
        raise InputError(
            f"{transform.step}: a corpus is deduplicated as a whole; for a stream use "
            "DeduplicateStream"
        )
    id_column, text_column, columns, vectors = _read_columns(steps)
    spill = None
    if scratch is not None:
        light = {id_column, REFERENCE, CORPUS_ID}.union(*(step.light_columns() for step in steps))
        spill = SpillRows(new_spill_folder(scratch, pcoll.pipeline), tuple(sorted(light)))
    defects = tuple((step.step, step.defects()) for step in steps)
    added = transform.added()
    checks = RowChecks(transform.step, defects, id_column, transform._isolate, added)
    ids = id_column if reference is None else CORPUS_ID
    context = StepContext(reference is not None, ids, transform._isolate, spill, added)
    rows = to_blocks(pcoll, text_column, id_column, columns, added=added, optional=vectors)
    known = None
    if reference is not None:
        names = columns, text_column, id_column, vectors
        known = columns_as_blocks(reference, *names, f"{transform.step} reference")
    checked = check_rows(rows.blocks, known, checks, spill)
    context = dataclasses.replace(context, id_types=AsIter(checked.id_types))
    result = _run_steps(checked, steps, context)
    parts = RowResults(result.kept, result.removed, result.rejects)
    if spill is not None or reference is not None:
        parts = restore_rows(parts, checks)
    if transform._sample is not None:
        both = (parts.kept, parts.removed) | "KeptAndRemoved" >> beam.Flatten()
        _ = both | "Sample" >> transform._sample
    if any(step.makes_vectors() for step in steps):
        parts = _as_they_came(parts)
    annotated = None
    if transform.annotate:
        annotated = back_to_rows(rows, _annotated(result, ids, checks))
    pairs = in_kind_of(pcoll, result.pairs, "FromPairs")
    by_name = back_to_rows(rows, parts)._asdict()
    return result._replace(**by_name, pairs=pairs, annotated=annotated)


def _annotated(result: Deduplication, id_column: str, checks: RowChecks) -> Blocks:
    """Name the clusters of the rows, without the vectors that steps made."""
    rename = beam.Map(InStep(checks.step, _as_annotated).__call__, checks.added)
    return (
        KeptAndRemoved(result.kept, result.removed)
        | "AnnotateClusters" >> AnnotateClusters(id_column, checks.added)
        | "WholeAnnotated" >> restoring(checks)
        | "Annotated" >> rename.with_output_types(Block)
    )


def _as_annotated(block: Block, added: AddedColumns) -> Block:
    return with_cluster_id(without_made(block), added)


def _as_they_came(parts: RowResults) -> RowResults:
    """Drop the vectors that steps made from removed rows: some were removed before they had any."""
    without, keep = (
        beam.Map(function).with_output_types(Block) for function in (without_made, unmarked)
    )
    return RowResults(
        parts.kept | "KeepVectors" >> keep,
        parts.removed | "WithoutVectors" >> without,
        parts.rejects | "RejectsWithoutVectors" >> without,
    )


def _read_columns(
    steps: Steps,
) -> tuple[str, str | None, tuple[str, ...], tuple[str, ...]]:
    """Name the id column, the text column if a step reads it, further ones, and the vectors."""
    columns = steps[0].columns
    text = columns.text if any(step.reads_text() for step in steps) else None
    others = dict.fromkeys(name for step in steps for name in step.read_columns() if name != text)
    vectors = tuple(name for name in others if name == columns.embedding)
    return columns.id, text, tuple(name for name in others if name not in vectors), vectors


def _run_steps(checked: CheckedRows, steps: Steps, context: StepContext) -> Deduplication:
    """Run each step among the rows that the one before it kept; all collections are blocks."""
    done: list[_Decided] = []
    removed: tuple[Blocks, ...] = ()
    rows, rejects = checked.rows, list(checked.rejects)
    for number, step in enumerate(steps, 1):
        if checked.reference is not None:
            rows = (rows, checked.reference) | f"WithReference{number}" >> beam.Flatten()
        if number == 1:
            all_rows = rows
        elif _has_another_model(step, steps[: number - 1]):
            drop = beam.Map(without_made).with_output_types(Block)
            rows = rows | f"WithoutVectors{number}" >> drop
        found = _StepRows(rows, removed) | f"{number}-{step.name}" >> _RunStep(step, context)
        rejects += found.rejects
        rows, removed = found.kept, (found.removed,)
        done.append(found)
    summaries, text_column = tuple(map(_summary_of, steps)), steps[0].columns.text
    summarize = SummarizeSteps(summaries, context.id_column, text_column)
    figures = FiguresOfSteps(all_rows, tuple(found.figures for found in done))
    indexes = [found.saved_index for found in done if found.saved_index is not None]
    return Deduplication(
        rows,
        removed[0],
        _flat(tuple(found.pairs for found in done), "Pairs"),
        figures | "Report" >> summarize,
        merge_rejects(rejects),
        indexes[-1] if indexes else None,
    )


def _has_another_model(step: DeduplicationStep, earlier: Steps) -> bool:
    """Check whether a step embeds again, into the column of a step before it with another model."""
    made = step.embeds_with()
    before = [known for known in (one.embeds_with() for one in earlier) if known is not None]
    return made is not None and bool(before) and before[-1][0] == made[0] and before[-1] != made


def _summary_of(step: DeduplicationStep) -> StepSummary:
    settings = {"step": step.name, "keep": step.keeps(), **step.settings()}
    return StepSummary(settings, step.report_thresholds())


def _flat(parts: tuple[beam.PCollection, ...], label: str) -> beam.PCollection:
    return parts[0] if len(parts) == 1 else parts | label >> beam.Flatten()


class _StepRows(NamedTuple):
    """Hold the rows of a step, and those that the steps before it removed."""

    rows: Blocks
    removed: tuple[Blocks, ...]


class _Decided(NamedTuple):
    kept: Blocks
    removed: Blocks
    pairs: Blocks
    figures: tuple[beam.PCollection[StepFigures], ...]
    rejects: tuple[Blocks, ...]
    saved_index: beam.PCollection[bytes] | None


@dataclasses.dataclass(eq=False)
class _RunStep(beam.PTransform):
    """Split rows into kept and removed ones by one step; reference rows are in neither."""

    step: DeduplicationStep
    context: StepContext

    @named_collections
    def expand(self, inputs: _StepRows) -> _Decided:
        step, (rows, earlier) = self.step, inputs
        found = step.decide(rows, self.context)
        corpus, figures = found.rows, found.figures
        if self.context.has_reference:
            own = beam.FlatMap(separate_reference).with_output_types(Block, figures=StepFigures)
            corpus, counted = found.rows | "OwnRows" >> own.with_outputs("figures", main="own")
            figures += (counted,)
        to_decide = RowsToDecide(corpus, found.decisions, earlier, found.rejects)
        apply = ApplyDecisions(self.context.id_column, step.name, self.context.added)
        applied = to_decide | "ApplyDecisions" >> apply
        expected = tuple(map(AsList, found.expected))
        context, threshold = self.context, found.threshold or step.settings()["threshold"]
        is_chosen = found.threshold is not None
        settings = context.id_types, context.id_column, step.name, threshold, is_chosen
        name = beam.FlatMap(InStep(step.step, _name_pairs).__call__, *settings, *expected)
        pairs, counted = found.pairs | "NamePairs" >> name.with_output_types(
            Block, figures=StepFigures
        ).with_outputs("figures", main="pairs")
        rejects = found.rejects
        if earlier and rejects:
            rejects += (applied.rejects,)
        figures += (applied.figures, counted)
        return _Decided(applied.kept, applied.removed, pairs, figures, rejects, found.saved_index)


def _name_pairs(
    pairs: Block,
    id_types: Iterable[bytes],
    id_column: str,
    step: str,
    threshold: float,
    is_chosen: bool,
    expected: Iterable[Block] = (),
) -> Iterator[Any]:
    """Name the step that found pairs, give their ids the type of the rows', and count them.

    Pairs below the threshold, where that was chosen for a target, are of the search alone.
    """
    found = count_found(pairs, list(expected))
    if is_chosen:
        pairs = pairs.filter(pc.greater_equal(pairs.column(SCORE), np.float32(threshold)))
    named = with_types(with_own_pair_ids(pairs, id_column), (FIRST_ID, SECOND_ID), id_types)
    yield with_found_by(named, step, FOUND_BY)
    yield TaggedOutput("figures", dataclasses.replace(pair_figures(pairs, threshold), found=found))
