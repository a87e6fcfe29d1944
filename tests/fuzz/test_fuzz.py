"""Try a few hostile inputs of each target; `make fuzz` tries them for long."""

import functools
import os
import random
import time
from pathlib import Path

import pytest

from beam_gpte import InputError
from tests.fuzz.runner import Fault, Progress, Target, WrongResultError, run
from tests.fuzz.targets import TARGETS

SEED = int(os.environ.get("FUZZ_SEED", "0"))
INPUTS = {"readers": 400, "objects": 200, "paths": 200, "names": 20, "rejects": 20, "models": 20}


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_of_hostile_inputs_finds_no_fault(name: str) -> None:
    faults = [
        event
        for event in run(name, TARGETS[name], SEED, range(INPUTS[name]))
        if isinstance(event, Fault)
    ]
    assert faults == []


def refuse(rng: random.Random, folder: Path) -> None:
    raise InputError("column 'a' is wrong; rename it")


def raise_another(rng: random.Random, folder: Path) -> None:
    raise KeyError("a")


def give_wrong(rng: random.Random, folder: Path) -> None:
    raise WrongResultError("two rows of one")


def take_memory(rng: random.Random, folder: Path) -> None:
    bytearray(1 << 40)


def end_the_process(rng: random.Random, folder: Path) -> None:
    os.abort()


def wait(rng: random.Random, folder: Path) -> None:
    time.sleep(60)


def work(rng: random.Random, folder: Path) -> None:
    while True:
        pass


def note(path: Path, rng: random.Random, folder: Path) -> None:
    with path.open("a") as file:
        file.write(f"{rng.random()}\n")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (refuse, None),
        (raise_another, "KeyError: 'a'"),
        (give_wrong, "wrong: two rows of one"),
        (take_memory, "MemoryError"),
        (end_the_process, "the process ended: SIGABRT"),
        (wait, "not done in time"),
        (work, "not done in time"),
    ],
)
def test_a_fault_is_found_and_costs_no_other_input(target: Target, problem: str | None) -> None:
    events = list(run("planted", target, 0, range(2), limits=(1, 1 << 30)))
    faults = [event for event in events if isinstance(event, Fault)]
    assert [fault.number for fault in faults] == ([] if problem is None else [0, 1])
    assert all(fault.problem.startswith(str(problem)) for fault in faults)
    assert events[-1] == 2


def test_an_input_is_the_same_each_time_and_progress_is_kept(tmp_path: Path) -> None:
    target = functools.partial(note, tmp_path / "noted")
    for numbers in (range(3), range(1, 3)):
        list(run("noting", target, 7, numbers))
    noted = (tmp_path / "noted").read_text().splitlines()
    assert noted[1:3] == noted[3:]
    assert len(set(noted)) == 3
    progress = Progress.load(tmp_path / "folder" / "noting-7.json")
    assert (progress.next, progress.faults) == (0, [])
    progress.next = 3
    progress.save()
    assert Progress.load(progress.path) == progress
