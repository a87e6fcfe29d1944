"""Commit staged files: a bounded collection at once, a stream or windows pane by pane.

    blocks --> (Shards) --> StageFiles --> staged files --> commit once, after all are staged
    blocks --> KeepLate --> (Shards) --> StageFiles --> Panes --> NamePane --> Stable --> commit
                                                                                      each pane

What meets in Shards: the blocks of a file, only if a number of files is asked for.
What meets in Panes: the staged files of a pane, which no step before has seen together.
What meets in Stable: the same files again; a shuffle of its own, since it has to follow Panes.

A commit is a function of the staged files and their `Pane`, which names the files that it makes. It
may be retried after a crash at any moment, so running it twice has to give the same result as
running it once. `Panes` groups the files of a pane; `Stable`, a second grouping, makes these groups
durable, so that a retry gets the same files. `beam.Reshuffle` would do that too, but it loses late
elements on the local streaming runner of Beam 2.77.
"""

import datetime
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterCount,
    AfterWatermark,
    DefaultTrigger,
    Repeatedly,
    TriggerFn,
)
from apache_beam.transforms.window import (
    GlobalWindow,
    GlobalWindows,
    IntervalWindow,
    NonMergingWindowFn,
    WindowFn,
)
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.sinks.final_names import Pane, WrittenFile
from beam_gpte.sinks.staging import SpreadBlocks, StagedFile, StageFiles, StageShards

LATENESS_SECONDS = 30 * 86400  # Beam drops rows that arrive later than this after their window
WHOLE = Pane()  # a bounded collection, committed at once

PaneFiles = tuple[Pane, list[StagedFile]]
Commit = Callable[[list[StagedFile], Pane], list[WrittenFile]]


def is_whole(blocks: beam.PCollection) -> bool:
    """Return whether a collection is committed at once: bounded, not windowed, no trigger."""
    return bool(blocks.is_bounded and blocks.windowing.is_default())


def stage_and_commit(
    step: str,
    blocks: beam.PCollection[Block],
    stage: StageFiles,
    commit: Commit,
    commit_after: beam.PCollection | None,
    num_shards: int | None = None,
) -> beam.PCollection[WrittenFile]:
    """Stage all blocks, then commit all files at once, or, of a stream or windows, pane by pane.

    Args:
      step: the transform that the user wrote, for errors.
      blocks: the rows to write.
      stage: writes blocks to files in a temporary folder.
      commit: repeatable; it gets the files sorted, so the same set of files gives the same call.
      commit_after: bounded; nothing is committed before it is complete, and nothing at all if
        computing it fails.
      num_shards: shuffle the blocks first, to stage this number of files.

    Raises:
      InputError: a stream is in the global window without a trigger, or `commit_after` is a stream.
    """
    with naming(step):
        barrier = [] if commit_after is None else [_barrier(commit_after)]
    named_commit = InStep(step, commit)
    if is_whole(blocks):
        staged = _stage(blocks, stage, num_shards)
        return (
            blocks.pipeline
            | "Once" >> beam.Impulse()
            | "Commit"
            >> beam.ParDo(
                _CommitWhole(named_commit), beam.pvalue.AsIter(staged), *barrier
            ).with_output_types(WrittenFile)
        )
    with naming(step):
        keep_late = _keep_late(blocks.windowing, blocks.is_bounded)
    with_late = blocks | "KeepLate" >> keep_late
    firing_at_once = beam.WindowInto(
        GlobalWindows(), Repeatedly(AfterCount(1)), AccumulationMode.DISCARDING
    )
    return (
        _stage(with_late, stage, num_shards)
        | "Key" >> beam.Map(_add_key).with_output_types(tuple[int, StagedFile])
        | "Panes" >> beam.GroupByKey()
        | "NamePane" >> beam.ParDo(_NamePane(step)).with_output_types(tuple[int, PaneFiles])
        | "AtOnce" >> firing_at_once
        | "Stable" >> beam.GroupByKey()
        | "Commit"
        >> beam.ParDo(_CommitPanes(named_commit), *barrier).with_output_types(WrittenFile)
    )


def _barrier(commit_after: beam.PCollection) -> beam.pvalue.AsIter:
    """Make a side input that is ready once `commit_after` is complete."""
    if not commit_after.is_bounded:
        raise InputError(
            "commit_after is a stream, which never completes; give a bounded collection, or omit it"
        )
    return beam.pvalue.AsIter(commit_after | "Barrier" >> beam.WindowInto(GlobalWindows()))


def _stage(
    blocks: beam.PCollection[Block], stage: StageFiles, num_shards: int | None
) -> beam.PCollection[StagedFile]:
    if num_shards is None:
        return blocks | "Stage" >> beam.ParDo(stage).with_output_types(StagedFile)
    return (
        blocks
        | "Shard" >> beam.ParDo(SpreadBlocks(num_shards)).with_output_types(tuple[int, Block])
        | "Shards" >> beam.GroupByKey()
        | "Stage" >> beam.ParDo(StageShards(stage)).with_output_types(StagedFile)
    )


class _CommitWhole(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(self, _: bytes, staged: Iterable[StagedFile], *barrier: Any) -> list[WrittenFile]:
        return _count(self._commit(_sort(staged), WHOLE))


class _CommitPanes(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(
        self, group: tuple[int, Iterable[PaneFiles]], *barrier: Any
    ) -> Iterator[WrittenFile]:
        for pane, staged in group[1]:
            yield from _count(self._commit(_sort(staged), pane))


def _sort(staged: Iterable[StagedFile]) -> list[StagedFile]:
    return sorted(staged, key=lambda file: file.path)


def _count(written: list[WrittenFile]) -> list[WrittenFile]:
    Metrics.counter(NAMESPACE, "files_written").inc(len(written))
    Metrics.counter(NAMESPACE, "rows_written").inc(sum(file.rows for file in written))
    return written


def _add_key(staged: StagedFile) -> tuple[int, StagedFile]:
    return 0, staged


class _NamePane(beam.DoFn):
    def __init__(self, step: str) -> None:
        self._step = step

    def process(
        self,
        group: tuple[int, Iterable[StagedFile]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[tuple[int, PaneFiles]]:
        with naming(self._step):
            name = window_name(window)
        yield 0, (Pane(name, pane.index), list(group[1]))


def warn_of_no_rows(place: str) -> None:
    """Log that an empty collection does not replace what is in `place`."""
    logging.getLogger(__name__).warning(
        '%s: no rows arrived, so what is there stays; mode="mirror" would empty it', place
    )


def window_name(window: Any) -> str:
    """Name a window in file names: ``20261125T071200_20261125T071300`` (UTC), or ``global``."""
    if isinstance(window, GlobalWindow):
        return "global"
    if not isinstance(window, IntervalWindow):
        raise InputError(
            f"a window of class {type(window).__name__} cannot name a file; use windows that are "
            "intervals of time, such as beam.window.FixedWindows(60)"
        )
    return f"{_format_time(window.start)}_{_format_time(window.end)}"


def _format_time(timestamp: Timestamp) -> str:
    try:
        time = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=timestamp.micros)
    except OverflowError:  # rows without timestamps lie before the year 1
        return f"{timestamp.micros}us".replace("-", "minus")
    return time.strftime("%Y%m%dT%H%M%S" + (".%f" if time.microsecond else ""))


class _SameWindows(NonMergingWindowFn):
    """Leave every element in its window."""

    def __init__(self, coder: Coder) -> None:
        super().__init__()
        self._coder = coder

    def assign(self, assign_context: WindowFn.AssignContext) -> list:
        return [assign_context.window]

    def get_window_coder(self) -> Coder:
        return self._coder


def _keep_late(windowing: Windowing, is_bounded: bool) -> beam.WindowInto:
    """Keep windows and trigger, but discard fired rows and never stop firing.

    So no row is lost, and none is in two panes.

    Raises:
      InputError: a stream is in the global window without a trigger, so it would never fire.
    """
    trigger = windowing.triggerfn
    if (
        not is_bounded
        and isinstance(windowing.windowfn, GlobalWindows)
        and isinstance(trigger, DefaultTrigger)
    ):
        raise InputError(
            "a stream in the global window never completes; "
            "add beam.WindowInto(FixedWindows(60)) or a trigger before the sink"
        )
    return beam.WindowInto(
        _SameWindows(windowing.windowfn.get_window_coder()),
        trigger=_fire_forever(trigger),
        accumulation_mode=AccumulationMode.DISCARDING,
        allowed_lateness=max(windowing.allowed_lateness, LATENESS_SECONDS),
    )


def _fire_forever(trigger: TriggerFn) -> TriggerFn:
    if isinstance(trigger, AfterWatermark):
        return trigger if trigger.late else AfterWatermark(early=trigger.early, late=AfterCount(1))
    return trigger if isinstance(trigger, DefaultTrigger | Repeatedly) else Repeatedly(trigger)
