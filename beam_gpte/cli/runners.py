"""Check before the job starts that the runner which the flags name is there.

Prism, Beam's local runner in Go, is taken from this machine: Beam would download it.
"""

import difflib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)
from apache_beam.version import __version__ as beam_version

from beam_gpte.cli.worker_pool import is_listening
from beam_gpte.core.errors import InputError

# Beam's in-process runner; DirectRunner would first try to download another
LOCAL_RUNNER = "FnApiRunner"
PRISM_RUNNER = "PrismRunner"
WAIT_SECONDS = 10  # for a job service that is being started
BEAM_SECONDS, JOB_SECONDS = 300, 30 * 86_400  # for the answer of a job service: Beam's, and ours
NAMES = ("prism", PRISM_RUNNER.lower())
SOURCE = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}"  # of a program in Go


def check_job_service(options: PipelineOptions) -> None:
    """Wait a little until the job service that is named takes connections.

    Beam would end a program after 300 seconds of a job on Prism, which has its answer once the job
    has ended; unless another time is given, it is a month.

    Raises:
      InputError: it does not; Beam would wait for it, and say nothing.
    """
    portable = options.view_as(PortableOptions)
    if portable.job_server_timeout == BEAM_SECONDS:
        portable.job_server_timeout = JOB_SECONDS
    endpoint = portable.job_endpoint
    host, _, port = (endpoint or "").rpartition(":")
    if not (host and port.isdigit()):
        return
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_listening(host.strip("[]"), int(port)):
        if time.monotonic() > deadline:
            raise InputError(
                f"job_endpoint {endpoint!r}: nothing listens there; start the job service, or name "
                "its host and port"
            )
        time.sleep(0.2)


def check_runner(options: PipelineOptions) -> None:
    """Refuse a runner that Beam does not know.

    Raises:
      InputError: it does not; the path of a class, with periods, is tried when the job starts.
    """
    name = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    names = sorted(one.rpartition(".")[2] for one in StandardOptions.ALL_KNOWN_RUNNERS)
    known = {one.lower().removesuffix(end): one for end in ("runner", "") for one in names}
    if "." not in name and name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, 1)
        meant = f"did you mean {known[near[0]]}?" if near else f"use {', '.join(names)}"
        raise InputError(f"--runner {name}: {meant}")


def use_prism(options: PipelineOptions) -> bool:
    """Set the file of Prism if that is the runner; Beam would download one if none was named.

    Returns:
      Whether it is.

    Raises:
      InputError: it is not installed.
    """
    standard = options.view_as(StandardOptions)
    if (standard.runner or "").lower() not in NAMES:
        return False
    standard.runner = PRISM_RUNNER
    prism = options.view_as(PrismRunnerOptions)
    prism.prism_location = prism.prism_location or _installed()
    if prism.prism_log_level == "info":  # Beam's default
        prism.prism_log_level = "warn"
    if "://" not in prism.prism_location and not os.access(prism.prism_location, os.X_OK):
        raise InputError(f"prism_location {prism.prism_location!r} is not a program; {_HOW}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with Prism's end
    return True


def _installed() -> str:
    folders = [os.environ.get("GOBIN"), Path(os.environ.get("GOPATH") or Path.home() / "go", "bin")]
    path = os.pathsep.join(str(folder) for folder in (os.environ.get("PATH"), *folders) if folder)
    found = shutil.which("prism", path=path)
    if found is None:
        raise InputError(f"Prism is not installed; {_HOW}")
    return found


_HOW = f"install it by `go install {SOURCE}`, or name its file with --prism_location"
