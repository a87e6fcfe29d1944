"""Define the element types of the tests: worker processes import them, so no test file does."""

import os
import pickle
import re
import threading
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np


class Line(NamedTuple):
    """Define a row with a registered schema, of which another process sees only the fields."""

    id: int
    text: str


class EmbeddedLine(NamedTuple):
    id: int
    text: str
    embedding: list[float] | None


beam.coders.registry.register_coder(Line, beam.coders.RowCoder)


class LengthEncoder:
    """Encode a text as (1, number of characters); reject texts with one word."""

    fingerprint = "lengths-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        if any("refuse" in text for text in texts):
            raise ValueError("the word was in it")
        return np.array([[1.0, len(text)] for text in texts])


class WordEncoder:
    """Encode texts that share words as near vectors: sums of a random one per word, of 8 values."""

    fingerprint = "words-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array(
            [sum((_word(word) for word in text.split()), np.zeros(8)) for text in texts], np.float32
        )


def _word(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(8)


class BagEncoder:
    """Encode texts as the sums of a random direction of 64 values for each word, in any order."""

    fingerprint = "bag-1"

    def encode(self, texts: list[str]) -> np.ndarray:
        if any("refuse" in text for text in texts):
            raise ValueError("the word was in it")
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        return np.array([sum(map(_direction, of), np.zeros(64)) for of in words], np.float32)


def _direction(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64)


def keep(element: Any, folder: str, kind: str) -> None:
    """Store an element for `kept`, from any process."""
    with open(f"{folder}/{kind}.{os.getpid()}.{threading.get_ident()}", "ab") as file:
        pickle.dump(element, file)


def kept(folder: str, kind: str) -> list:
    """Load the elements that `keep` stored."""
    elements = []
    for path in sorted(Path(folder).glob(f"{kind}.*")):
        with path.open("rb") as file:
            while file.peek(1):
                elements.append(pickle.load(file))
    return elements


def rows_in(elements: list) -> list[dict[str, Any]]:
    """The rows of results that are blocks, Arrow tables or mappings."""
    rows = []
    for element in elements:
        table = getattr(element, "batch", element)
        rows += [table] if isinstance(table, dict) else table.to_pylist()
    return rows
