"""Every engine gives what the local runner gives: the programs, and the examples of the catalog."""

from pathlib import Path

from tests.engines.engine import Engine
from tests.engines.programs import SECONDS, run_program
from tests.programs import finish


def test_a_program_writes_what_it_writes_locally(
    engine: Engine, program: tuple[str, dict], texts: Path, tmp_path: Path, minilm: str
) -> None:
    name, expected = program
    done, written = run_program(name, texts, tmp_path, minilm, engine.flags())
    assert done.returncode == 0, done.stderr + engine.logs()
    assert written.keys() == expected.keys()
    for part, rows in expected.items():
        assert written[part] == rows, f"{part} differs"


def test_all_examples_run_as_one_pipeline(engine: Engine, tmp_path: Path) -> None:
    """They check their own output."""
    done = finish(
        ["-m", "tests.engines.joined", *engine.flags()], folder=str(tmp_path), seconds=SECONDS
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{engine.logs()}"
