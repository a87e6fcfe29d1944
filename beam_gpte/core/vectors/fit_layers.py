"""Minimize a loss of one or two layers over vectors, by L-BFGS in float64.

    vectors --> RotatedInputs --> minimized, with the largest decay --> weights --> folded: layers
                                  minimized, with the next one, from these, and so on

Dimensions of embeddings differ in variance a hundredfold and more, which L-BFGS pays for by
hundreds of steps. So inputs are rotated to their principal axes, where the curvature of the loss
is about that of the outputs times the variance, plus the decay; steps are taken in units of its
root. What is minimized stays the same.
"""

import dataclasses
from typing import Protocol

import numpy as np

from beam_gpte.core.vectors.head import Layer

STOP = {"maxiter": 200, "gtol": 1e-5}  # L-BFGS, after so many steps or at such a gradient
SMALLEST = 1e-9  # of the largest variance, that an axis counts as having
SEED = 0  # of the weights of a hidden layer


class Objective(Protocol):
    """Say what is minimized."""

    outputs: int
    curvature: float  # of the mean loss by an output, about

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Give the mean loss, and its gradient by outputs (n, outputs)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RotatedInputs:
    """Hold vectors around their mean, at a mean variance of 1, along their principal axes.

    Attributes:
      rows: float64 (n, d).
      variances: float64 (d,), of each axis.
      axes: float64 (d, d), orthonormal, one a column.
      mean: float64 (d,), of the vectors.
      spread: that they were divided by.
    """

    rows: np.ndarray
    variances: np.ndarray
    axes: np.ndarray
    mean: np.ndarray
    spread: float


def rotated(vectors: np.ndarray) -> RotatedInputs:
    """Rotate vectors, float32 (n, d)."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    rows = vectors - mean
    spread = float(np.sqrt(np.einsum("ij,ij->", rows, rows) / rows.size)) or 1.0
    rows /= spread
    variances, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return RotatedInputs(rows @ axes, np.maximum(variances, 0), axes, mean, spread)


def start_of(inputs: RotatedInputs, hidden: int, outputs: int) -> list[np.ndarray]:
    """Give weights and biases to begin with: zeros, and of a hidden layer He's random ones."""
    dim = len(inputs.variances)
    if not hidden:
        return [np.zeros((dim, outputs)), np.zeros(outputs)]
    random = np.random.default_rng(SEED)
    first = random.standard_normal((dim, hidden)) * np.sqrt(2 / dim)
    second = random.standard_normal((hidden, outputs)) * np.sqrt(1 / hidden)
    return [inputs.axes.T @ first, np.zeros(hidden), second, np.zeros(outputs)]


def minimized(
    objective: Objective,
    inputs: RotatedInputs,
    targets: np.ndarray,
    start: list[np.ndarray],
    decay: float,
) -> list[np.ndarray]:
    """Minimize the mean loss and half the decay times the squares of all weights.

    Args:
      objective: the loss.
      inputs: of n rows.
      targets: of the rows.
      start: weights, of rotated inputs, and biases, in turn.
      decay: 0 or more.

    Returns:
      As `start`.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    shapes = [part.shape for part in start]
    ends = np.cumsum([part.size for part in start])[:-1]
    units = _units(objective, inputs, start, decay)

    def parts_of(flat: np.ndarray) -> list[np.ndarray]:
        parts = zip(np.split(flat, ends), shapes, units, strict=True)
        return [part.reshape(shape) * unit for part, shape, unit in parts]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parts_of(flat)
        value, gradients = _loss(objective, inputs.rows, targets, weights)
        for at in range(0, len(weights), 2):
            value += decay / 2 * float((weights[at] ** 2).sum())
            gradients[at] += decay * weights[at]
        scaled = (part * unit for part, unit in zip(gradients, units, strict=True))
        return value, np.concatenate([part.reshape(-1) for part in scaled])

    pairs = zip(start, units, strict=True)
    flat = np.concatenate([(part / unit).reshape(-1) for part, unit in pairs])
    found = minimize(loss, flat, jac=True, method="L-BFGS-B", options=STOP)
    return parts_of(found.x)


def _units(
    objective: Objective, inputs: RotatedInputs, start: list[np.ndarray], decay: float
) -> list[np.ndarray]:
    """Give the units of steps for each of `start`: the inverse root of the curvature there."""
    variances = np.maximum(inputs.variances, SMALLEST * inputs.variances.max())
    curvatures = objective.curvature * np.where(variances > 0, variances, 1)[:, None] + decay
    first = 1 / np.sqrt(curvatures)
    bias = np.array(objective.curvature**-0.5)
    return [first, bias] if len(start) == 2 else [first, bias, bias, bias]


def _loss(
    objective: Objective, inputs: np.ndarray, targets: np.ndarray, weights: list[np.ndarray]
) -> tuple[float, list[np.ndarray]]:
    """Give the loss without decay, and its gradients."""
    if len(weights) == 2:
        value, slope = objective.loss(inputs @ weights[0] + weights[1], targets)
        return value, [inputs.T @ slope, slope.sum(axis=0)]
    first, first_bias, second, second_bias = weights
    active = np.maximum(inputs @ first + first_bias, 0)
    value, slope = objective.loss(active @ second + second_bias, targets)
    back = (slope @ second.T) * (active > 0)
    return value, [inputs.T @ back, back.sum(axis=0), active.T @ slope, slope.sum(axis=0)]


def folded(
    inputs: RotatedInputs, weights: list[np.ndarray], factor: float, shift: float
) -> tuple[Layer, ...]:
    """Give layers that take vectors as they are, in float32.

    Args:
      inputs: that the weights are for.
      weights: of `minimized`.
      factor: to multiply the outputs by.
      shift: to add to them then.
    """
    first, bias, *others = weights
    first = inputs.axes @ first / inputs.spread
    layers = [(first, bias - inputs.mean @ first)]
    if others:
        layers.append((others[0], others[1]))
    last, end = layers[-1]
    layers[-1] = last * factor, end * factor + shift
    return tuple((one.astype(np.float32), two.astype(np.float32)) for one, two in layers)
