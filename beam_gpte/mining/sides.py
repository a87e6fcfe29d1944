"""Prepare a side of a search for comparison: `sentences | PrepareSide(settings, "source")`.

rows --> Check --> one row per id --> Deduplicate --> Embed --> Vectors
                                           |
                                           +--> duplicates
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import (
    DECOY,
    DUPLICATE_OF,
    SCOPE,
    SCORE,
    SIDE_IDS,
    SIDES,
    VECTOR,
    Columns,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.dedup.apply_decisions import (
    RemovedAndDecisions,
    RepointRemoved,
    RowsAndDecisions,
    SplitByDecision,
)
from beam_gpte.dedup.deduplicate import StepContext
from beam_gpte.dedup.exact import DeduplicateExact
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.rejects import NAMESPACE, merge_rejects, reject_outputs, split_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds, id_array


@dataclasses.dataclass(frozen=True)
class SideSettings:
    """Hold what both sides of a search have in common.

    Attributes:
      step: the transform that the user wrote, and its input, for rejects and errors.
      columns: of the ids, texts and vectors.
      scope: rows are compared only within the same value of this column; None for all.
      deduplicate: compare only one of the rows with the same text.
      model: embeds the rows without vectors; None if all have them.
      isolate: collect bad rows, instead of failing.
    """

    step: str
    columns: Columns
    scope: str | None = None
    deduplicate: bool = True
    model: Any = None
    isolate: bool = False


class Side(NamedTuple):
    """Hold a side that is ready for comparison.

    Attributes:
      rows: blocks with vectors, one row for each text.
      vectors: of these rows: blocks of `source_id` or `target_id`, `VECTOR`, `SCOPE` if there are
        scopes, and `DECOY` if there are decoys.
      duplicates: the other rows, with the id that they are a `duplicate_of`.
      rejects: bad rows.
    """

    rows: beam.PCollection[Block]
    vectors: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


class DistinctRows(NamedTuple):
    """Hold what a `Side` does; `rejects` is None where no step can make any."""

    rows: beam.PCollection[Block]
    vectors: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]
    rejects: beam.PCollection[Block] | None


def check_sides(
    inputs: Any, names: tuple[str, ...], step: str, optional: tuple[str, ...] = ()
) -> None:
    """Refuse anything but a dict of whole corpora of these names, and of `optional` ones."""
    if not isinstance(inputs, Mapping) or not set(names) <= set(inputs) <= {*names, *optional}:
        shown = ", ".join(f'"{name}": ...' for name in names)
        raise InputError(f"give {{{shown}}} | {step}(...)")
    for name, side in inputs.items():
        if not (side.is_bounded and side.windowing.is_default()):
            raise InputError(f"{name}: {step} takes whole corpora, not a stream or windows")


@dataclasses.dataclass(eq=False)
class PrepareSide(beam.PTransform):
    """Check rows of any kind, keep one for each text, and embed those without vectors.

    Attributes:
      settings: of both sides.
      side: ``source`` or ``target``.
      decoys: whether the rows are decoys; None where this side has none.
      input_name: names the side in rejects and errors; None for `side`.
    """

    settings: SideSettings
    side: str
    decoys: bool | None = None
    input_name: str | None = None

    @named_collections
    def expand(self, rows: beam.PCollection) -> Side:
        """Return the side."""
        step = f"{self.settings.step} {self.input_name or self.side}"
        settings = dataclasses.replace(self.settings, step=step)
        check = beam.FlatMap(_check, _defects(settings), settings)
        good, bad_rows = as_blocks(rows) | "Check" >> reject_outputs(check)
        unique: Any = RejectDuplicateIds(settings.columns.id).as_part_of(step)
        rejects = [bad_rows]
        if settings.isolate:
            good, same_id = good | unique.with_exception_handling()
            rejects.append(same_id)
        else:
            good = good | unique
        distinct = good | "Distinct" >> DistinctVectors(settings, self.side, self.decoys)
        if distinct.rejects is not None:
            rejects.append(distinct.rejects)
        all_rejects = merge_rejects(rejects) if settings.isolate else bad_rows
        return Side(distinct.rows, distinct.vectors, distinct.duplicates, all_rejects)


@dataclasses.dataclass(eq=False)
class DistinctVectors(beam.PTransform):
    """Do what `PrepareSide` does, for blocks that were checked."""

    settings: SideSettings
    side: str
    decoys: bool | None = None

    @named_collections
    def expand(self, good: beam.PCollection[Block]) -> DistinctRows:
        """Return the rows of distinct texts with vectors."""
        settings, columns, rejects = self.settings, self.settings.columns, None
        if settings.deduplicate:
            exact = DeduplicateExact(scope=settings.scope, columns=columns)
            decided = exact.decide(good, StepContext())
            split = RowsAndDecisions(good, decided.decisions) | "Deduplicate" >> SplitByDecision(
                columns.id, exact.name
            )
            good, duplicates = split.kept, split.removed
        else:
            none = beam.FlatMap(lambda block: ()).with_output_types(Block)
            duplicates = good | "NoDuplicates" >> none
        if settings.model is not None:
            names = columns.text, columns.id, columns.embedding
            embed = EmbedWhereMissing(settings.model, *names, settings.isolate, settings.step)
            good, rejects = good | "Embed" >> embed
        search_columns = _SearchColumns(settings, self.side, self.decoys)
        vectors = good | "Vectors" >> beam.Map(search_columns).with_output_types(Block)
        return DistinctRows(good, vectors, duplicates, rejects)


class SideAndPairs(NamedTuple):
    """Hold a side, and blocks of pairs that name its rows."""

    side: Side
    pairs: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class WithoutPaired(beam.PTransform):
    """Leave the rows of a side that no pair has, without scopes.

    Its `duplicates` are those of all rows. Texts are compared again, since rows of two scopes may
    have the same text. There are no further rejects.
    """

    settings: SideSettings
    side: str
    decoys: bool | None = None

    @named_collections
    def expand(self, inputs: SideAndPairs) -> Side:
        """Return the unpaired rows."""
        previous, id_column = inputs.side, self.settings.columns.id
        settings = dataclasses.replace(self.settings, scope=None, model=None)
        side_id = SIDE_IDS[SIDES.index(self.side)]
        unpaired = beam.FlatMap(_unpaired, id_column, side_id).with_output_types(Block)
        left = (
            {"rows": previous.rows, "pairs": inputs.pairs}
            | "CoGroup" >> CoGroupById({"rows": id_column, "pairs": side_id})
            | "Unpaired" >> unpaired
        )
        distinct = left | "Distinct" >> DistinctVectors(settings, self.side, self.decoys)
        decide = beam.Map(_decisions, id_column).with_output_types(Block)
        decisions = distinct.duplicates | "Decisions" >> decide
        earlier = RemovedAndDecisions(previous.duplicates, decisions)
        repointed = earlier | "Repoint" >> RepointRemoved(id_column)
        duplicates = (repointed.good, distinct.duplicates) | "AllDuplicates" >> beam.Flatten()
        return Side(distinct.rows, distinct.vectors, duplicates, previous.rejects)


def _defects(settings: SideSettings) -> VectorDefects:
    return VectorDefects(
        settings.columns.embedding,
        () if settings.scope is None else (settings.scope,),
        settings.columns.text if settings.model else None,
        settings.columns.id,
        settings.step,
    )


def _check(block: Block, defects: VectorDefects, settings: SideSettings) -> Iterator[Any]:
    reasons = defects(block)
    if settings.deduplicate:
        reasons = pc.coalesce(reasons, check_text(block, settings.columns.text, settings.step))
    yield from split_rejects(block, reasons, settings.step, settings.isolate, settings.columns.id)


class _SearchColumns:
    """Select what a row is searched by: id under its side's name, unit vector, scope, decoy."""

    def __init__(self, settings: SideSettings, side: str, decoys: bool | None) -> None:
        self._settings = settings
        self._id_name = SIDE_IDS[SIDES.index(side)]
        self._decoys = decoys

    def __call__(self, block: Block) -> Block:
        names, scope = self._settings.columns, self._settings.scope
        columns: dict[str, Any] = {self._id_name: id_array(block, names.id)}
        if scope is not None:
            columns[SCOPE] = block.column(scope).cast(pa.large_string()).fill_null("")
        if self._decoys is not None:
            columns[DECOY] = pa.array([self._decoys] * len(block))
        array = vectors_to_arrow(unit_vectors(block, names.embedding))
        metadata = block.schema.field(names.embedding).metadata
        field = pa.field(VECTOR, array.type, metadata=metadata)
        return Block.from_pydict(columns).with_column(field, array)


def _unpaired(
    element: tuple[int, Iterable[Named]], id_column: str, side_id: str
) -> Iterator[Block]:
    group = CoGroup(element)
    paired = [id_array(block, side_id) for block in group["pairs"]]
    for block in group["rows"]:
        left = block
        if paired:
            ids = id_array(block, id_column)
            left = block.filter(pc.invert(pc.is_in(ids, pa.concat_arrays(paired))))
        if left:
            Metrics.counter(NAMESPACE, "rows_left").inc(len(left))
            yield left


def _decisions(duplicates: Block, id_column: str) -> Block:
    return Block(duplicates.batch.select([id_column, DUPLICATE_OF, SCORE]))
