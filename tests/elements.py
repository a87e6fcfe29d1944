"""Element types of the tests: worker processes import them, so no test file defines its own."""

from typing import NamedTuple

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
