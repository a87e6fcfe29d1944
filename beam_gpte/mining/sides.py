"""A side of a bitext becomes what is compared: `sentences | PrepareSide(settings, "source")` gives a `Side`.

rows --> Check --> one row an id --> NoCopies --> Embed --> Vectors
                                        |
                                        +--> copies
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
    EMBEDDING,
    ID,
    REJECT_STEP,
    SCOPE,
    SCORE,
    SIDE_IDS,
    SIDES,
    TEXT,
    VECTOR,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.dedup.apply_decisions import RepointRemoved, SplitByDecision
from beam_gpte.dedup.exact import DeduplicateExact
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.rejects import NAMESPACE, merge_rejects, reject_outputs, split_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds, id_array


@dataclasses.dataclass(frozen=True)
class SideSettings:
    """What both sides of a bitext have in common; `step` names the transform in rejects and errors."""

    step: str
    scope: str | None = None
    deduplicate: bool = True
    model: Any = None
    isolate: bool = False
    id_column: str = ID
    text_column: str = TEXT
    embedding_column: str = EMBEDDING


class Side(NamedTuple):
    """Rows with vectors, one for each text; `vectors`, of these rows: blocks of `source_id` or `target_id`, `VECTOR`,
    `SCOPE` if there are scopes, `DECOY` if there are decoys; `copies`, rows with what they are a `duplicate_of`; `rejects`,
    None where no step makes any.
    """

    rows: beam.PCollection
    vectors: beam.PCollection
    copies: beam.PCollection
    rejects: beam.PCollection | None


def check_sides(inputs: Any, names: tuple[str, ...], transform: str) -> None:
    """Refuse what is no dict of whole corpora of these names."""
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        shown = ", ".join(f'"{name}": ...' for name in names)
        raise InputError(f"give {{{shown}}} | {transform}(...)")
    for name, side in inputs.items():
        if not (side.is_bounded and side.windowing.is_default()):
            raise InputError(f"{name}: {transform} takes whole corpora, not a stream or windows")


@dataclasses.dataclass(eq=False)
class PrepareSide(beam.PTransform):
    """Any kind of rows give a `Side`.

    Attributes:
      side: ``source`` or ``target``.
      decoys: whether the rows are decoys; None where there are none on this side.
      called: what the side is called in rejects and errors; None for `side`.
    """

    settings: SideSettings
    side: str
    decoys: bool | None = None
    called: str | None = None

    def expand(self, rows: beam.PCollection) -> Any:
        own, called = self.settings, self.called or self.side
        columns = () if own.scope is None else (own.scope,)
        defects = VectorDefects(
            own.embedding_column, columns, own.text_column if own.model else None, own.id_column
        )
        text_column = own.text_column if own.deduplicate else None
        check = beam.FlatMap(_check, defects, text_column, f"{own.step} {called}", own.isolate)
        good, refused = as_blocks(rows) | "Check" >> reject_outputs(check)
        rejects = [refused]
        unique: Any = RejectDuplicateIds(own.id_column)
        if own.isolate:
            good, same_id = good | unique.with_exception_handling()
            rejects.append(same_id)
        else:
            good = good | unique
        distinct = good | "Distinct" >> DistinctVectors(own, self.side, self.decoys)
        if not own.isolate:  # there are none
            return distinct._replace(rejects=refused)
        name = beam.Map(_name_side, called).with_output_types(Block)
        if distinct.rejects is not None:
            rejects.append(distinct.rejects)
        return distinct._replace(rejects=merge_rejects(rejects) | "NameSide" >> name)


@dataclasses.dataclass(eq=False)
class DistinctVectors(beam.PTransform):
    """As `PrepareSide`, of blocks that were checked."""

    settings: SideSettings
    side: str
    decoys: bool | None = None

    def expand(self, good: beam.PCollection[Block]) -> Any:
        own, names = (
            self.settings,
            (self.settings.text_column, self.settings.id_column, self.settings.embedding_column),
        )
        if own.deduplicate:
            exact = DeduplicateExact(
                id_column=own.id_column, text_column=own.text_column, scope=own.scope
            )
            decided = exact.decide(good, has_reference=False)
            split = (good, decided.decisions) | "NoCopies" >> SplitByDecision(
                own.id_column, exact.name
            )
            good, copies = split.kept, split.removed
        else:
            copies = good | "NoCopies" >> beam.FlatMap(lambda block: ()).with_output_types(Block)
        rejects = None
        if own.model is not None:
            good, rejects = good | "Embed" >> EmbedWhereMissing(own.model, *names, own.isolate)
        vectors = good | "Vectors" >> beam.Map(
            _Vectors(own, self.side, self.decoys)
        ).with_output_types(Block)
        return Side(good, vectors, copies, rejects)


@dataclasses.dataclass(eq=False)
class WithoutPaired(beam.PTransform):
    """`(side, pairs)` gives the `Side` of what no pair has, without scopes; its `copies` are the copies of all rows.

    Texts are compared anew, since rows of two scopes may be copies. There are no further rejects.
    """

    settings: SideSettings
    side: str
    decoys: bool | None = None

    def expand(self, inputs: Any) -> Any:
        previous, pairs = inputs
        own = dataclasses.replace(self.settings, scope=None, model=None)
        own_id = SIDE_IDS[SIDES.index(self.side)]
        unpaired = beam.FlatMap(_unpaired, own.id_column, own_id).with_output_types(Block)
        both = {"rows": previous.rows, "pairs": pairs}
        left = (
            both
            | "Meet" >> CoGroupById({"rows": own.id_column, "pairs": own_id})
            | "Unpaired" >> unpaired
        )
        distinct = left | "Distinct" >> DistinctVectors(own, self.side, self.decoys)
        decisions = distinct.copies | "Verdicts" >> beam.Map(
            _verdicts, own.id_column
        ).with_output_types(Block)
        moved = (previous.copies, decisions) | "Repoint" >> RepointRemoved(own.id_column)
        copies = (moved.good, distinct.copies) | "AllCopies" >> beam.Flatten()
        return distinct._replace(copies=copies, rejects=previous.rejects)


def _check(
    block: Block, defects: VectorDefects, text_column: str | None, step: str, isolate: bool
) -> Iterator[Any]:
    found = defects(block)
    if text_column is not None:
        found = pc.coalesce(found, check_text(block, text_column))
    yield from split_rejects(block, found, step, isolate, defects.id_column)


def _name_side(block: Block, side: str) -> Block:
    steps = [
        step if side in step else f"{step}, {side}"
        for step in block.column(REJECT_STEP).to_pylist()
    ]
    return block.without_columns([REJECT_STEP]).with_column(
        pa.field(REJECT_STEP, pa.string()), pa.array(steps, pa.string())
    )


class _Vectors:
    """What a row is searched by: its id under the name of its side, its unit vector, its scope, whether it is a decoy."""

    def __init__(self, settings: SideSettings, side: str, decoys: bool | None) -> None:
        self._settings = settings
        self._id_name = SIDE_IDS[SIDES.index(side)]
        self._decoys = decoys

    def __call__(self, block: Block) -> Block:
        own = self._settings
        columns: dict[str, Any] = {self._id_name: id_array(block, own.id_column)}
        if own.scope is not None:
            columns[SCOPE] = block.column(own.scope).cast(pa.large_string()).fill_null("")
        if self._decoys is not None:
            columns[DECOY] = pa.array([self._decoys] * len(block))
        array = vectors_to_arrow(unit_vectors(block, own.embedding_column))
        field = pa.field(
            VECTOR, array.type, metadata=block.schema.field(own.embedding_column).metadata
        )
        return Block.from_pydict(columns).with_column(field, array)


def _unpaired(element: tuple[int, Iterable[Named]], id_column: str, own_id: str) -> Iterator[Block]:
    group = CoGroup(element)
    taken = [id_array(block, own_id) for block in group["pairs"]]
    for block in group["rows"]:
        left = (
            block.filter(pc.invert(pc.is_in(id_array(block, id_column), pa.concat_arrays(taken))))
            if taken
            else block
        )
        if left:
            Metrics.counter(NAMESPACE, "rows_left").inc(len(left))
            yield left


def _verdicts(copies: Block, id_column: str) -> Block:
    return Block(copies.batch.select([id_column, DUPLICATE_OF, SCORE]))
