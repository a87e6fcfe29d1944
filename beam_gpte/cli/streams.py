"""Run a stream until a signal ends it: SIGTERM or Ctrl-C.

local     signal --> stop file --> `WatchCorpus` stops to look, and what was read is committed
cluster   signal --> stop file --> the job is canceled; what was committed is kept
follow    signal --> stop file --> a job that is run again and again is not run again
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_gpte.cli.escaped_output import escaped
from beam_gpte.cli.remote_jobs import Job
from beam_gpte.cli.runners import check_job_service, check_runner, use_prism
from beam_gpte.cli.runtime import silence_beam
from beam_gpte.core.errors import InputError
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.sinks.runs.owner import Owner
from beam_gpte.sources.match_files import match_files

LOCAL_STREAM_RUNNER = "BundleBasedDirectRunner"  # the one with processing-time timers
SAVEPOINT = "--savepoint_path"  # these are flags of Flink
CHECKPOINTS = "--checkpointing_interval"
FINISH = "--finish_bundle_before_checkpointing"
LOOK_SECONDS = 0.2  # between two looks for the stop file
CANCEL_SECONDS = 120  # until a canceled job has ended; a task may wait for a commit


def local_stream_options(options: PipelineOptions) -> bool:
    """Set streaming and the in-process runner for streams, unless a runner is named.

    Returns:
      Whether the run is local.

    Raises:
      InputError: the runner is unknown, Prism, which is not installed, or a job service that is not
        there.
    """
    check_runner(options)
    check_job_service(options)
    FileSystems.set_options(options)  # as in `local_options`
    standard = options.view_as(StandardOptions)
    standard.runner, standard.streaming = standard.runner or LOCAL_STREAM_RUNNER, True
    is_local = standard.runner == LOCAL_STREAM_RUNNER
    if use_prism(options) or is_local:
        silence_beam()
    return is_local


def check_flags(flags: list[str]) -> None:
    """Refuse a start from a savepoint, whose rows may have been committed since it was made.

    Raises:
      InputError: one is asked for.
    """
    if any(flag.partition("=")[0] == SAVEPOINT for flag in flags):
        raise InputError(
            f"{SAVEPOINT}: a stream does not start from a savepoint; leave it out, as the output "
            "tells which rows it holds, and the others are read again"
        )


def finishing_bundles(flags: list[str]) -> list[str]:
    """Add to the flags of a stream with checkpoints that Flink ends a bundle before each.

    Without it the rows of a file were seen to wait for the next file (Beam 2.62), as if what a
    bundle gives that a checkpoint ends were kept until the next bundle of the stage.
    """
    names = {flag.partition("=")[0] for flag in flags}
    return [*flags, FINISH] if CHECKPOINTS in names and FINISH not in names else flags


@contextlib.contextmanager
def stop_file() -> Iterator[str]:
    """Yield a path at which a file appears on SIGTERM or Ctrl-C, to stop a stream.

    A second Ctrl-C ends the program at once.
    """
    with temporary_folder() as folder:
        path = Path(folder, "stop")

        def stop(number: int, _: FrameType | None) -> None:
            if path.exists() and number == signal.SIGINT:
                raise KeyboardInterrupt
            path.touch()

        previous = {
            number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield str(path)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run_stream(start: Callable[[], Any], owner: Owner | None, stop: str | None) -> Any | None:
    """Run a stream to its end, and cancel it once a file is at `stop`.

    Args:
      start: submits the job and returns its result.
      owner: of the output, released once the job has ended; it stays if that is not known.
      stop: None for a stream that looks for the file itself.

    Returns:
      What `start` returned; None if the job was canceled.

    Raises:
      RuntimeError: it failed.
    """
    job = None
    try:
        job = Job(start())
        while job.is_waited_for(LOOK_SECONDS):
            if stop is not None and Path(stop).exists():
                job.cancel(CANCEL_SECONDS)
                if not job.has_ended:
                    raise RuntimeError(_GOES_ON)
                return None
        if job.failure is not None:
            raise job.failure
        return job.result
    finally:
        if owner is not None and (job is None or job.has_ended):
            owner.release()


_GOES_ON = "the job was canceled and has not ended; look for it where its runner lists jobs"


Versions = dict[str, tuple[int, float]]  # by path: size, and time of the last change


def follow(files: Sequence[str], every: float, run: Callable[[], None], name: str) -> None:
    """Run a job, and again once files have appeared, changed or vanished.

    SIGTERM or Ctrl-C lets a run that is at work finish; a second Ctrl-C ends it. What a run finds
    wrong with the input is printed, and tried again at the next look: a file may be written just
    now. Only the first run fails for it.

    Args:
      files: paths or globs.
      every: seconds between two looks.
      run: the job.
      name: of the program, for messages.
    """
    with stop_file() as stop:
        known: Versions | None = None
        while not Path(stop).exists():
            try:
                seen = versions(files)
                if seen != known:
                    run()
                    print(f"watching {' '.join(files)}; Ctrl-C or SIGTERM ends it", flush=True)
                known = seen
            except InputError as error:
                if known is None:
                    raise
                print(f"{name}: {error}", file=escaped(sys.stderr), flush=True)
            _wait(every, stop)


def versions(files: Sequence[str]) -> Versions:
    """Look at the files: sizes and times of those that match.

    Raises:
      InputError: a pattern matches none.
    """
    return {
        file.path: (file.size_in_bytes, file.last_updated_in_seconds or 0.0)
        for file in match_files(files, [])
    }


def _wait(seconds: float, stop: str) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not Path(stop).exists():
        time.sleep(min(LOOK_SECONDS, seconds))
