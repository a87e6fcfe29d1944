"""Draw from the bytes that a fuzzer gives, so that a change of bytes is a change of choices."""

import random
from typing import Any


class Choices(random.Random):
    """Draw what `data` spells; after its end zeros, which are the first choice."""

    def __new__(cls, data: bytes) -> "Choices":
        """Seed nothing by the bytes."""
        return super().__new__(cls)

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self._data = data
        self._at = 0

    def getrandbits(self, k: int) -> int:
        """Take as many bytes as `k` bits fill."""
        size = (k + 7) // 8
        piece = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(piece, "little") >> (8 * size - k)

    def random(self) -> float:
        """Take two bytes, which is as fine as a choice has to be."""
        return self.getrandbits(16) / (1 << 16)

    def seed(self, *_: Any, **__: Any) -> None:
        """Seed nothing: the bytes say all."""
