"""The runner that flags name is looked for: an installed Prism, and a job service that answers."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from beam_gpte import InputError
from beam_gpte.cli import runners
from beam_gpte.cli.runners import JOB_SECONDS, check_job_service, use_prism
from beam_gpte.cli.runtime import local_options
from beam_gpte.cli.streams import local_stream_options


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Name the folders where Prism is looked for, which have nothing yet."""
    for name in ("path", "gobin", "gopath/bin"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("GOBIN", str(tmp_path / "gobin"))
    monkeypatch.setenv("GOPATH", str(tmp_path / "gopath"))
    before = signal.getsignal(signal.SIGTERM)
    yield [tmp_path / name for name in ("path", "gobin", "gopath/bin")]
    signal.signal(signal.SIGTERM, before)


def install(folder: Path) -> str:
    program = folder / "prism"
    program.touch(mode=0o755)
    return str(program)


@pytest.mark.parametrize("runner", ["prism", "Prism", "PrismRunner"])
def test_an_installed_prism_is_found(places: list[Path], runner: str) -> None:
    for folder in reversed(places):
        options, installed = PipelineOptions(runner=runner), install(folder)
        assert use_prism(options)
        assert options.view_as(StandardOptions).runner == "PrismRunner"
        assert options.view_as(PrismRunnerOptions).prism_location == installed


def test_a_location_goes_before_what_is_installed(places: list[Path], tmp_path: Path) -> None:
    install(places[0])
    for location in (install(tmp_path), "https://github.com/apache/beam/releases/tag/v2.77.0"):
        options = PipelineOptions(runner="prism", prism_location=location)
        assert use_prism(options)
        assert options.view_as(PrismRunnerOptions).prism_location == location


def test_without_prism_the_program_says_how_to_have_it(places: list[Path], tmp_path: Path) -> None:
    expected = r"^Prism is not installed; install it by `go install github.com/apache/beam/.*@v2"
    with pytest.raises(InputError, match=expected):
        use_prism(PipelineOptions(runner="prism"))
    with pytest.raises(InputError, match=expected):
        local_stream_options(PipelineOptions(runner="PrismRunner"))
    (tmp_path / "text").touch()
    for name in ("nowhere", "text"):
        location = str(tmp_path / name)
        with pytest.raises(InputError, match=f"^prism_location '{location}' is not a program; "):
            use_prism(PipelineOptions(runner="prism", prism_location=location))


def test_other_runners_stay(places: list[Path]) -> None:
    for runner in (None, "FnApiRunner", "FlinkRunner"):
        options = PipelineOptions(runner=runner) if runner else PipelineOptions()
        assert not use_prism(options)
        assert options.view_as(StandardOptions).runner == runner


def test_a_job_service_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "WAIT_SECONDS", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"localhost:{closed.getsockname()[1]}"
    options = PipelineOptions(runner="PortableRunner", job_endpoint=endpoint)
    expected = f"^job_endpoint '{endpoint}': nothing listens there; start the job service"
    for entrance in (local_options, local_stream_options):
        with pytest.raises(InputError, match=expected):
            entrance(options)


def test_a_job_service_that_starts_late_is_found() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        starting = threading.Timer(1, late.listen)
        starting.start()
        check_job_service(PipelineOptions(job_endpoint=f"localhost:{late.getsockname()[1]}"))
        starting.join()


def test_no_endpoint_or_one_that_beam_makes_is_not_looked_for() -> None:
    check_job_service(PipelineOptions())
    check_job_service(PipelineOptions(job_endpoint="embed"))


def test_a_program_waits_for_a_long_job() -> None:
    """Beam's 300 seconds are for the state of the job, too."""
    for given, expected in ({}, JOB_SECONDS), ({"job_server_timeout": 20}, 20):
        options = PipelineOptions(**given)
        check_job_service(options)
        assert options.view_as(PortableOptions).job_server_timeout == expected
