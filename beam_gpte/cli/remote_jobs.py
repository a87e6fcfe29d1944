"""Wait for a job that an engine runs: a user's mistake ends it, and a failure is put in words.

    launcher                          engine                      workers
    lays a note beside the output
    every step notes ----job--------> steps ----> an `InputError` --> written on the note
          reads and removes it <------------------------------------------/
          cancels -------------------> job

An engine tries what failed again, as often as it is set to. That helps against the death of a host,
not against what the user has to repair, which would fail every time.
"""

import contextlib
import dataclasses
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.runners.common import DoFnSignature
from apache_beam.runners.runner import PipelineState

from beam_gpte.core.errors import InputError, NothingWrittenError, PassingInputError, printable
from beam_gpte.files.folders import TEMPORARY, absolute, list_files, remove_files
from beam_gpte.sinks.runs.leftovers import remove_run
from beam_gpte.sinks.runs.outputs import temporary_folders
from beam_gpte.sinks.runs.processes import is_running, machine

LOOK_SECONDS = 2  # between two looks for a note: one request of a store
CANCEL_SECONDS = 60  # until a cancelled job has ended, or is left alone
INTERRUPT_SECONDS = 3  # the same for a person who waits
LATE_SECONDS = 10  # in which workers still stage rows of a job that failed
METHODS = ("setup", "start_bundle", "process", "finish_bundle")
MISTAKES: dict[str, type[InputError]] = {
    kind.__name__: kind for kind in (InputError, NothingWrittenError)
}
# what engines and Beam put around the words of an error
_AROUND = re.compile(
    r"^(?:\s*(?:Caused by|Pipeline \S+ failed in state \w+|[\w$.]*(?:Error|Exception)):)+"
)
HINTS = {  # what an engine says: what it is about
    "Could not find Flink job": "the job manager was started again and has lost it",
    "Connection refused": "a pool of workers or another part of the engine is not there",
    "number of network buffers": "set taskmanager.network.sort-shuffle.min-parallelism",
    "Record too large": "raise taskmanager.memory.managed.size",
    "NoResourceAvailable": "the engine has fewer slots than --parallelism asks for",
}
_STEP = re.compile(r" \[while running '.*$")


class JobError(Exception):
    """Report a job that an engine did not finish, in one line; programs exit with code 1."""


@dataclasses.dataclass(frozen=True)
class Note:
    """Name the file in which workers write down the mistake that a job met, as long as it is there.

    Flink may try again, for minutes, when the program has read a note, removed it and ended.

    Attributes:
      path: of the file, which workers and launcher reach.
    """

    path: str

    @classmethod
    @contextlib.contextmanager
    def beside(cls, output: str) -> Iterator["Note"]:
        """Lay the note of a new job in the folder that it writes to, and remove it at the end."""
        folder, start = absolute(output), f"{TEMPORARY}mistake-{machine()}-"
        for name in list_files(folder):  # of programs that were killed
            if name.startswith(start) and not is_running(int(name.split("-")[-2])):
                remove_files([FileSystems.join(folder, name)])
        note = cls(FileSystems.join(folder, f"{start}{os.getpid()}-{uuid.uuid4().hex}.json"))
        note._fill("\n")  # Beam 2.77 cannot write an empty object to S3
        try:
            yield note
        finally:
            note.remove()

    def write(self, error: InputError) -> None:
        """Write a mistake down; what the place refuses is lost, and the job fails later."""
        kind = next(name for name, kind in reversed(MISTAKES.items()) if isinstance(error, kind))
        with contextlib.suppress(OSError):
            if FileSystems.exists(self.path):
                self._fill(json.dumps([kind, str(error)]))

    def _fill(self, text: str) -> None:
        plain = CompressionTypes.UNCOMPRESSED
        with FileSystems.create(self.path, compression_type=plain) as stream:
            stream.write(text.encode())

    def read(self) -> InputError | None:
        """Return the mistake; None if there is none yet, or none that is complete."""
        with contextlib.suppress(OSError, ValueError):
            if FileSystems.exists(self.path):
                with FileSystems.open(self.path) as stream:
                    kind, message = json.load(stream)
                return MISTAKES[kind](message)
        return None

    def remove(self) -> None:
        """Delete the file."""
        if FileSystems.exists(self.path):
            remove_files([self.path])


class _Noted:
    """Call a method of a step, and write down the mistake that it raises."""

    def __init__(self, method: Callable[..., Any], note: Note) -> None:
        self.__wrapped__ = method  # whose signature this has
        self._note = note

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            found = self.__wrapped__(*arguments, **named)
        except InputError as error:
            self._write(error)
            raise
        return self._items(found) if isinstance(found, Iterator) else found

    def _items(self, found: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from found
        except InputError as error:
            self._write(error)
            raise

    def _write(self, error: InputError) -> None:
        if not isinstance(error, PassingInputError):
            self._note.write(error)


class _NoteMistakes(PipelineVisitor):
    def __init__(self, note: Note) -> None:
        self._note = note

    def visit_transform(self, applied: AppliedPTransform) -> None:
        """Wrap the methods of a step; those of a source are Beam's own."""
        if not isinstance(applied.transform, beam.ParDo):
            return
        step = applied.transform.fn
        if isinstance(step.process, _Noted) or DoFnSignature(step).is_splittable_dofn():
            return
        for name in METHODS:
            if name == "process" or getattr(type(step), name) is not getattr(beam.DoFn, name):
                setattr(step, name, _Noted(getattr(step, name), self._note))


def run_job(pipeline: beam.Pipeline, output: str) -> Any:
    """Run a pipeline on an engine to its end; cancel it once a worker has noted a mistake.

    Args:
      pipeline: that is complete.
      output: the folder that it writes to.

    Returns:
      The result.

    Raises:
      InputError: the mistake.
      JobError: the job did not end well.
    """
    threading.excepthook = _ignore_lost_streams
    with Note.beside(output) as note:
        pipeline.visit(_NoteMistakes(note))
        try:
            job = Job(pipeline.run())
        except grpc.RpcError as error:
            raise JobError(reason(error)) from error
        try:
            mistake = job.wait(note)
        except KeyboardInterrupt:
            job.cancel(INTERRUPT_SECONDS)
            raise
    if job.has_ended:
        _remove_staged(temporary_folders(pipeline), 0 if job.failure is None else LATE_SECONDS)
    if job.failure is not None:
        mistake = mistake or mistake_in(str(job.failure))
        raise mistake or JobError(reason(job.failure)) from job.failure
    return job.result


def _remove_staged(folders: Sequence[str], seconds: float) -> None:
    """Delete what nobody is left to commit.

    Flink ends a job that failed while a worker may still be at a bundle, and stage its rows: where
    there was something, look again until so many seconds have gone.
    """
    removed = [remove_run(folder) for folder in folders]
    until = time.monotonic() + seconds
    while any(removed) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        for folder in folders:
            remove_run(folder)


def _ignore_lost_streams(ended: threading.ExceptHookArgs) -> None:
    """Print no trace of a thread of Beam's that reads from a job service which has gone."""
    if not issubclass(ended.exc_type, grpc.RpcError):
        threading.__excepthook__(ended)


class Job:
    """Wait for a job that runs, in a thread that does not keep the program from its end.

    Args:
      result: of the pipeline's `run`.

    Attributes:
      result: the same.
      failure: why it did not end well; None if it did. Whatever an attempt met, a job that ended
        well is done.
    """

    def __init__(self, result: Any) -> None:
        self.result = result
        self.failure: Exception | None = RuntimeError("it does not end")
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    @property
    def has_ended(self) -> bool:
        """Whether that is known."""
        return not (self._waiting.is_alive() or isinstance(self.failure, grpc.RpcError))

    def is_waited_for(self, seconds: float) -> bool:
        """Return whether there is still something to wait for after so many seconds."""
        self._waiting.join(seconds)
        return self._waiting.is_alive()

    def cancel(self, seconds: float) -> None:
        """Cancel the job, and wait so many seconds until it has ended."""
        with contextlib.suppress(grpc.RpcError, RuntimeError):
            self.result.cancel()
        self._waiting.join(seconds)

    def wait(self, note: Note) -> InputError | None:
        """Wait until the job has ended, or cancel it because of a note; return what that says."""
        while self.is_waited_for(LOOK_SECONDS):
            if mistake := note.read():
                self.cancel(CANCEL_SECONDS)
                return mistake
        return note.read()

    def _wait(self) -> None:
        try:
            state = self.result.wait_until_finish()
        except Exception as error:  # the thread that waits for this one raises it
            self.failure = error
        else:
            is_done = state in (PipelineState.DONE, None)
            self.failure = None if is_done else RuntimeError(f"the job is {state}")


def mistake_in(text: str) -> InputError | None:
    """Return the last mistake that a trace of all languages names; None if there is none."""
    names = "|".join(kind.__name__ for kind in _with_subclasses(InputError))
    found = re.findall(rf"\b({names}): (.*)", text)
    if not found:
        return None
    kind, message = found[-1]
    return MISTAKES.get(kind, InputError)(without_step(message))


def without_step(text: str) -> str:
    """Leave out the step that Beam names at the end of an error: the pipeline is not the user's."""
    return _STEP.sub("", text)


def _with_subclasses(kind: type[InputError]) -> Iterator[type[InputError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _with_subclasses(below)


def reason(error: Exception) -> str:
    """Say in one line why a job did not end well.

    Args:
      error: with the traces of all languages that it went through.
    """
    if isinstance(error, grpc.RpcError):
        return (
            f"the job service does not answer ({_status(error)}); the job may still run: look at "
            "the engine, and run again once the job has ended"
        )
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    causes = [line for line in lines if _AROUND.match(line)]
    hints = [f" ({hint})" for words, hint in HINTS.items() if words in str(error)]
    said = without_step(_AROUND.sub("", (causes or lines)[-1])).strip() + "".join(hints)
    return f"the job failed: {printable(said)}; run again once that is repaired"


def _status(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return "no status" if code is None else code.name.lower()
