"""Layers are fitted along principal axes: to the same minimum, in few steps."""

import numpy as np
import pytest
from scipy.optimize import minimize

from beam_gpte.core.vectors.fit_layers import _loss, folded, minimized, rotated, start_of
from beam_gpte.core.vectors.head import Head, softmax


class Logistic:
    """Cross-entropy of three classes, which counts how often it is asked for."""

    outputs, curvature = 3, 2 / 9

    def __init__(self) -> None:
        self.calls = 0

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        slope, at = softmax(outputs), np.arange(len(targets))
        value = -np.log(slope[at, targets]).mean()
        slope[at, targets] -= 1
        return float(value), slope / len(targets)


def embeddings(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose dimensions differ ten thousandfold in variance, as those of models may."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    plain = random.standard_normal((rows, dim)) * np.geomspace(1, 1e-2, dim)
    targets = (plain @ random.standard_normal((dim, 3)) * 2).argmax(axis=1)
    return (plain @ axes + random.standard_normal(dim)).astype(np.float32), targets


def of_raw(flat: np.ndarray, vectors: np.ndarray, targets: np.ndarray, decay: float) -> float:
    """The same objective of weights for vectors as they are, by its definition."""
    inputs = vectors - vectors.mean(axis=0, dtype=np.float64)
    inputs /= np.sqrt((inputs**2).mean())
    weights, bias = flat[:-3].reshape(-1, 3), flat[-3:]
    return Logistic().loss(inputs @ weights + bias, targets)[0] + decay / 2 * (weights**2).sum()


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_the_minimum_is_that_without_a_rotation(decay: float) -> None:
    vectors, targets = embeddings(300, 12)
    inputs, objective = rotated(vectors), Logistic()
    weights = minimized(objective, inputs, targets, start_of(inputs, 0, 3), decay)
    found = np.concatenate([(inputs.axes @ weights[0]).reshape(-1), weights[1]])
    plain = minimize(
        of_raw, np.zeros(39), (vectors, targets, decay), "BFGS", options={"gtol": 1e-7}
    )
    assert of_raw(found, vectors, targets, decay) == pytest.approx(plain.fun, rel=1e-6)


def test_few_steps_are_enough_where_dimensions_differ() -> None:
    vectors, targets = embeddings(2000, 100)
    inputs, objective = rotated(vectors), Logistic()
    start = start_of(inputs, 0, 3)
    for decay in (1e-2, 1e-3, 1e-4):
        start = minimized(objective, inputs, targets, start, decay)
    assert objective.calls < 150


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_are_those_of_small_differences(hidden: int) -> None:
    vectors, targets = embeddings(40, 4)
    inputs, random = rotated(vectors), np.random.default_rng(1)
    weights = [
        part + 0.3 * random.standard_normal(part.shape) for part in start_of(inputs, hidden, 3)
    ]
    _, gradients = _loss(Logistic(), inputs.rows, targets, weights)
    for part, gradient in zip(weights, gradients, strict=True):
        for at in np.ndindex(part.shape):
            values = []
            for step in (1e-5, -1e-5):
                part[at] += step
                values.append(_loss(Logistic(), inputs.rows, targets, weights)[0])
                part[at] -= step
            assert gradient[at] == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("hidden", [0, 5])
def test_folded_layers_take_vectors_as_they_are(hidden: int) -> None:
    vectors, _ = embeddings(40, 6)
    inputs, random = rotated(vectors), np.random.default_rng(1)
    weights = [random.standard_normal(part.shape) for part in start_of(inputs, hidden, 3)]
    results = inputs.rows @ weights[0] + weights[1]
    if hidden:
        results = np.maximum(results, 0) @ weights[2] + weights[3]
    head = Head("", (), folded(inputs, weights, 2.0, 7.0), 1.0, 0.0, None, {})
    np.testing.assert_allclose(head.outputs(vectors), 2 * results + 7, rtol=1e-3, atol=1e-3)


def test_vectors_without_a_difference_are_fitted_too() -> None:
    vectors = np.ones((4, 3), np.float32)
    inputs = rotated(vectors)
    targets = np.array([0, 1, 2, 2])
    weights = minimized(Logistic(), inputs, targets, start_of(inputs, 0, 3), 0.0)
    probabilities = softmax(inputs.rows @ weights[0] + weights[1])
    np.testing.assert_allclose(probabilities, [[0.25, 0.25, 0.5]] * 4, atol=1e-3)
