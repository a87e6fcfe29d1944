"""Map vectors of one model into the space of another: `VectorMap.apply(vectors)`.

    vectors --> length 1 --> minus a mean --> times a matrix --> plus the other mean --> length 1

Its file is one of safetensors, with all else in the header; see `core.vectors.fitted_file`.
`core.vectors.fit_vector_map` fits maps.
"""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.vectors.fitted_file import fitted_bytes, read_fitted

METHODS = ("orthogonal", "least_squares")
ROWS_AT_ONCE = 4096
_KEY, _WHAT, _REPAIR = "vector_map", "a map that FitVectorMap wrote", "fit it again"


@dataclasses.dataclass(frozen=True, eq=False)
class VectorMap:
    """Map unit vectors x to (x - source_mean) weights + target_mean, normalized.

    Attributes:
      weights: float32 (dim, new dim).
      source_mean: float32 (dim,).
      target_mean: float32 (new dim,).
      source: metadata of the vectors that are mapped; None if they had none.
      target: of those in whose space the results are; None if they had none.
      report: settings and what was measured on rows that the map was not fitted to.
    """

    weights: np.ndarray
    source_mean: np.ndarray
    target_mean: np.ndarray
    source: VectorMetadata | None
    target: VectorMetadata | None
    report: dict[str, Any]

    @property
    def dim(self) -> int:
        """Return the dimensions of the vectors that are mapped."""
        return self.weights.shape[0]

    @property
    def fingerprint(self) -> str:
        """Hash the numbers."""
        numbers = self.source_mean, self.weights, self.target_mean
        content = b"".join(np.ascontiguousarray(part, np.float32).tobytes() for part in numbers)
        return hashlib.sha256(content).hexdigest()[:16]

    def metadata(self) -> VectorMetadata | None:
        """Describe mapped vectors: those of the target, with a fingerprint of their own.

        `VectorMetadata.mapped` has the fingerprints of both models. None if either is unknown.
        """
        if self.source is None or self.target is None:
            return None
        return dataclasses.replace(
            self.target.derive({"vector_map": self.fingerprint, "of": self.source.fingerprint}),
            dim=self.weights.shape[1],
            normalized=True,
            quantization="float32",
            int8_limit=None,
            canaries="",
            mapped=f"{self.source.fingerprint} {self.target.fingerprint}",
        )

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors.

        Args:
          vectors: floats (n, dim), of any length but 0.

        Returns:
          float32 (n, new dim) of length 1; zero for a vector without a direction, before or after.
        """
        starts = range(0, max(1, len(vectors)), ROWS_AT_ONCE)
        return np.concatenate([self._apply(vectors[i : i + ROWS_AT_ONCE]) for i in starts])

    def _apply(self, vectors: np.ndarray) -> np.ndarray:
        moved = unit(vectors) - self.source_mean
        results = unit(moved @ self.weights.astype(np.float64) + self.target_mean)
        results[~vectors.any(axis=1)] = 0
        return results.astype(np.float32)

    def description(self) -> dict[str, Any]:
        """Give all but the numbers, for JSON."""
        sides = {"source": self.source, "target": self.target}
        known = {
            name: None if side is None else json.loads(side.to_json())
            for name, side in sides.items()
        }
        return {"dim": self.dim, "new_dim": self.weights.shape[1], **known, "report": self.report}

    def to_bytes(self) -> bytes:
        """Serialize to the content of a ``.safetensors`` file."""
        tensors = {
            "weights": self.weights,
            "source_mean": self.source_mean,
            "target_mean": self.target_mean,
        }
        return fitted_bytes(_KEY, tensors, self.description())

    @classmethod
    def from_bytes(cls, data: bytes) -> "VectorMap":
        """Restore the result of `to_bytes`.

        Raises:
          InputError: the file is something else, or of a later format.
        """
        return read_fitted(_KEY, data, cls._restored, _WHAT, _REPAIR)

    @classmethod
    def _restored(cls, tensors: dict[str, np.ndarray], described: dict[str, Any]) -> "VectorMap":
        source, target = (_known(described[name]) for name in ("source", "target"))
        numbers = tensors["weights"], tensors["source_mean"], tensors["target_mean"]
        weights, *means = numbers
        if weights.ndim != 2 or [mean.shape for mean in means] != [(n,) for n in weights.shape]:
            raise ValueError(f"weights of {weights.shape}, means of other dimensions")
        if not all(np.isfinite(part).all() for part in numbers):
            raise ValueError("numbers that are not finite")
        return cls(*numbers, source, target, dict(described["report"]))


def _known(described: dict[str, Any] | None) -> VectorMetadata | None:
    return None if described is None else VectorMetadata.from_json(json.dumps(described))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Normalize vectors, float64 (n, dim); zero stays zero."""
    results = vectors.astype(np.float64)
    lengths = np.linalg.norm(results, axis=1, keepdims=True)
    return np.divide(results, lengths, out=np.zeros_like(results), where=lengths > 0)


def check_method(method: str) -> None:
    """Refuse a method that there is not."""
    if method not in (*METHODS, "auto"):
        raise InputError(f"method {method!r}: choose auto, {' or '.join(METHODS)}")
