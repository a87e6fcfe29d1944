"""Start each engine once; one that cannot run here skips, and the last line says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engine import Engine
from tests.engines.fetch import is_fetched, lacking
from tests.engines.flink import Flink
from tests.engines.prism import Prism
from tests.engines.programs import run_program
from tests.engines.spark import Spark

ENGINES: dict[str, type[Engine]] = {"prism": Prism, "flink": Flink, "spark": Spark}
_missing: dict[str, str] = {}


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    name = request.param
    if not is_fetched(name):
        _missing[name] = lacking(name) or f"{name} is not fetched"
        pytest.skip(_missing[name])
    started = ENGINES[name](tmp_path_factory.mktemp(name))
    yield started
    started.close()


@pytest.fixture(scope="session", params=["embed", "deduplicate", "mine"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, minilm: str
) -> tuple[str, dict]:
    """Return a program's name, and what it writes on the local runner."""
    folder: Path = tmp_path_factory.mktemp("local") / request.param
    done, written = run_program(request.param, folder, minilm, [])
    assert done.returncode == 0, done.stderr
    return request.param, written


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = [name for name in ENGINES if name not in _missing]
    terminalreporter.write_line(
        "; ".join([f"engines: {', '.join(run) or 'none'}", *_missing.values()])
    )
