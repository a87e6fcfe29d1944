"""Prepare both sides of a search for comparison: `inputs | PrepareSides(settings, SIDES)`.

source --> Check --+
target --> Check --+--> ids by id: one row per id, or the job fails
decoys --> Check --+--> rows by text: one row per text --> Embed --> rows
                                              |
                                              +--> duplicates

... --> Check --> by id: one row per id, and rejects --> by text --> the same       (`isolate`)

... --> Check --+-------------------------------------------------------> rows      (`ids_apart`)
                +--> ids --> by id: one row per id, or the job fails

What meets by id: the rows with one id on a side, or their ids alone. Nothing was shuffled before
that it could ride on. By text: see `shuffle.marked_rows`, and `shuffle.ids_and_texts`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import (
    DUPLICATES,
    MARKS,
    REJECT_STEP,
    SIDE_IDS,
    TEXT_KEY,
    Columns,
)
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text, step_error
from beam_gpte.elements.rejects import (
    REJECTS,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects
from beam_gpte.embedding.models import as_model
from beam_gpte.shuffle.group_by_id import Keyed, key_by_id
from beam_gpte.shuffle.ids_and_texts import DistinctIdsAndTexts, KeyIdsAndTexts, check_unique
from beam_gpte.shuffle.marked_rows import DistinctTexts, OnePerId, has_mark, marked
from beam_gpte.shuffle.unique_ids import id_array, named_type

# Metadata of a column of ids that are compared as another type.
_ID_TYPE = b"beam_gpte.id_type"


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
      named_after_sides: whether pairs get all columns of both rows, whose names must not clash.
    """

    step: str
    columns: Columns
    scope: str | None = None
    deduplicate: bool = True
    model: Any = None
    isolate: bool = False
    source_model: Any = None
    named_after_sides: bool = True

    def compared(self) -> tuple[str, ...]:
        """Name the columns that duplicates share; none if they are not looked for."""
        if not self.deduplicate:
            return ()
        return (self.columns.text,) if self.scope is None else (self.columns.text, self.scope)


class Sides(NamedTuple):
    """Hold both sides, ready for comparison; each block is marked with its side, see `side_of`.

    Attributes:
      rows: blocks with vectors, one row for each text; of texts with several rows, `DUPLICATES`.
      duplicates: the other rows, with the id of their `REPRESENTATIVE`.
      rejects: bad rows, without a mark.
      unique: empty, and complete once ids have been compared apart from rows, for who waits for
        that; None where rows were compared.
    """

    rows: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]
    rejects: beam.PCollection[Block]
    unique: beam.PCollection[Block] | None = None


def check_models(model: Any, query_model: Any) -> None:
    """Refuse models that documents and queries cannot be searched with."""
    if query_model is not None and model is None:
        raise InputError("query_model without model; give the documents' model too")
    for one in (model, query_model):
        if one is not None:
            check_one_row(as_model(one))


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
    return int(has_mark(block, MARKS[1]))


def with_id_type(ids: pa.Array, name: str, kind: pa.DataType) -> pa.Field:
    """Make the field of a side's ids, which remembers their type in the rows."""
    data = pa.schema([("", named_type(kind))]).serialize().to_pybytes()
    # in hexadecimal, since Polars reads metadata as UTF-8
    return pa.field(name, ids.type, metadata={_ID_TYPE: data.hex()})


def id_type_of(block: Block) -> frozenset[bytes]:
    """Return what `with_id_type` put into a block of vectors, for `shuffle.id_types`."""
    name = SIDE_IDS[side_of(block)]
    if name not in block.schema.names:  # sentences of documents, which are compared in their order
        return frozenset()
    metadata = block.schema.field(name).metadata or {}
    return frozenset([bytes.fromhex(metadata[_ID_TYPE].decode())] if _ID_TYPE in metadata else [])


@dataclasses.dataclass(eq=False)
class PrepareSides(beam.PTransform):
    """Check rows of any kind, keep one for each text, and embed those without vectors.

    Attributes:
      settings: of both sides.
      names: of the inputs that are the sources, the targets, and optionally decoys.
      ids_apart: shuffle only the ids of rows that all have vectors and of which none is dropped:
        a row of 384 dimensions has 1.5 KB.
    """

    settings: SideSettings
    names: tuple[str, ...]
    ids_apart: bool = False

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Sides:
        """Return both sides."""
        settings = self.settings
        may_drop = settings.isolate or settings.deduplicate
        apart = self.ids_apart and not may_drop and settings.model is None
        checked = [
            inputs[name] | f"Check_{name}" >> _CheckSide(settings, name, mark, apart)
            for name, mark in zip(self.names, MARKS, strict=False)
            if name in inputs
        ]
        rejects = [part[REJECTS] for part in checked]
        keyed = tuple(part.keyed for part in checked) | "BothSides" >> beam.Flatten()
        steps = tuple(f"{settings.step} {name}" for name in self.names)
        id_column, distinct = settings.columns.id, settings.deduplicate and not settings.isolate
        compared = () if distinct else settings.compared()
        one_per_id = OnePerId(id_column, steps, settings.isolate, compared)
        if apart:
            rows = tuple(part.rows for part in checked) | "Rows" >> beam.Flatten()
            check = beam.FlatMap(_check_unique, one_per_id).with_output_types(Block)
            unique = keyed | "ById" >> beam.GroupByKey() | "Unique" >> check
            return Sides(rows, unique, merge_rejects(rejects), unique)
        if distinct:
            rows, duplicates = keyed | "Distinct" >> DistinctIdsAndTexts(one_per_id, id_column)
        else:
            rows, duplicates, same_id = self._one_per_id(keyed, one_per_id)
            rejects += [same_id] if settings.isolate else []
        if settings.model is not None:
            rows, more = self._embed(rows)
            rejects += more
        return Sides(rows, duplicates, merge_rejects(rejects))

    def _one_per_id(
        self, keyed: beam.PCollection[Keyed], one_per_id: OnePerId
    ) -> tuple[beam.PCollection[Block], beam.PCollection[Block], beam.PCollection[Block]]:
        """Return rows, duplicates, and the rows with the id of another."""
        by_id = keyed | "ById" >> beam.GroupByKey()
        if not self.settings.deduplicate:
            rows, same_id = by_id | "OnePerId" >> reject_outputs(beam.FlatMap(one_per_id))
            none = beam.FlatMap(lambda block: ()).with_output_types(Block)
            return rows, rows | "NoDuplicates" >> none, same_id
        key = key_by_id(TEXT_KEY, one_per_id, rejects=Block).with_outputs(REJECTS, main="good")
        by_text, same_id = by_id | "OnePerId" >> key
        rows, duplicates = by_text | "Texts" >> DistinctTexts(self.settings.columns.id)
        return rows, duplicates, same_id

    def _embed(
        self, rows: beam.PCollection[Block]
    ) -> tuple[beam.PCollection[Block], list[beam.PCollection[Block]]]:
        settings, columns = self.settings, self.settings.columns
        parts, models = {"": rows}, {"": settings.model}
        if settings.source_model is not None:
            models = dict(zip(self.names, (settings.source_model, settings.model), strict=True))
            parts = {
                name: rows | f"Only_{name}" >> beam.Filter(has_mark, mark).with_output_types(Block)
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
    ids_apart: bool

    def expand(self, rows: beam.PCollection) -> Any:
        settings = self.settings
        check = _Check(settings, f"{settings.step} {self.name}", self.mark)
        id_column = settings.columns.id
        blocks = as_blocks(rows, step=check.step)
        if self.ids_apart:
            check_apart = functools.partial(_ids_apart, check=check, id_column=id_column)
            key = key_by_id(id_column, check_apart, rows=Block, rejects=Block)
            return blocks | key.with_outputs("rows", REJECTS, main="keyed")
        if settings.deduplicate and not settings.isolate:
            key = beam.ParDo(KeyIdsAndTexts(check, id_column, settings.compared()))
            key = key.with_output_types(Keyed, rejects=Block)
        else:
            key = key_by_id(id_column, check, rejects=Block)
        return blocks | key.with_outputs(REJECTS, main="keyed")


def _ids_apart(block: Block, check: "_Check", id_column: str) -> Iterator[Any]:
    """Yield the good rows of a block with the tag ``rows``, and their ids."""
    for part in check(block):
        if isinstance(part, beam.pvalue.TaggedOutput):
            yield part
        else:
            yield beam.pvalue.TaggedOutput("rows", part)
            dropped = set(part.schema.names) - {id_column, *MARKS}
            yield part.without_columns(dropped)


def _check_unique(element: tuple[int, Iterable[Block]], check: OnePerId) -> Iterator[Block]:
    """Fail if rows of a side share an id; yield nothing."""
    check_unique(element, check)
    yield from ()


class _Check:
    """Yield the good rows of a block with the mark of their side, and rejects."""

    def __init__(self, settings: SideSettings, step: str, mark: str) -> None:
        self._settings = settings
        self.step = step
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
        if settings.named_after_sides:
            _check_names(block, settings.columns, self.step)
        reasons = [self._defects(block)]
        if settings.deduplicate:
            _check_has_text(block, settings.columns.text, self.step)
            reasons.append(check_text(block, settings.columns.text, self.step))
        null = pc.is_null(id_array(block, id_column, self.step))
        reasons.append(pc.if_else(null, f"{id_column} is null", pa.scalar(None, pa.string())))
        for part in split_rejects(
            block, pc.coalesce(*reasons), self.step, settings.isolate, id_column
        ):
            yield part if isinstance(part, beam.pvalue.TaggedOutput) else marked(part, self._mark)


def _check_has_text(block: Block, text: str, step: str) -> None:
    """Refuse rows without texts, such as images, where those of one text are to be found."""
    if text not in block.schema.names:
        raise step_error(
            step,
            f"no column {text!r} among {', '.join(block.schema.names)}, by which rows of one text "
            "are found; name it by columns, or set deduplicate=False of PairOptions or Comparison",
        )


def _check_names(block: Block, columns: Columns, step: str) -> None:
    """Refuse columns whose names in pairs, as `source_text`, are those of other columns there.

    Raises:
      InputError: there is one; names it.
    """
    taken = {"id": columns.id, "text": columns.text, "duplicates": None}
    for name, own in taken.items():
        if name in block.schema.names and name != own:
            besides = "" if own is None else f" besides {own!r}"
            raise step_error(
                step,
                f"a column {name!r}{besides} would be another column of the pairs; rename or drop "
                "it before",
            )


def _named_rejects(block: Block, step: str, names: tuple[str, ...]) -> Block:
    """Name the input in rejects, and drop what is hidden."""
    side = next(i for i, mark in enumerate(MARKS) if has_mark(block, mark))
    steps = pa.array([f"{step} {names[side]}"] * len(block), pa.string())
    named = block.with_column(pa.field(REJECT_STEP, pa.string()), steps)
    return named.without_columns([*MARKS, DUPLICATES])
