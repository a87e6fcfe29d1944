"""`--runner prism` takes an installed Prism, and downloads none."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from beam_gpte import InputError
from beam_gpte.cli.prism import use_prism
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
