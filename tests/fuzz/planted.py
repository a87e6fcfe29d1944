"""Stand, or stand not, what a fuzzer gives: targets whose faults are known."""

import os
import random
import time
from pathlib import Path

from beam_gpte import InputError
from tests.fuzz.trial import WrongResultError


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
