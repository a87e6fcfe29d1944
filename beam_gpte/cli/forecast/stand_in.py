"""Stand in for a model where only what Beam does with its vectors is measured."""

import hashlib
from collections.abc import Mapping

import numpy as np

APART = 0.1  # of a third vector: two sides of the same vectors are refused


class StandIn:
    """Give vectors that lie like those of a model: sums of two of them, chosen by the text.

    Args:
      vectors: of the model, float32 (n, dim).
      seeds: of texts; texts of one seed get nearly one vector.
    """

    fingerprint = "stand-in"

    def __init__(self, vectors: np.ndarray, seeds: Mapping[str, int] | None = None) -> None:
        self._vectors, self._seeds = vectors, dict(seeds or {})

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return one unit vector per text, float32 (n, dim)."""
        count, hashes = len(self._vectors), [_hash(text) for text in texts]
        seeds = [self._seeds.get(text, number) for text, number in zip(texts, hashes, strict=True)]
        pairs = np.array([(seed % count, seed // count % count) for seed in seeds], int)
        sums = self._vectors[pairs.reshape(-1, 2)].sum(axis=1, dtype=np.float32)
        apart = np.array([number // count**2 % count for number in hashes], int)
        sums += np.float32(APART) * self._vectors[apart] + np.float32(1e-6)  # never zero
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
