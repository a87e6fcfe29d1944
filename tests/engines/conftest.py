"""Start each engine once; one that cannot run here skips, and the last line says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.all_engines import ENGINES
from tests.engines.engine import Engine
from tests.engines.fetch import is_fetched, lacking
from tests.engines.programs import PROGRAMS, run_program, write_corpus

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


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session", params=list(PROGRAMS))
def program(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    texts: Path,
    minilm: str,
) -> tuple[str, dict]:
    """Return a program's name, and what it writes on the local runner."""
    folder = tmp_path_factory.mktemp("local")
    done, written = run_program(request.param, texts, folder, minilm, [])
    assert done.returncode == 0, done.stderr
    return request.param, written


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = [name for name in ENGINES if name not in _missing]
    terminalreporter.write_line(
        "; ".join([f"engines: {', '.join(run) or 'none'}", *_missing.values()])
    )
