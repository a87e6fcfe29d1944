"""Prepare both sides of a search for comparison: `inputs | PrepareSides(settings, SIDES)`.

source --> Check --+
target --> Check --+--> by id: one row per id --> by text: one row per text --> Embed --> rows
decoys --> Check --+                                        |
                                                            +--> duplicates

rows, pairs --> by id: rows in no pair --> by text: one row per text --> rows    (`LeaveUnpaired`)

What meets by id: the rows with one id on a side, or a row and the pairs it is in. It is the first
shuffle, so there is none to ride on.
What meets by text: the rows with one text on a side, whole, so that they need not meet again to be
split. It cannot ride on the first: of rows with one id only one may be compared.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import (
    DECOY,
    DUPLICATES,
    MARKS,
    REJECT_STEP,
    REPRESENTATIVE,
    SCOPE,
    SIDE_IDS,
    TEXT_KEY,
    VECTOR,
    Columns,
    is_hidden,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.dedup.exact import key_hashes
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.rejects import (
    NAMESPACE,
    REJECTS,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.shuffle.group_by_id import CoGroup, Keyed, Named, frame_of, key_by_id
from beam_gpte.shuffle.unique_ids import duplicate_rows, id_array

_DECOYS = MARKS[2]
_REMOVED = "duplicates"  # the tag of removed rows


@dataclasses.dataclass(frozen=True)
class SideSettings:
    """Hold what both sides of a search have in common.

    Attributes:
      step: the transform that the user wrote, for rejects and errors.
      columns: of the ids, texts and vectors.
      scope: rows are compared only within the same value of this column; None for all.
      deduplicate: compare only one of the rows with the same text.
      model: embeds the rows without vectors; None if all have them.
      isolate: collect bad rows, instead of failing.
      source_model: embeds those of the source side; None if `model` does.
    """

    step: str
    columns: Columns
    scope: str | None = None
    deduplicate: bool = True
    model: Any = None
    isolate: bool = False
    source_model: Any = None


class Sides(NamedTuple):
    """Hold both sides, ready for comparison; each block is marked with its side, see `side_of`.

    Attributes:
      rows: blocks with vectors, one row for each text; of texts with several rows, `DUPLICATES`.
      duplicates: the other rows, with the id of their `REPRESENTATIVE`.
      rejects: bad rows, without a mark.
    """

    rows: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


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


def side_of(block: Block) -> int:
    """Return the side of a block of `Sides` or of its vectors: 0 for sources and decoys, else 1."""
    return int(MARKS[1] in block.schema.names)


def of_side(blocks: Iterable[Block], side: int) -> Iterator[Block]:
    """Choose the blocks of a side: 0 for sources, 1 for targets, 2 for decoys."""
    return (block for block in blocks if MARKS[side] in block.schema.names)


class OfSide:
    """Yield a block if it is of a side, see `of_side`."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, block: Block) -> Iterator[Block]:
        """Yield the block, or nothing."""
        return of_side([block], self._side)


@dataclasses.dataclass(eq=False)
class PrepareSides(beam.PTransform):
    """Check rows of any kind, keep one for each text, and embed those without vectors.

    Attributes:
      settings: of both sides.
      names: of the inputs that are the sources, the targets, and optionally decoys.
    """

    settings: SideSettings
    names: tuple[str, ...]

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Sides:
        """Return both sides."""
        settings = self.settings
        checked = [
            inputs[name] | f"Check_{name}" >> _CheckSide(settings, name, mark)
            for name, mark in zip(self.names, MARKS, strict=False)
            if name in inputs
        ]
        rejects = [part[REJECTS] for part in checked]
        by_id = (
            tuple(part.keyed for part in checked)
            | "BothSides" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
        )
        one_per_id = _OnePerId(settings, self.names)
        if settings.deduplicate:
            key = key_by_id(TEXT_KEY, one_per_id, rejects=Block).with_outputs(REJECTS, main="good")
            by_text, same_id = by_id | "OnePerId" >> key
            rows, duplicates = by_text | "Texts" >> _DistinctTexts(settings)
        else:
            rows, same_id = by_id | "OnePerId" >> reject_outputs(beam.FlatMap(one_per_id))
            none = beam.FlatMap(lambda block: ()).with_output_types(Block)
            duplicates = rows | "NoDuplicates" >> none
        if settings.isolate:
            rejects.append(same_id)
        if settings.model is not None:
            rows, more = self._embed(rows)
            rejects += more
        return Sides(rows, duplicates, merge_rejects(rejects))

    def _embed(
        self, rows: beam.PCollection[Block]
    ) -> tuple[beam.PCollection[Block], list[beam.PCollection[Block]]]:
        settings, columns = self.settings, self.settings.columns
        parts, models = {"": rows}, {"": settings.model}
        if settings.source_model is not None:
            models = dict(zip(self.names, (settings.source_model, settings.model), strict=True))
            parts = {
                name: rows | f"Only_{name}" >> beam.Filter(_has_mark, mark).with_output_types(Block)
                for name, mark in zip(models, MARKS, strict=False)
            }
        embedded, rejects = [], []
        for name, part in parts.items():
            embed = EmbedWhereMissing(
                models[name],
                columns.text,
                columns.id,
                columns.embedding,
                settings.isolate,
                settings.step,
            )
            good, bad = part | f"Embed{name}" >> embed
            embedded.append(good)
            if bad is not None:
                bare = beam.Map(_named_rejects, settings.step, self.names).with_output_types(Block)
                rejects.append(bad | f"Rejects{name}" >> bare)
        if len(embedded) == 1:
            return embedded[0], rejects
        return tuple(embedded) | "AllEmbedded" >> beam.Flatten(), rejects


@dataclasses.dataclass(eq=False)
class _CheckSide(beam.PTransform):
    """Mark the good rows of an input and key them by id."""

    settings: SideSettings
    name: str
    mark: str

    def expand(self, rows: beam.PCollection) -> Any:
        settings = self.settings
        check = _Check(settings, f"{settings.step} {self.name}", self.mark)
        key = key_by_id(settings.columns.id, check, rejects=Block)
        return as_blocks(rows) | key.with_outputs(REJECTS, main="keyed")


class _Check:
    """Yield the good rows of a block with the mark of their side, and rejects."""

    def __init__(self, settings: SideSettings, step: str, mark: str) -> None:
        self._settings = settings
        self._step = step
        self._mark = mark
        columns = settings.columns
        self._defects = VectorDefects(
            columns.embedding,
            () if settings.scope is None else (settings.scope,),
            columns.text if settings.model else None,
            columns.id,
            step,
        )

    def __call__(self, block: Block) -> Iterator[Any]:
        settings, id_column = self._settings, self._settings.columns.id
        reasons = [self._defects(block)]
        if settings.deduplicate:
            reasons.append(check_text(block, settings.columns.text, self._step))
        null = pc.is_null(id_array(block, id_column, self._step))
        reasons.append(pc.if_else(null, f"{id_column} is null", pa.scalar(None, pa.string())))
        for part in split_rejects(
            block, pc.coalesce(*reasons), self._step, settings.isolate, id_column
        ):
            yield part if isinstance(part, beam.pvalue.TaggedOutput) else marked(part, self._mark)


class _OnePerId:
    """Yield one row for each id of a side, with the key of its text, and rejects."""

    def __init__(self, settings: SideSettings, names: tuple[str, ...]) -> None:
        self._settings = settings
        self._names = names

    def __call__(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        settings, id_column = self._settings, self._settings.columns.id
        for side, name in enumerate(self._names):
            pieces = _Pieces(element[1], side)
            if not pieces:
                continue
            step = f"{settings.step} {name}"
            duplicate, start = duplicate_rows(pieces, id_column, step), 0
            for piece, _ in pieces:
                mask = pa.array(duplicate[start : start + len(piece)])
                reasons = pc.if_else(mask, "duplicate id", pa.scalar(None, pa.string()))
                start += len(piece)
                for part in split_rejects(piece, reasons, step, settings.isolate, id_column):
                    yield (
                        part
                        if isinstance(part, beam.pvalue.TaggedOutput)
                        else self._good(part, side)
                    )

    def _good(self, piece: Block, side: int) -> Block:
        piece = marked(piece, MARKS[side])
        return _with_key(piece, self._settings) if self._settings.deduplicate else piece


class _Pieces:
    """Iterate over the pieces of one side, without their mark; decoded anew in each iteration."""

    def __init__(self, blocks: Iterable[Block], side: int) -> None:
        self._blocks = blocks
        self._side = side

    def __iter__(self) -> Iterator[tuple[Block, int]]:
        for block in of_side(self._blocks, self._side):
            yield block.without_columns(MARKS), 0

    def __bool__(self) -> bool:
        return next(of_side(self._blocks, self._side), None) is not None


class _Distinct(NamedTuple):
    rows: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class _DistinctTexts(beam.PTransform):
    """Keep one row for each `TEXT_KEY` of a side, that with the smallest id."""

    settings: SideSettings

    @named_collections
    def expand(self, keyed: beam.PCollection[Keyed]) -> _Distinct:
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        keep = beam.FlatMap(_one_per_text, self.settings.columns.id)
        keep = keep.with_output_types(Block, duplicates=Block).with_outputs(_REMOVED, main="rows")
        parts = keyed | "ByText" >> beam.GroupByKey() | "OnePerText" >> keep
        return _Distinct(parts.rows, parts[_REMOVED])


def _one_per_text(element: tuple[int, Iterable[Block]], id_column: str) -> Iterator[Any]:
    """Yield the rows kept, with `DUPLICATES`, and the others, with `REPRESENTATIVE`.

    A worker holds the ids and keys of a partition, and one block of rows at a time.
    """
    for side in range(len(MARKS)):
        frames = [_compared(block, id_column) for block in of_side(element[1], side)]
        if not frames:
            continue
        rows = pl.concat(frames, how="diagonal_relaxed")
        first = pl.col(id_column).min().over(TEXT_KEY).alias(REPRESENTATIVE)
        rows = rows.with_columns(first)
        removed = rows.filter(pl.col(id_column) != pl.col(REPRESENTATIVE))
        if not len(removed):
            yield from (block.without_columns([TEXT_KEY]) for block in of_side(element[1], side))
            continue
        lists = _lists(rows, removed, id_column)
        for block in of_side(element[1], side):
            yield from _split_by_text(block.without_columns([TEXT_KEY]), removed, lists, id_column)


def _compared(block: Block, id_column: str) -> pl.DataFrame:
    names = [name for name in (TEXT_KEY, DUPLICATES) if name in block.schema.names]
    columns = {name: block.column(name) for name in names}
    return frame_of([Block.from_pydict({id_column: id_array(block, id_column), **columns})])


def _lists(rows: pl.DataFrame, removed: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """List all that each kept row represents: frame of `REPRESENTATIVE`, `DUPLICATES`."""
    parts = [removed.select(REPRESENTATIVE, pl.col(id_column).alias(DUPLICATES))]
    if DUPLICATES in rows.columns:
        earlier = rows.select(REPRESENTATIVE, DUPLICATES).explode(DUPLICATES)
        parts.append(earlier.drop_nulls())
    return pl.concat(parts).group_by(REPRESENTATIVE).agg(pl.col(DUPLICATES).sort())


def _split_by_text(
    block: Block, removed: pl.DataFrame, lists: pl.DataFrame, id_column: str
) -> Iterator[Any]:
    ids = id_array(block, id_column)
    position = pc.index_in(ids, removed[id_column].to_arrow().cast(ids.type))
    if position.null_count < len(position):
        of = removed[REPRESENTATIVE].to_arrow().take(position.drop_null())
        rows = block.filter(position.is_valid())
        Metrics.counter(NAMESPACE, "removed").inc(len(rows))
        yield beam.pvalue.TaggedOutput(
            _REMOVED, rows.with_column(pa.field(REPRESENTATIVE, of.type), of)
        )
    kept = block.filter(position.is_null())
    if kept:
        at = pc.index_in(id_array(kept, id_column), lists[REPRESENTATIVE].to_arrow().cast(ids.type))
        values = lists[DUPLICATES].to_arrow().take(at)
        yield kept.with_column(pa.field(DUPLICATES, values.type), values)


class RowsAndPairs(NamedTuple):
    """Hold marked rows of both sides, and blocks of pairs that name some of them."""

    rows: beam.PCollection[Block]
    pairs: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class LeaveUnpaired(beam.PTransform):
    """Leave the rows of both sides that are in no pair, and the decoys.

    Texts are compared again, whatever their scope, since rows of two scopes may have the same text;
    those of decoys, which count by scope, are not.

    Attributes:
      settings: of both sides.
    """

    settings: SideSettings

    @named_collections
    def expand(self, inputs: RowsAndPairs) -> beam.PCollection[Block]:
        """Return the rows left."""
        id_column = self.settings.columns.id
        by_id = (
            (
                inputs.rows | "KeyRows" >> key_by_id(id_column, name="rows"),
                inputs.pairs | "KeyPairs" >> key_by_id(id_column, _Paired(id_column), "pairs"),
            )
            | "RowsAndPairs" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
        )
        left = _Unpaired(self.settings)
        if not self.settings.deduplicate:
            return by_id | "Unpaired" >> beam.FlatMap(left).with_output_types(Block)
        keyed = by_id | "Unpaired" >> key_by_id(TEXT_KEY, left)
        return (keyed | "Texts" >> _DistinctTexts(self.settings)).rows


class _Paired:
    """Yield the ids of both rows of pairs, with the marks of their sides."""

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def __call__(self, pairs: Block) -> Iterator[Block]:
        for name, mark in zip(SIDE_IDS, MARKS, strict=False):
            yield marked(Block.from_pydict({self._id_column: id_array(pairs, name)}), mark)


class _Unpaired:
    """Yield the rows that no pair names, with the key of their text if texts are compared."""

    def __init__(self, settings: SideSettings) -> None:
        self._settings = settings

    def __call__(self, element: tuple[int, Iterable[Named]]) -> Iterator[Block]:
        group, id_column = CoGroup(element), self._settings.columns.id
        for side, mark in enumerate(MARKS):
            paired = [id_array(block, id_column) for block in of_side(group["pairs"], side)]
            for block in of_side(group["rows"], side):
                left = block
                if paired:
                    ids = id_array(block, id_column)
                    left = block.filter(pc.invert(pc.is_in(ids, pa.concat_arrays(paired))))
                if left:
                    if mark != _DECOYS:
                        Metrics.counter(NAMESPACE, "rows_left").inc(len(left))
                    yield self._with_key(left, mark)

    def _with_key(self, block: Block, mark: str) -> Block:
        settings = self._settings
        if not settings.deduplicate:
            return block
        if mark != _DECOYS:
            settings = dataclasses.replace(settings, scope=None)
        return _with_key(block, settings)


class SearchColumns:
    """Select what a row is searched by: id under its side's name, unit vector, scope, decoy.

    Gives blocks of `source_id` or `target_id`, `VECTOR`, the mark of the side, `SCOPE` if rows are
    compared only within one, and of sources `DECOY` if there are decoys.
    """

    def __init__(self, settings: SideSettings, scoped: bool, has_decoys: bool = False) -> None:
        self._settings = settings
        self._scoped = scoped
        self._has_decoys = has_decoys

    def __call__(self, block: Block) -> Block:
        """Return the columns of a marked block."""
        names, side = self._settings.columns, side_of(block)
        columns: dict[str, Any] = {SIDE_IDS[side]: id_array(block, names.id)}
        if self._scoped:
            assert self._settings.scope is not None
            scopes = block.column(self._settings.scope)
            columns[SCOPE] = scopes.cast(pa.large_string()).fill_null("")
        if self._has_decoys and side == 0:
            columns[DECOY] = pa.array([_DECOYS in block.schema.names] * len(block))
        array = vectors_to_arrow(unit_vectors(block, names.embedding))
        metadata = block.schema.field(names.embedding).metadata
        field = pa.field(VECTOR, array.type, metadata=metadata)
        return marked(Block.from_pydict(columns).with_column(field, array), MARKS[side])


def marked(block: Block, mark: str) -> Block:
    """Mark the rows of a block as those of a side, by one of `MARKS`."""
    return block.with_column(pa.field(mark, pa.null()), pa.nulls(len(block)))


def _has_mark(block: Block, mark: str) -> bool:
    return mark in block.schema.names


def _with_key(block: Block, settings: SideSettings) -> Block:
    scopes = () if settings.scope is None else (settings.scope,)
    compared = (settings.columns.text, *scopes)
    hashes = key_hashes(_selected(block, compared), compared, texts=True)
    return block.with_column(pa.field(TEXT_KEY, hashes.type), hashes)


def _selected(block: Block, names: tuple[str, ...]) -> pl.DataFrame:
    present = [name for name in dict.fromkeys(names) if name in block.schema.names]
    return frame_of([Block(block.batch.select(present))])


def _named_rejects(block: Block, step: str, names: tuple[str, ...]) -> Block:
    """Name the input in rejects, and drop what is hidden."""
    side = next(i for i in range(len(MARKS)) if _has_mark(block, MARKS[i]))
    steps = pa.array([f"{step} {names[side]}"] * len(block), pa.string())
    hidden = [name for name in (*MARKS, DUPLICATES, TEXT_KEY) if is_hidden(name)]
    return block.with_column(pa.field(REJECT_STEP, pa.string()), steps).without_columns(hidden)
