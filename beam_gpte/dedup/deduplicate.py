"""What the deduplications share: their result, the steps around each one's own judgement, and several in a row.

rows ------> Check --+--> RejectDuplicateIds --> rows, reference --> (a step's) Judge --> pairs, verdicts
             (Spill) |
reference -> Check --+                             |                                          |
                                                   +--> SplitByDecision <----------------------+
                                                          |        |
                          the next step's rows <-- kept --+        +--> removed --> Repoint by the next step's verdicts
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import DEFECT, REFERENCE, REJECT_STEP
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.apply_decisions import RepointRemoved, SplitByDecision, with_found_by
from beam_gpte.dedup.report import SummarizeStep
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import columns_as_blocks, over_blocks
from beam_gpte.shuffle.spill import SpillRows, new_spill_folder, whole_rows
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds

Blocks = beam.PCollection  # of Block


class Deduplication(NamedTuple):
    """The result of every deduplication.

    Attributes:
      kept: rows as they came.
      removed: rows as they came, with `duplicate_of` (the id of a kept row, or of a reference row), `score` (float32: the
        similarity to it) and `found_by` (the step: ``exact``, ``lexical`` or ``semantic``). After several steps `score` is
        null where the row that it had been found near to was removed by a later step, and `duplicate_of` names what that one
        led to.
      pairs: blocks of `first_id`, `second_id`, `score`, `found_by`: what is similar; the first one is kept before the
      second.
      report: one dict a step, with its figures; see `dedup_report`.
      rejects: rows that could not be judged, with step and reason; empty unless `with_exception_handling()` was called.
      space: of a semantic step, its cells and sketches as bytes, for a later run's `space`; else None.
    """

    kept: beam.PCollection
    removed: beam.PCollection
    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection
    space: beam.PCollection | None


class StepResult(NamedTuple):
    """What a step finds among its rows.

    Attributes:
      rows: those it was given, reference rows too, perhaps with more columns.
      pairs: blocks of `first_id`, `second_id`, `score`.
      verdicts: blocks of the removed row's id in the id column, `duplicate_of`, `score`; one a removed row.
      figures: collections of one dict each, for the report.
      rejects: rows that the check could not refuse; None where there are none.
    """

    rows: Blocks
    pairs: Blocks
    decisions: Blocks
    figures: tuple[beam.PCollection, ...] = ()
    rejects: Blocks | None = None
    space: beam.PCollection | None = None


class DeduplicationStep(RejectingTransform):
    """A transform that gives a `Deduplication`: a subclass says what it reads and which rows it refuses, and judges the
    rest.
    """

    name: ClassVar[str]
    id_column: str
    text_column: str
    keep: str
    reference: beam.PCollection | None
    scratch: str | None = None

    _spill: SpillRows | None = None  # what a step that adds large columns applies to its rows

    def columns(self) -> tuple[str, ...]:
        """What it reads besides id and text."""
        raise NotImplementedError

    def reads_text(self) -> bool:
        raise NotImplementedError

    def defects(self) -> Callable[[Block], pa.Array]:
        """What says of each row of a block why it can't be judged; null for a good one. Has no PCollection in it."""
        raise NotImplementedError

    def decide(self, rows: Blocks, has_reference: bool) -> StepResult:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the report says of how it was run; `threshold` is one of them."""
        raise NotImplementedError

    def spilling(self, spill: SpillRows) -> "DeduplicationStep":
        """This step over light rows."""
        clone = copy.copy(self)
        clone._spill = spill
        return clone

    def order(self) -> KeepOrder:
        return KeepOrder.parse(self.keep, self.text_column)

    def expand(self, pcoll: beam.PCollection) -> Any:
        return _expand(pcoll, (self,), self.reference, self.scratch, self._isolate)


@dataclasses.dataclass(eq=False)
class Deduplicate(RejectingTransform):
    """Remove duplicates in several steps, each among what the former ones kept; gives one `Deduplication`.

        corpus | Deduplicate((DeduplicateExact(), DeduplicateLexical(), DeduplicateSemantic(model=MODEL)))

    Cheap steps first: what they remove need not be embedded. Every `duplicate_of` names a row that is kept in the end. Rows
    that any step refuses are set aside before the first one.

    Attributes:
      steps: with the same `id_column` and `text_column`, and no `reference` of their own.
      reference: rows of another corpus; what is near to one of them is removed, they themselves are not.
      scratch: a folder, on a disk that all workers share, where rows wait while their ids and sketches are shuffled. For
        runners that keep shuffles in memory, as Beam's local one does: with it a million vectors of 384 dimensions fit
        there. A run makes a folder of its own in it and leaves that there; delete it when the job has ended.
    """

    steps: tuple[DeduplicationStep, ...]
    reference: beam.PCollection | None = None
    scratch: str | None = None

    def __post_init__(self) -> None:
        self.steps = tuple(self.steps)
        if not self.steps:
            raise InputError(
                "no steps; give one or more, e.g. (DeduplicateExact(), DeduplicateSemantic())"
            )
        for step in self.steps:
            for name in ("reference", "scratch"):
                if getattr(step, name) is not None:
                    raise InputError(
                        f"{type(step).__name__} has a {name} of its own; give it to Deduplicate, for all steps"
                    )
            for column in ("id_column", "text_column"):
                one, other = getattr(self.steps[0], column), getattr(step, column)
                if one != other:
                    raise InputError(f"steps with {column} {one!r} and {other!r}; use one")

    def expand(self, pcoll: beam.PCollection) -> Any:
        return _expand(pcoll, self.steps, self.reference, self.scratch, self._isolate)


def _expand(
    pcoll: beam.PCollection,
    steps: tuple[DeduplicationStep, ...],
    reference: beam.PCollection | None,
    scratch: str | None,
    isolate: bool,
) -> Deduplication:
    if not (pcoll.is_bounded and pcoll.windowing.is_default()):
        name = type(steps[0]).__name__
        raise InputError(
            f"{name}: a corpus is deduplicated as a whole; for a stream use DeduplicateStream"
        )
    id_column = steps[0].id_column
    text_column = steps[0].text_column if any(step.reads_text() for step in steps) else None
    columns = tuple(
        dict.fromkeys(name for step in steps for name in step.columns() if name != text_column)
    )
    aside: dict[str, Any] = {"space": None}
    if scratch is not None:
        light = SpillRows(new_spill_folder(scratch), _light_columns(steps))
        steps = tuple(step.spilling(light) for step in steps)

    def stage(blocks: Blocks) -> tuple[Blocks, Blocks, Blocks]:
        known = (
            None
            if reference is None
            else columns_as_blocks(reference, columns, text_column, id_column)
        )
        rows, known, refused = _good_rows(blocks, known, steps, isolate)
        removed: Any = None
        pairs, reports = [], []
        for number, step in enumerate(steps, 1):
            with_known = (
                rows
                if known is None
                else (rows, known) | f"WithReference{number}" >> beam.Flatten()
            )
            decided = with_known | f"{number}-{step.name}" >> _Decide(
                step, known is not None, isolate
            )
            refused += [] if decided.rejects is None else [decided.rejects]
            told = () if decided.rejects is None else (decided.rejects,)
            if removed is None:
                removed = decided.removed
            else:
                repointed: Any = (
                    removed,
                    decided.decisions,
                    *told,
                ) | f"Repoint{number}" >> RepointRemoved(id_column)
                refused += [repointed.rejects] if told else []
                removed = (repointed.good, decided.removed) | f"Removed{number}" >> beam.Flatten()
            rows = decided.kept
            pairs.append(decided.pairs)
            reports.append(decided.report)
            aside["space"] = decided.space or aside["space"]
        kept, gone = rows, removed
        refusals = merge_rejects(refused) | "NameReference" >> beam.Map(
            _name_reference
        ).with_output_types(Block)
        if scratch is not None:
            whole = beam.Map(whole_rows).with_output_types(Block)
            kept, gone, refusals = (
                kept | "Kept" >> whole,
                gone | "WholeRemoved" >> whole,
                refusals | "Rejects" >> whole,
            )
        aside["pairs"] = tuple(pairs) | "Pairs" >> beam.Flatten()
        aside["report"] = tuple(reports) | "Report" >> beam.Flatten()
        return kept, gone, refusals

    kept, removed, rejects = over_blocks(pcoll, stage, text_column, id_column, columns=columns)
    return Deduplication(kept, removed, aside["pairs"], aside["report"], rejects, aside["space"])


def _light_columns(steps: tuple[DeduplicationStep, ...]) -> tuple[str, ...]:
    """What steps read of rows that lie on a disk, but for vectors: ids, orders, scopes, keys and texts."""
    read = {steps[0].id_column, REFERENCE}
    for step in steps:
        read |= {*step.columns(), *((step.text_column,) if step.reads_text() else ())}
        read.discard(getattr(step, "embedding_column", ""))
    return tuple(sorted(read))


def _good_rows(
    rows: Blocks, reference: Blocks | None, steps: tuple[DeduplicationStep, ...], isolate: bool
) -> tuple[Blocks, Blocks | None, list[Blocks]]:
    """Rows and reference rows that every step can judge, no two with one id, and what was refused."""
    checks = tuple((type(step).__name__, step.defects()) for step in steps)
    id_column = steps[0].id_column
    good, refused = rows | "Check" >> reject_outputs(
        beam.FlatMap(_check, checks, id_column, isolate)
    )
    rejects = [refused]
    if reference is not None:
        marked = reference | "MarkReference" >> beam.Map(_mark).with_output_types(Block)
        known, unknown = marked | "CheckReference" >> reject_outputs(
            beam.FlatMap(_check, checks, id_column, isolate)
        )
        good = (good, known) | "AllRows" >> beam.Flatten()
        rejects.append(unknown)
    if steps[0]._spill is not None:
        good = good | "Spill" >> steps[0]._spill
    unique: Any = RejectDuplicateIds(id_column)
    if isolate:
        good, same_id = good | unique.with_exception_handling()
        rejects.append(same_id)
    else:
        good = good | unique
    if reference is None:
        return good, None, rejects
    split = beam.FlatMap(_split_reference).with_output_types(Block, reference=Block)
    parts = good | "SplitReference" >> split.with_outputs("reference", main="rows")
    return parts.rows, parts.reference, rejects


def _check(
    block: Block, checks: tuple[tuple[str, Callable], ...], id_column: str, isolate: bool
) -> Iterator[Any]:
    blocks = [block]
    for name, defects in checks:
        passed: list[Block] = []
        for part in blocks:
            found = defects(part)
            if DEFECT in part.schema.names:
                found = pc.coalesce(part.column(DEFECT), found)
            for piece in split_rejects(
                part.without_columns([DEFECT]), found, name, isolate, id_column
            ):
                if isinstance(piece, TaggedOutput):
                    yield piece
                elif piece:
                    passed.append(piece)
        blocks = passed
    yield from blocks


def _mark(block: Block) -> Block:
    return block.with_column(pa.field(REFERENCE, pa.bool_()), pa.array([True] * len(block)))


def _split_reference(block: Block) -> Iterator[Any]:
    yield TaggedOutput("reference", block) if REFERENCE in block.schema.names else block


def _name_reference(block: Block) -> Block:
    if REFERENCE not in block.schema.names:
        return block
    steps = pc.binary_join_element_wise(block.column(REJECT_STEP), "reference", ": ")
    return block.without_columns([REFERENCE]).with_column(pa.field(REJECT_STEP, pa.string()), steps)


class _Decided(NamedTuple):
    kept: Blocks
    removed: Blocks
    pairs: Blocks
    report: beam.PCollection
    decisions: Blocks
    rejects: Blocks | None
    space: beam.PCollection | None


@dataclasses.dataclass(eq=False)
class _Decide(beam.PTransform):
    """One step: rows, reference rows among them, become kept and removed ones; the reference is in neither."""

    step: DeduplicationStep
    has_reference: bool
    isolate: bool

    def expand(self, blocks: Blocks) -> Any:
        step = self.step.with_exception_handling() if self.isolate else self.step
        found = step.decide(blocks, self.has_reference)
        own = found.rows
        if self.has_reference:
            own = found.rows | "OwnRows" >> beam.Filter(_is_own).with_output_types(Block)
        split = (own, found.decisions) | SplitByDecision(step.id_column, step.name)
        pairs = found.pairs | "NamePairs" >> beam.Map(with_found_by, step.name).with_output_types(
            Block
        )
        summary = SummarizeStep(
            {"step": step.name, "keep": step.keep, **step.settings()},
            step.id_column,
            step.text_column,
        )
        report = (found.rows, found.pairs, found.decisions, found.figures) | summary
        return _Decided(
            split.kept, split.removed, pairs, report, found.decisions, found.rejects, found.space
        )


def _is_own(block: Block) -> bool:
    return REFERENCE not in block.schema.names
