"""Try a few hostile inputs of each target; `make fuzz` tries them for long."""

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.choices import Choices
from tests.fuzz.runner import FIRST_INPUTS, fuzz
from tests.fuzz.targets import GUIDES, PLACE, TARGETS

pytest.importorskip("atheris", reason="atheris is for Linux on x86-64")

PLANTED, ERRORS = "tests.fuzz.planted:", "beam_gpte.core.errors"
SEED = int(os.environ.get("FUZZ_SEED", "0"))
INPUTS = {"readers": 200, "objects": 100, "paths": 100, "names": 10, "rejects": 10, "models": 10}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_of_hostile_inputs_finds_no_fault(name: str, tmp_path: Path) -> None:
    tried, faults = fuzz(PLACE + name, GUIDES[name], tmp_path, SEED, inputs=INPUTS[name])
    assert tried >= INPUTS[name]
    assert faults == []


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("refuse", None),
        ("raise_another", "KeyError: 'a'"),
        ("give_wrong", "wrong: two rows of one"),
        ("take_memory", "MemoryError"),
        ("end_the_process", "the process ended: SIGABRT"),
        ("wait", "not done in time"),
        ("work", "not done in time"),
    ],
)
def test_a_fault_is_found_and_costs_no_other_input(
    tmp_path: Path, target: str, problem: str | None
) -> None:
    tried, faults = fuzz(PLANTED + target, [ERRORS], tmp_path, 0, inputs=2, limits=(1, 1 << 30))
    assert tried >= 2
    assert {fault.problem[: len(problem or "")] for fault in faults} == (
        {problem} if problem else set()
    )
    assert all((tmp_path / fault.input).exists() for fault in faults)


def test_a_target_that_does_not_begin_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_target"):
        fuzz(PLANTED + "no_such_target", [ERRORS], tmp_path, 0, inputs=2)


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    tried = [fuzz(PLACE + "paths", GUIDES["paths"], tmp_path, 7, inputs=40)[0] for _ in range(2)]
    assert tried == [40, 80]
    assert len(list((tmp_path / "corpus").iterdir())) > FIRST_INPUTS  # what reached something new


def test_choices_are_those_that_the_bytes_spell() -> None:
    data = random.Random(3).randbytes(64)
    drawn = [(Choices(d).random(), Choices(d).choice("abc")) for d in (data, data, data[:2])]
    assert drawn[0] == drawn[1] == drawn[2]
    rng = Choices(b"")
    assert (rng.random(), rng.randrange(7), rng.choice("abc"), rng.randbytes(2)) == (
        0,
        0,
        "a",
        b"\0\0",
    )
