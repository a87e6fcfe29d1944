"""A job on an engine ends once at a user's mistake, in the words of the local runner."""

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.runners.runner import PipelineState
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte import WriteVectorsToParquet
from beam_gpte.cli import remote_jobs
from beam_gpte.cli.remote_jobs import (
    Job,
    JobError,
    Note,
    _ignore_lost_streams,
    mistake_in,
    reason,
    run_job,
)
from beam_gpte.cli.runtime import run_pipeline, sample_file
from beam_gpte.core.errors import InputError, NothingWrittenError, PassingInputError
from beam_gpte.core.mining.posterior import NoMixtureError
from beam_gpte.sinks.runs.leftovers import remove_run
from tests.sinks.test_write_parquet import embedded

WORDS = "the rows are upside down; turn them"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineOptions]:
    """Give the options of a job service, as engines have one."""
    servicer = LocalJobServicer(str(tmp_path_factory.mktemp("staged")))
    port = servicer.start_grpc_server(0)
    yield PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port}",
            "--environment_type=LOOPBACK",
        ]
    )
    servicer.stop()


class Engine:
    """Stand for the result of a job that an engine tries again for ever, until it is cancelled."""

    def __init__(self, state: str = PipelineState.CANCELLED) -> None:
        self.state, self.is_cancelled = state, threading.Event()

    def wait_until_finish(self) -> str:
        assert self.is_cancelled.wait(60)
        return self.state

    def cancel(self) -> None:
        self.is_cancelled.set()


class InSetup(beam.DoFn):
    def setup(self) -> None:
        raise InputError(WORDS)

    def process(self, element: int) -> Iterator[int]:
        yield element


class AtTheEnd(beam.DoFn):
    def process(self, element: int) -> Iterator[int]:
        yield element

    def finish_bundle(self) -> Iterator[WindowedValue]:
        raise InputError(WORDS)


class InAGenerator(beam.DoFn):
    def process(self, element: int) -> Iterator[int]:
        yield element
        raise InputError(WORDS)


def fail(element: int) -> int:
    raise InputError(WORDS)


def fail_for_now(element: int) -> int:
    raise PassingInputError("the disk is full")


STEPS = [beam.ParDo(InSetup()), beam.ParDo(AtTheEnd()), beam.ParDo(InAGenerator()), beam.Map(fail)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("step", STEPS, ids=["setup", "finish_bundle", "generator", "function"])
def test_a_mistake_of_any_step_is_noted_beside_the_output(
    step: beam.PTransform, options: PipelineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    write = Note.write

    def written(note: Note, error: InputError) -> None:
        write(note, error)
        noted.append(str(note.read()))

    monkeypatch.setattr(Note, "write", written)
    pipeline = beam.Pipeline(options=options)
    pipeline | beam.Create([1]) | step
    with pytest.raises(InputError, match=f"^{WORDS}$"):
        run_job(pipeline, str(tmp_path))
    assert noted
    assert set(noted) == {WORDS}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kind", [InputError, PassingInputError, NothingWrittenError, NoMixtureError]
)
def test_a_mistake_of_any_kind_is_found_in_a_trace(kind: type[InputError]) -> None:
    trace = (
        f"bundle 3 failed: x\n{kind.__module__}.{kind.__name__}: {WORDS} [while running 'Step']\n"
    )
    found = mistake_in(trace)
    assert str(found) == WORDS
    assert isinstance(found, NothingWrittenError) == (kind is NothingWrittenError)


def test_what_may_pass_is_left_to_the_engine_which_tries_again(
    options: PipelineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Note, "write", lambda note, error: pytest.fail("noted"))
    pipeline = beam.Pipeline(options=options)
    pipeline | beam.Create([1]) | beam.Map(fail_for_now)
    with pytest.raises(InputError, match="^the disk is full$"):
        run_job(pipeline, str(tmp_path))


def test_a_job_that_would_be_tried_for_ever_is_cancelled(tmp_path: Path) -> None:
    engine = Engine()
    with Note.beside(str(tmp_path)) as note:
        job = Job(engine)
        note.write(NothingWrittenError(WORDS))
        mistake = job.wait(note)
    assert engine.is_cancelled.is_set()
    assert isinstance(mistake, NothingWrittenError)
    assert str(mistake) == WORDS
    assert job.failure is not None
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_ended_well_is_done_whatever_one_of_its_tries_met(tmp_path: Path) -> None:
    engine = Engine(PipelineState.DONE)
    with Note.beside(str(tmp_path)) as note:
        job = Job(engine)
        note.write(InputError(WORDS))
        job.wait(note)
    assert job.failure is None
    assert list(tmp_path.iterdir()) == []


def with_window(
    element: int, more: Iterable[int], window: Any = beam.DoFn.WindowParam
) -> tuple[int, list[int], str]:
    return element, sorted(more), str(window)


def test_steps_do_what_they_did(options: PipelineOptions, tmp_path: Path) -> None:
    pipeline = beam.Pipeline(options=options)
    numbers = pipeline | beam.Create([5, 15]) | beam.Map(lambda n: TimestampedValue(n, n))
    windowed = numbers | beam.WindowInto(FixedWindows(10))
    same = windowed | "Same" >> beam.Map(int)
    found = windowed | beam.Map(with_window, beam.pvalue.AsIter(same))
    assert_that(found, equal_to([(5, [5], "[0.0, 10.0)"), (15, [15], "[10.0, 20.0)")]))
    pipeline | "Vectors" >> beam.Create([embedded(0, 3)]) | WriteVectorsToParquet(str(tmp_path))
    run_job(pipeline, str(tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]


def that_fails_before_its_commit(options: PipelineOptions, folder: Path) -> beam.Pipeline:
    pipeline = beam.Pipeline(options=options)
    vectors = pipeline | beam.Create([embedded(0, 3)])
    never = vectors | beam.combiners.Count.Globally() | beam.Map(fail)
    vectors | WriteVectorsToParquet(str(folder), commit_after=never)
    return pipeline


def test_a_failed_job_leaves_no_staged_files(
    options: PipelineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_jobs, "LATE_SECONDS", 0)
    pipeline = that_fails_before_its_commit(options, tmp_path)
    with pytest.raises(InputError, match=WORDS):
        run_job(pipeline, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("local", [True, False])
def test_a_failed_run_leaves_no_sample_of_its_rows(
    options: PipelineOptions, tmp_path: Path, local: bool
) -> None:
    pipeline = beam.Pipeline("FnApiRunner") if local else beam.Pipeline(options=options)
    Path(sample_file(str(tmp_path))).write_bytes(b"rows")
    pipeline | beam.Create([1]) | beam.Map(fail)
    with pytest.raises((InputError, RuntimeError), match=WORDS):
        run_pipeline(pipeline, local, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_noted_when_the_program_has_ended(tmp_path: Path) -> None:
    """An engine that goes on trying would leave the note beside the output."""
    with Note.beside(str(tmp_path)) as note:
        assert note.read() is None
    note.write(InputError(WORDS))
    assert list(tmp_path.iterdir()) == []


def test_the_note_of_a_program_that_was_killed_is_removed_by_the_next_one(tmp_path: Path) -> None:
    with Note.beside(str(tmp_path)) as note:
        theirs = Path(note.path)
        gone = theirs.with_name(theirs.name.replace(f"-{os.getpid()}-", f"-{2**31 - 1}-"))
        gone.touch()
        with Note.beside(str(tmp_path)):
            assert theirs.exists()
            assert not gone.exists()


def test_what_a_worker_stages_after_its_job_failed_is_removed(
    options: PipelineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Path] = []

    def remove_and_stage(folder: str) -> bool:
        removed = remove_run(folder)
        if not late:
            late.append(Path(folder, "late.staged"))
            late[0].parent.mkdir()
            late[0].touch()
        return removed

    monkeypatch.setattr(remote_jobs, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(remote_jobs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(remote_jobs, "remove_run", remove_and_stage)
    pipeline = that_fails_before_its_commit(options, tmp_path)
    with pytest.raises(InputError, match=WORDS):
        run_job(pipeline, str(tmp_path))
    assert late
    assert list(tmp_path.iterdir()) == []


def test_a_job_service_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match="^the job service does not answer .*run again once"
    ) as found:
        raise JobError(reason(_Gone()))
    assert "\n" not in str(found.value)


class _Gone(grpc.RpcError):
    pass


FAILED = "Pipeline BeamApp-root-112_9c00 failed in state FAILED: "
SAID = {
    "Connection refused": (
        FAILED + "java.net.ConnectException: java.net.ConnectException: finishConnect(..) failed: "
        "Connection refused",
        "finishConnect(..) failed: Connection refused (a pool of workers or another part of the "
        "engine is not there)",
    ),
    "a worker's error": (
        FAILED + "java.lang.RuntimeException: Error received from SDK harness for instruction 5: "
        "Traceback (most recent call last):\n"
        '  File "apache_beam/runners/common.py", line 1512, in DoFnRunner.process\n'
        "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n"
        "ValueError: no row [while running 'Embed/Read']\n\n",
        "no row",
    ),
    "no exception": ("the job is CANCELLED", "the job is CANCELLED"),
}


@pytest.mark.parametrize(("text", "words"), SAID.values(), ids=SAID)
def test_what_an_engine_says_becomes_one_line_of_words(text: str, words: str) -> None:
    line = reason(RuntimeError(text))
    assert line == f"the job failed: {words}; run again once that is repaired"


def test_a_lost_job_service_prints_no_trace_of_a_thread(capsys: pytest.CaptureFixture) -> None:
    for error, is_printed in ((_Gone(), False), (ValueError("a bug"), True)):
        thread = threading.Thread(target=_raise, args=(error,))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", _ignore_lost_streams)
            thread.start()
            thread.join()
        assert bool(capsys.readouterr().err) == is_printed


def _raise(error: Exception) -> None:
    raise error
