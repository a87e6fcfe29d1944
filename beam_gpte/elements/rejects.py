"""Separate bad rows from good ones, each with the step that rejected it and the reason.

A transform that can reject rows derives from `RejectingTransform`. By default a bad row fails the
job with a message that names it; after Beam's own `with_exception_handling()` the transform returns
two collections, `good, rejects = corpus | Transform(...).with_exception_handling()`, and one bad
row costs one row, never its block.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT, REJECT_REASON, REJECT_STEP
from beam_gpte.core.errors import MAX_MESSAGE, InputError, brief_message, shown
from beam_gpte.core.python_values import python_values
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames

NAMESPACE = "beam_gpte"  # of every counter and distribution
REJECTS = "rejects"  # the tag of the second output

T = TypeVar("T", bound="RejectingTransform")


class GoodAndRejects(NamedTuple):
    """Hold what a `RejectingTransform` returns after `with_exception_handling()`."""

    good: beam.PCollection
    rejects: beam.PCollection


class RejectingTransform(TakesFrames):
    """Fail the job at a bad row, or collect bad rows after `with_exception_handling()`.

    This class is the only implementation of `with_exception_handling()`. A subclass reads
    `_isolate` and puts `step` in its errors and rejects.
    """

    _gives_rows = True
    _isolate = False
    _user_step: str | None = None

    @property
    def step(self) -> str:
        """The transform that errors and rejects name: this one, unless it is part of another."""
        return self._user_step or type(self).__name__

    def with_exception_handling(self: T) -> T:
        """Return `(good, rejects)` instead of failing at the first bad row."""
        clone = copy.copy(self)
        clone._isolate = True
        return clone

    def as_part_of(self: T, step: str) -> T:
        """Name `step`, the transform that the user wrote, in errors and rejects."""
        clone = copy.copy(self)
        clone._user_step = step
        return clone


def split_rejects(
    block: Block, reasons: pa.Array, step: str, isolate: bool, id_column: str | None
) -> Iterator[Block | beam.pvalue.TaggedOutput]:
    """Yield the rows of `block` without a reason, then, tagged, the rows with one.

    Args:
      block: the rows.
      reasons: string array as long as the block, null where a row is good.
      step: the transform that the user wrote.
      isolate: False raises for the first bad row.
      id_column: names the row in the message, if the block has it.

    Raises:
      InputError: a row is bad and `isolate` is False.
    """
    bad = pc.is_valid(reasons)
    if reasons.null_count == len(reasons):
        yield block
        return
    rejected, why = block.filter(bad), _brief(reasons.filter(bad))
    if not isolate:
        raise InputError(
            f"{step}: {row_name(rejected, id_column)}: {why[0]}; "
            "fix the row, or collect such rows with .with_exception_handling() "
            "(error_handling in YAML)"
        )
    check_reject_columns(block.schema.names, step)
    for entry in pc.value_counts(why).to_pylist():
        count_reject(entry["values"], entry["counts"])
    good = block.filter(pc.invert(bad))
    if good:
        yield good
    steps = pa.array([step] * len(why), pa.string())
    rejected = rejected.with_column(pa.field(REJECT_STEP, pa.string()), steps)
    yield beam.pvalue.TaggedOutput(
        REJECTS, rejected.with_column(pa.field(REJECT_REASON, pa.string()), why)
    )


def _brief(reasons: pa.Array) -> pa.Array:
    """Cut reasons that hold a long value."""
    if pc.max(pc.utf8_length(reasons)).as_py() <= MAX_MESSAGE:
        return reasons
    return pa.array([brief_message(reason) for reason in reasons.to_pylist()], reasons.type)


def check_reject_columns(present: Iterable[str], step: str) -> None:
    """Refuse rows that have a column of rejects already.

    Raises:
      InputError: they have; names it.
    """
    for name in (REJECT_STEP, REJECT_REASON):
        if name in present:
            raise InputError(
                f"{step}: a column {name!r} is there already, which rejects get; "
                "rename or drop it before"
            )


def split_defects(
    block: Block, step: str, id_column: str | None, added: Sequence[str] = ()
) -> Iterator[Any]:
    """Yield the rows that a model could take, then, tagged, those with a reason in `DEFECT`.

    Args:
      block: the rows.
      step: the transform that rejects name.
      id_column: names rows in messages; None if there is none.
      added: columns of the model's, which rejects do not have.
    """
    if DEFECT not in block.schema.names:
        yield block
        return
    rows, reasons = block.without_columns([DEFECT]), block.column(DEFECT)
    for part in split_rejects(rows, reasons, step, True, id_column):
        if isinstance(part, beam.pvalue.TaggedOutput):
            part.value = part.value.without_columns(added)
        yield part


def count_reject(reason: str, n: int = 1) -> None:
    """Count `n` rejects in total and under their reason (the text before the first colon)."""
    Metrics.counter(NAMESPACE, "rejects").inc(n)
    Metrics.counter(NAMESPACE, "rejects: " + reason.split(":")[0]).inc(n)


def reject_outputs(transform: beam.PTransform) -> Any:
    """Give `transform`, a ParDo, the outputs `good` and `rejects`, both typed as blocks."""
    # in this order: types given after with_outputs are forgotten, and blocks would be pickled
    return transform.with_output_types(Block, rejects=Block).with_outputs(REJECTS, main="good")


def merge_rejects(parts: Iterable[beam.PCollection[Block]]) -> beam.PCollection[Block]:
    """Flatten the rejects of several steps into one collection."""
    return tuple(parts) | "MergeRejects" >> beam.Flatten()


def row_name(rows: Block, id_column: str | None) -> str:
    """Name the first of `rows` in a message."""
    if id_column is not None and id_column in rows.schema.names:
        return f"row with {id_column} {shown(python_values(rows.column(id_column)[:1])[0])}"
    return "a row"
