"""Predict a class or a number from a vector, by a linear head or one with a hidden layer.

    vectors --> (W1 x + b1 --> the positive part) --> W2 x + b2 --> softmax at a temperature
                                                               --> or a number

`Head` needs NumPy alone. Its file is one of safetensors, with all else in the header; see
`core.vectors.fitted_file`. `core.vectors.fit_head` fits heads.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.vectors.fitted_file import fitted_bytes, read_fitted

KINDS = ("classification", "regression")
ROWS_AT_ONCE = 4096
_KEY = "head"  # of its description in the header of its file
Label = str | int | bool
Layer = tuple[np.ndarray, np.ndarray]  # float32 (inputs, outputs), (outputs,)


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """Predict from vectors.

    Attributes:
      kind: ``classification`` or ``regression``.
      classes: sorted labels, strings, integers or booleans; empty for a regression.
      layers: one or two; numbers between two are their positive part.
      scale: of the outputs: logits are multiplied by it (1 / temperature), and predicted numbers.
      shift: is added to predicted numbers; 0 for a classification.
      metadata: of the vectors that it was fitted to; None if they had none.
      report: settings and what was measured on rows that it was not fitted to.
    """

    kind: str
    classes: tuple[Label, ...]
    layers: tuple[Layer, ...]
    scale: float
    shift: float
    metadata: VectorMetadata | None
    report: dict[str, Any]

    @property
    def dim(self) -> int:
        """Return the dimensions of its vectors."""
        return self.layers[0][0].shape[0]

    def outputs(self, vectors: np.ndarray) -> np.ndarray:
        """Compute logits, or numbers, before calibration: float64 (n, outputs).

        Args:
          vectors: floats (n, dim).
        """
        (weights, bias), *others = self.layers
        results = vectors.astype(np.float64) @ weights.astype(np.float64) + bias
        for weights, bias in others:
            results = np.maximum(results, 0) @ weights.astype(np.float64) + bias
        return results

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Compute calibrated probabilities of the classes: float32 (n, classes)."""
        parts = _parts(vectors)
        found = [softmax(self.outputs(part) * self.scale) for part in parts]
        return np.concatenate(found).astype(np.float32)

    def values(self, vectors: np.ndarray) -> np.ndarray:
        """Compute calibrated numbers of a regression: float32 (n,)."""
        found = [self.outputs(part)[:, 0] * self.scale + self.shift for part in _parts(vectors)]
        return np.concatenate(found).astype(np.float32)

    def to_bytes(self) -> bytes:
        """Serialize to the content of a ``.safetensors`` file."""
        tensors = {}
        for number, (weights, bias) in enumerate(self.layers, 1):
            tensors[f"layer{number}.weight"] = weights
            tensors[f"layer{number}.bias"] = bias
        return fitted_bytes(_KEY, tensors, self.description())

    def description(self) -> dict[str, Any]:
        """Give all but the weights, for JSON."""
        known = None if self.metadata is None else json.loads(self.metadata.to_json())
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "layers": len(self.layers),
            "dim": self.dim,
            "scale": self.scale,
            "shift": self.shift,
            "vectors": known,
            "report": self.report,
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> "Head":
        """Restore the result of `to_bytes`.

        Raises:
          InputError: the file is something else, or of a later format.
        """
        return read_fitted(_KEY, data, cls._restored, "a head that FitHead wrote", "fit it again")

    @classmethod
    def _restored(cls, tensors: dict[str, np.ndarray], described: dict[str, Any]) -> "Head":
        names = [f"layer{i}" for i in range(1, int(described["layers"]) + 1)]
        layers = tuple((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names)
        known = described["vectors"]
        head = cls(
            described["kind"],
            tuple(described["classes"]),
            layers,
            float(described["scale"]),
            float(described["shift"]),
            None if known is None else VectorMetadata.from_json(json.dumps(known)),
            dict(described["report"]),
        )
        head.check()
        return head

    def check(self) -> None:
        """Refuse layers that do not fit together.

        Raises:
          ValueError: they do not.
        """
        inputs = self.dim
        for weights, bias in self.layers:
            if weights.shape != (inputs, len(bias)) or bias.ndim != 1:
                raise ValueError(f"weights of {weights.shape}, biases of {bias.shape}")
            if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
                raise ValueError("weights that are not finite")
            inputs = len(bias)
        if self.kind not in KINDS or inputs != (len(self.classes) or 1):
            raise ValueError(f"{inputs} outputs for {len(self.classes)} classes")
        if (self.kind == "classification") != bool(self.classes):
            raise ValueError(f"{self.kind} with {len(self.classes)} classes")


def _parts(vectors: np.ndarray) -> list[np.ndarray]:
    starts = range(0, max(1, len(vectors)), ROWS_AT_ONCE)
    return [vectors[start : start + ROWS_AT_ONCE] for start in starts]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute probabilities, float64 (n, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
