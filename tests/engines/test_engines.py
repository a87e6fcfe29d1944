"""Every engine gives what the local runner gives: the programs, and the examples of the catalog."""

import os
import random
from pathlib import Path

import pytest

from tests.engines.engine import Engine
from tests.engines.joined import batch_examples
from tests.engines.programs import SECONDS, run_program
from tests.programs import finish

EXAMPLES = 10  # of the catalog, on each engine; `make engines-full` runs all of them


def test_a_program_writes_what_it_writes_locally(
    engine: Engine, program: tuple[str, dict], texts: Path, tmp_path: Path, minilm: str
) -> None:
    name, expected = program
    done, written = run_program(name, texts, tmp_path, minilm, engine.flags())
    assert done.returncode == 0, done.stderr + engine.logs()
    assert written.keys() == expected.keys()
    for part, rows in expected.items():
        assert written[part] == rows, f"{part} differs"


def test_a_sample_of_examples_runs_as_one_pipeline(
    engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """They check their own output; by the seed of the matrix, others on each engine."""
    draw = random.Random(os.environ.get("MATRIX_SEED", "0") + request.node.name)
    names = ",".join(draw.sample(batch_examples(), EXAMPLES))
    command = ["-m", "tests.engines.joined", "--only", names, *engine.flags()]
    done = finish(command, folder=str(tmp_path), seconds=SECONDS)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{engine.logs()}"
