"""Element types of the tests: worker processes import them, so no test file defines its own."""

import os
import pickle
import threading
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np


class Line(NamedTuple):
    """A row as Beam's schemas know it: registered, so another process sees only its fields."""

    id: int
    text: str


class EmbeddedLine(NamedTuple):
    id: int
    text: str
    embedding: list[float] | None


beam.coders.registry.register_coder(Line, beam.coders.RowCoder)


class LengthEncoder:
    """The smallest encoder there is: (1, number of characters). It refuses one word."""

    fingerprint = "lengths-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        if any("refuse" in text for text in texts):
            raise ValueError("the word was in it")
        return np.array([[1.0, len(text)] for text in texts])


class WordEncoder:
    """Texts that share words are near: the sum of a random vector for each word, eight dimensions."""

    fingerprint = "words-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array(
            [sum((_word(word) for word in text.split()), np.zeros(8)) for text in texts], np.float32
        )


def _word(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(8)


def keep(element: Any, folder: str, kind: str) -> None:
    """Put an element where `kept` finds it, from whatever process."""
    with open(f"{folder}/{kind}.{os.getpid()}.{threading.get_ident()}", "ab") as file:
        pickle.dump(element, file)


def kept(folder: str, kind: str) -> list:
    elements = []
    for path in sorted(Path(folder).glob(f"{kind}.*")):
        with path.open("rb") as file:
            while file.peek(1):
                elements.append(pickle.load(file))
    return elements
