"""A stream of a cluster: one job has the output, whoever launched it, and its flags are checked."""

import os
import threading
import time
from pathlib import Path

import apache_beam as beam
import pytest

from beam_gpte import InputError
from beam_gpte.cli.streams import check_flags, finishing_bundles
from beam_gpte.sinks.runs import owner as owners
from beam_gpte.sinks.runs.owner import OwnedCommit, Owner, owner_of, set_owner
from beam_gpte.sources.committed_rows import StreamOutput


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(owners, "SILENCE", 1.0)
    return str(tmp_path / ".stream-job")


def test_a_job_that_shows_life_keeps_its_output(path: str) -> None:
    job = Owner(path)
    job.take()
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.1):
            job.show_life()

    ticks = threading.Thread(target=tick)
    ticks.start()
    try:
        with pytest.raises(InputError, match="another stream writes here; stop it, or name"):
            Owner(path).take()
    finally:
        stop.set()
        ticks.join()
    job.show_life()


def test_a_silent_job_loses_its_output_and_commits_no_more(path: str) -> None:
    lost, next_one = Owner(path), Owner(path)
    lost.take()
    began = time.monotonic()
    next_one.take()
    assert time.monotonic() - began > 0.5  # it waited for a sign
    committed = OwnedCommit(next_one, len)([1, 2])
    assert committed == 2
    for write in (lost.show_life, lambda: OwnedCommit(lost, len)([1, 2])):
        with pytest.raises(InputError, match="another stream was started here after this one"):
            write()


def test_what_is_released_is_free_at_once(path: str) -> None:
    first = Owner(path, interval=1000)  # may be silent for 3,000 seconds
    first.take()
    first.release()
    began = time.monotonic()
    Owner(path).take()
    assert time.monotonic() - began < 0.5
    with pytest.raises(InputError, match="this one stops"):
        first.show_life()


def test_a_release_does_not_take_the_output_from_the_next_job(path: str) -> None:
    first, second = Owner(path), Owner(path)
    first.take()
    os.utime(path, (0, 0))
    second.take()
    first.release()
    second.show_life()


def test_taking_over_waits_for_a_commit_at_work(path: str) -> None:
    first, second, order = Owner(path), Owner(path), list[str]()
    first.take()
    os.utime(path, (0, 0))
    with first.committing():
        taking = threading.Thread(target=lambda: (second.take(), order.append("taken")))
        taking.start()
        taking.join(0.5)
        order.append("committed")
    taking.join()
    assert order == ["committed", "taken"]


def test_a_local_stream_is_refused_beside_a_job(tmp_path: Path) -> None:
    output = StreamOutput(str(tmp_path), None, "id")
    job = output.owner(1)
    assert job is not None
    job.take()
    stop = threading.Event()
    ticks = threading.Thread(target=lambda: [job.show_life() for _ in iter(stop.is_set, True)])
    ticks.start()
    try:
        with pytest.raises(InputError, match="another stream writes here"), output.alone():
            pass
    finally:
        stop.set()
        ticks.join()
    job.release()
    with output.alone():
        pass


def test_a_local_stream_needs_no_owner_beside_its_lock_but_in_a_bucket() -> None:
    assert StreamOutput("out", None, "id").owner(1, local=True) is None
    assert StreamOutput("gs://bucket/out", None, "id").owner(1, local=True) is not None


def test_a_pipeline_knows_its_owner() -> None:
    pipeline, owner = beam.Pipeline(), Owner("out/.stream-job")
    assert owner_of(pipeline) is None
    set_owner(pipeline, owner)
    assert owner_of(pipeline) is owner


def test_a_savepoint_is_refused() -> None:
    check_flags(["--runner=FlinkRunner", "--checkpointing_interval=3000"])
    for flags in (["--savepoint_path=savepoints/1"], ["--savepoint_path", "savepoints/1"]):
        with pytest.raises(InputError, match="--savepoint_path: .* leave it out"):
            check_flags(flags)


@pytest.mark.parametrize(
    "interval", [["--checkpointing_interval=3000"], ["--checkpointing_interval", "3000"]]
)
def test_a_stream_with_checkpoints_ends_its_bundles_before_each(interval: list[str]) -> None:
    finish = "--finish_bundle_before_checkpointing"
    assert finishing_bundles(interval) == [*interval, finish]
    assert finishing_bundles([*interval, finish]) == [*interval, finish]
    assert finishing_bundles(["--runner=PrismRunner"]) == ["--runner=PrismRunner"]
