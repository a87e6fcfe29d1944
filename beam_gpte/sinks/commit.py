"""Commit staged files: a bounded collection at once, a stream or windows pane by pane.

    blocks --> (Shards) --> StageFiles --> staged files --> commit once, after all are staged
    blocks --> (Shards) --> StageFiles --> Panes --> NamePane --> Stable --> commit each pane

What meets in Shards: the blocks of a file, only if a number of files is asked for.
What meets in Panes: the staged files of a pane, which no step before has seen together.
What meets in Stable: the same files again; a shuffle of its own, since it has to follow Panes.

A commit is a function of the staged files and their `Pane`, which names the files that it makes. It
may be retried after a crash at any moment, so running it twice has to give the same result as
running it once. `Panes` groups the files of a pane; `Stable`, a second grouping, makes these groups
durable, so that a retry gets the same files. `beam.Reshuffle` would do that too, but it loses late
elements on the local streaming runner of Beam 2.77.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.meter import report_commit
from beam_gpte.sinks.final_names import Pane, WrittenFile
from beam_gpte.sinks.panes import InWindows, is_whole, pane_windowing, window_name
from beam_gpte.sinks.runs.outputs import Output, add_output, check_outputs
from beam_gpte.sinks.runs.owner import OwnedCommit, owner_of
from beam_gpte.sinks.staging import SpreadBlocks, StagedFile, StageFiles, StageShards

WHOLE = Pane()  # a bounded collection, committed at once

PaneFiles = tuple[Pane, list[StagedFile]]
Commit = Callable[..., list[WrittenFile]]  # of list[StagedFile], Pane, and what is beside them


def stage_and_commit(
    step: str,
    blocks: beam.PCollection[Block],
    stage: StageFiles,
    commit: Commit,
    output: Output,
    num_shards: int | None = None,
    beside: beam.PTransform | None = None,
) -> beam.PCollection[WrittenFile]:
    """Stage all blocks, then commit all files at once, or, of a stream or windows, pane by pane.

    Args:
      step: the transform that the user wrote, for errors.
      blocks: the rows to write.
      stage: writes blocks to files in a temporary folder.
      commit: repeatable; it gets the files sorted, so the same set of files gives the same call.
      output: where it writes, and what it waits for, which is bounded: nothing is committed before
        that is complete, and nothing at all if computing it fails.
      num_shards: shuffle the blocks first, to stage this number of files.
      beside: computes from the staged files what a commit of a whole collection gets besides them.

    Raises:
      InputError: a stream is in the global window without a trigger, its windows are not intervals,
        `commit_after` is a stream, or another sink of the pipeline would lose its rows.
    """
    with naming(step):
        check_outputs(blocks.pipeline, output)
        waits = [] if output.commit_after is None else [barrier(output.commit_after)]
        panes = None if is_whole(blocks) else pane_windowing(blocks.windowing, blocks.is_bounded)
    staged = _stage(blocks, stage, num_shards, panes)
    owner = owner_of(blocks.pipeline)
    named_commit = InStep(step, commit if owner is None else OwnedCommit(owner, commit))
    if panes is None:
        once = blocks.pipeline | "Once" >> beam.Impulse()
        more = [] if beside is None else [beam.pvalue.AsIter(staged | "Beside" >> beside)]
        whole = _CommitWhole(named_commit, len(more))
        committing = beam.ParDo(whole, beam.pvalue.AsIter(staged), *more, *waits)
        written = once | "Commit" >> committing.with_output_types(WrittenFile)
    else:
        committing = beam.ParDo(_CommitPanes(named_commit), *waits)
        written = _group(step, staged) | "Commit" >> committing.with_output_types(WrittenFile)
    add_output(blocks.pipeline, dataclasses.replace(output, is_whole=panes is None), written)
    return written


def commit_once(
    step: str,
    parts: beam.PCollection,
    commit: Callable[[list[Any]], list[Any]],
    output: Output,
    kind: type = WrittenFile,
) -> beam.PCollection:
    """Commit all of a bounded collection at once, when it is complete.

    Args:
      step: the transform that the user wrote, for errors.
      parts: what the commit gets, in any order.
      commit: repeatable; returns what the transform gives.
      output: where it writes.
      kind: the type of what it returns.

    Raises:
      InputError: another sink of the pipeline would lose its rows.
    """
    pipeline = parts.pipeline
    with naming(step):
        check_outputs(pipeline, output)
    committing = beam.FlatMap(_commit_all, InStep(step, commit), beam.pvalue.AsIter(parts))
    done = pipeline | "Once" >> beam.Impulse() | "Commit" >> committing.with_output_types(kind)
    add_output(pipeline, dataclasses.replace(output, is_whole=True), done)
    return done


def _commit_all(_: bytes, commit: Callable[[list[Any]], list[Any]], parts: Iterable) -> list[Any]:
    return commit(list(parts))


def _group(
    step: str, staged: beam.PCollection[StagedFile]
) -> beam.PCollection[tuple[int, Iterable[PaneFiles]]]:
    """Group the files of each pane, and make the groups durable."""
    firing_at_once = beam.WindowInto(
        GlobalWindows(), Repeatedly(AfterCount(1)), AccumulationMode.DISCARDING
    )
    return (
        staged
        | "Key" >> beam.Map(_add_key).with_output_types(tuple[int, StagedFile])
        | "Panes" >> beam.GroupByKey()
        | "NamePane" >> beam.ParDo(_NamePane(step)).with_output_types(tuple[int, PaneFiles])
        | "AtOnce" >> firing_at_once
        | "Stable" >> beam.GroupByKey()
    )


def barrier(commit_after: beam.PCollection, label: str = "Barrier") -> beam.pvalue.AsIter:
    """Make a side input that is ready once `commit_after` is complete.

    Raises:
      InputError: it is a stream.
    """
    if not commit_after.is_bounded:
        raise InputError(
            "commit_after is a stream, which never completes; give a bounded collection, or omit it"
        )
    return beam.pvalue.AsIter(commit_after | label >> beam.WindowInto(GlobalWindows()))


def _stage(
    blocks: beam.PCollection[Block],
    stage: StageFiles,
    num_shards: int | None,
    panes: Windowing | None,
) -> beam.PCollection[StagedFile]:
    def under_panes(fn: beam.DoFn) -> beam.ParDo:
        return beam.ParDo(fn) if panes is None else InWindows(fn, panes)

    if num_shards is None:
        return blocks | "Stage" >> under_panes(stage).with_output_types(StagedFile)
    shard = under_panes(SpreadBlocks(num_shards))
    return (
        blocks
        | "Shard" >> shard.with_output_types(tuple[int, Block])
        | "Shards" >> beam.GroupByKey()
        | "Stage" >> beam.ParDo(StageShards(stage)).with_output_types(StagedFile)
    )


class _CommitWhole(beam.DoFn):
    def __init__(self, commit: Commit, beside: int) -> None:
        self._commit = commit
        self._beside = beside

    def process(self, _: bytes, staged: Iterable[StagedFile], *more: Any) -> list[WrittenFile]:
        beside = [list(some) for some in more[: self._beside]]  # the others are barriers
        return _count(self._commit(_sort(staged), WHOLE, *beside))


class _CommitPanes(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(
        self, group: tuple[int, Iterable[PaneFiles]], *barrier: Any
    ) -> Iterator[WrittenFile]:
        for pane, staged in group[1]:
            yield from _count(self._commit(_sort(staged), pane))


def _sort(staged: Iterable[StagedFile]) -> list[StagedFile]:
    """Sort the files, each once.

    After a step with timers, Beam 2.77's in-process runner gives elements of a side input again.
    """
    return sorted(set(staged), key=lambda file: file.path)


def _count(written: list[WrittenFile]) -> list[WrittenFile]:
    Metrics.counter(NAMESPACE, "files_written").inc(len(written))
    Metrics.counter(NAMESPACE, "rows_written").inc(sum(file.rows for file in written))
    report_commit([(file.path, file.rows) for file in written])
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
