"""Staged files are committed: all of a bounded collection at once, a stream or windows pane by pane.

    blocks --> StageFiles --> staged files -----------------------------------> commit once, when all are there
    blocks --> KeepLate --> StageFiles --> Panes --> NamePane --> Stable --> commit each pane under its own name

A commit is a function of the staged files and their `Pane`. It may be tried again after a crash at any moment, so every
commit has to give the same result when it runs twice. `Panes` groups the files of a pane; `Stable`, a second grouping,
makes them lasting: who tries again gets the same ones. `beam.Reshuffle` would do that too, but loses late elements on Beam
2.77's local runner of streams.
"""

import datetime
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

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.sinks.final_names import Pane, WrittenFile
from beam_gpte.sinks.staging import SpreadBlocks, StagedFile, StageFiles, StageShards

LATENESS_SECONDS = (
    30 * 86400
)  # rows that come later than this behind their window are dropped by Beam
WHOLE = Pane()

PaneFiles = tuple[Pane, list[StagedFile]]
Commit = Callable[[list[StagedFile], Pane], list[WrittenFile]]


def is_whole(blocks: beam.PCollection) -> bool:
    """Whether a collection is committed at once: bounded, and neither windowed nor triggered."""
    return bool(blocks.is_bounded and blocks.windowing.is_default())


def stage_and_commit(
    blocks: beam.PCollection[Block],
    stage: StageFiles,
    commit: Commit,
    commit_after: beam.PCollection | None,
    num_shards: int | None = None,
) -> beam.PCollection[WrittenFile]:
    """Stage all blocks, then call `commit` with all staged files; in a stream or windows, with those of each pane.

    Args:
      commit: repeatable; its order of arguments is sorted, so the same set gives the same call.
      num_shards: shuffle the blocks first, to stage so many files.
      commit_after: bounded; nothing is committed before it is complete; if computing it fails, nothing is.

    Raises:
      InputError: a stream has one endless window and no trigger, or `commit_after` is a stream.
    """
    sides = []
    if commit_after is not None:
        if not commit_after.is_bounded:
            raise InputError(
                "commit_after is a stream, which is never complete; give a bounded collection, or leave it out"
            )
        sides.append(
            beam.pvalue.AsIter(commit_after | "Barrier" >> beam.WindowInto(GlobalWindows()))
        )
    if is_whole(blocks):
        staged = _stage(blocks, stage, num_shards)
        return (
            blocks.pipeline
            | "Once" >> beam.Impulse()
            | "Commit"
            >> beam.ParDo(
                _CommitWhole(commit), beam.pvalue.AsIter(staged), *sides
            ).with_output_types(WrittenFile)
        )
    lasting = blocks | "KeepLate" >> _keep_late(blocks.windowing, blocks.is_bounded)
    return (
        _stage(lasting, stage, num_shards)
        | "Key" >> beam.Map(_keyed).with_output_types(tuple[int, StagedFile])
        | "Panes" >> beam.GroupByKey()
        | "NamePane" >> beam.Map(_name_pane).with_output_types(tuple[int, PaneFiles])
        | "AtOnce"
        >> beam.WindowInto(GlobalWindows(), Repeatedly(AfterCount(1)), AccumulationMode.DISCARDING)
        | "Stable" >> beam.GroupByKey()
        | "Commit" >> beam.ParDo(_CommitPanes(commit), *sides).with_output_types(WrittenFile)
    )


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
        return _counted(self._commit(_sorted(staged), WHOLE))


class _CommitPanes(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(
        self, group: tuple[int, Iterable[PaneFiles]], *barrier: Any
    ) -> Iterator[WrittenFile]:
        for pane, staged in group[1]:
            yield from _counted(self._commit(_sorted(staged), pane))


def _sorted(staged: Iterable[StagedFile]) -> list[StagedFile]:
    return sorted(staged, key=lambda file: file.path)


def _counted(written: list[WrittenFile]) -> list[WrittenFile]:
    Metrics.counter(NAMESPACE, "files_written").inc(len(written))
    Metrics.counter(NAMESPACE, "rows_written").inc(sum(file.rows for file in written))
    return written


def _keyed(staged: StagedFile) -> tuple[int, StagedFile]:
    return 0, staged


def _name_pane(
    group: tuple[int, Iterable[StagedFile]],
    window: Any = beam.DoFn.WindowParam,
    pane: Any = beam.DoFn.PaneInfoParam,
) -> tuple[int, PaneFiles]:
    return 0, (Pane(window_name(window), pane.index), list(group[1]))


def window_name(window: Any) -> str:
    """A window as part of a file's name: ``20261125T071200_20261125T071300`` (UTC), ``global`` for the endless one."""
    if isinstance(window, GlobalWindow):
        return "global"
    if not isinstance(window, IntervalWindow):
        raise InputError(
            f"a window of class {type(window).__name__} cannot be named; window by intervals of time"
        )
    return f"{_moment(window.start)}_{_moment(window.end)}"


def _moment(timestamp: Timestamp) -> str:
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=timestamp.micros)
    except OverflowError:  # rows without timestamps lie before all years
        return f"{timestamp.micros}us".replace("-", "minus")
    return moment.strftime("%Y%m%dT%H%M%S" + (".%f" if moment.microsecond else ""))


class _SameWindows(NonMergingWindowFn):
    """Leaves every element in the window it is in."""

    def __init__(self, coder: Coder) -> None:
        super().__init__()
        self._coder = coder

    def assign(self, assign_context: WindowFn.AssignContext) -> list:
        return [assign_context.window]

    def get_window_coder(self) -> Coder:
        return self._coder


def _keep_late(windowing: Windowing, is_bounded: bool) -> beam.WindowInto:
    """The same windows, fired as before, but discarding, and without an end to firing: no row is lost or comes twice.

    Raises:
      InputError: a stream has one endless window and no trigger, so it would never fire.
    """
    trigger = windowing.triggerfn
    if (
        not is_bounded
        and isinstance(windowing.windowfn, GlobalWindows)
        and isinstance(trigger, DefaultTrigger)
    ):
        raise InputError(
            "a stream in one endless window is never complete; put beam.WindowInto(FixedWindows(60)) or a trigger before"
        )
    return beam.WindowInto(
        _SameWindows(windowing.windowfn.get_window_coder()),
        trigger=_endless(trigger),
        accumulation_mode=AccumulationMode.DISCARDING,
        allowed_lateness=max(windowing.allowed_lateness, LATENESS_SECONDS),
    )


def _endless(trigger: TriggerFn) -> TriggerFn:
    if isinstance(trigger, AfterWatermark):
        return trigger if trigger.late else AfterWatermark(early=trigger.early, late=AfterCount(1))
    return trigger if isinstance(trigger, DefaultTrigger | Repeatedly) else Repeatedly(trigger)
