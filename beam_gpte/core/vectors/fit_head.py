"""Fit a head to labeled vectors, calibrate it, and measure it, each on rows of its own.

    rows by hash of the id --> most: fitted by L-BFGS in float64, with a few strengths of decay
                           --> some: choose the decay, and calibrate
                           --> some: the report

A classification is calibrated by a temperature (Guo et al., "On calibration of modern neural
networks", 2017), a regression by a line.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.vectors.fit_layers import folded, minimized, rotated, start_of
from beam_gpte.core.vectors.head import KINDS, Head, Label, Layer, softmax

DECAYS = (1e-2, 1e-3, 1e-4, 1e-5)  # of weights, for inputs of mean variance 1; largest first
USUAL_DECAY = 1e-3  # where too few rows are left to choose one
MIN_CALIBRATED = 30  # rows, to calibrate or to choose a decay
MAX_CLASSES = 1000
SCALES = (0.1, 10.0)  # of logits
BINS = 15  # of the expected calibration error, as in Guo et al.


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """Say how `FitHead` fits.

    Attributes:
      balanced: let every class count the same, however many rows it has; probabilities are then
        those of classes of equal frequency. False takes the rows as they are.
      holdout: share of the rows that the head is not fitted to, half to calibrate it, half to
        measure it.
      max_rows: maximum number of rows to use, those with the smallest hashes of their ids.
      decay: of the weights, for inputs of mean variance 1; None chooses one of four.
    """

    balanced: bool = False
    holdout: float = 0.2
    max_rows: int = 100_000
    decay: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.holdout <= 0.9:
            raise InputError(f"holdout is {self.holdout}; use a share from 0 to 0.9")
        if self.max_rows < 2:
            raise InputError(f"max_rows is {self.max_rows}; use 2 or more")
        if self.decay is not None and not 0 <= self.decay < np.inf:
            raise InputError(f"decay is {self.decay}; use 0 or more, or None")


@dataclasses.dataclass(frozen=True, eq=False)
class LabeledVectors:
    """Hold rows to fit, in an order of their own.

    Attributes:
      vectors: float32 (n, d).
      labels: of a classification strings, integers or booleans; of a regression floats.
      hashes: of the ids, uint64 (n,): they say what a row is for.
      metadata: of the vectors.
    """

    vectors: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray
    metadata: VectorMetadata | None

    def take(self, rows: np.ndarray) -> "LabeledVectors":
        """Return some of the rows."""
        chosen = self.vectors[rows], self.labels[rows], self.hashes[rows]
        return LabeledVectors(*chosen, self.metadata)


def check_kind(kind: str, hidden: int) -> None:
    """Refuse settings of a head that there is not.

    Raises:
      InputError: the kind is unknown, or the hidden layer has less than no units.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: choose {' or '.join(KINDS)}")
    if hidden < 0:
        raise InputError(f"hidden is {hidden}; use 0 for a linear head, or a number of units")


def fit_head(rows: LabeledVectors, kind: str, hidden: int, options: HeadOptions) -> Head:
    """Fit a head.

    Args:
      rows: of 2 or more; the result depends on their order only by rounding.
      kind: ``classification`` or ``regression``.
      hidden: units of the hidden layer; 0 for a linear head.
      options: see `HeadOptions`.

    Raises:
      InputError: there is one class, or there are more than 1,000, or too few rows.
    """
    if len(rows.labels) < 2:
        raise InputError(f"{len(rows.labels)} labeled rows; give 2 or more")
    classes = _classes(rows.labels) if kind == "classification" else ()
    at, calibrating, measuring = _split(rows, classes, options.holdout)
    enough = len(calibrating) >= MIN_CALIBRATED
    if not enough:
        at, calibrating = np.sort(np.concatenate([at, calibrating])), calibrating[:0]
    fitted, calibrated, measured = (rows.take(part) for part in (at, calibrating, measuring))
    if kind == "classification":
        fit: _Fit = _Classification(classes, fitted.labels, options.balanced)
    else:
        fit = _Regression(fitted.labels)
    decays: Sequence[float] = DECAYS if enough else (USUAL_DECAY,)
    if options.decay is not None:
        decays = (options.decay,)
    layers, decay = _best(fit, fitted, calibrated, hidden, decays)
    head = Head(kind, classes, layers, 1.0, 0.0, rows.metadata, {})
    if enough:
        scale, shift = fit.calibrate(head.outputs(calibrated.vectors), calibrated.labels)
        head = dataclasses.replace(head, scale=scale, shift=shift)
    counts = {
        "rows_fitted": len(fitted.labels),
        "rows_calibrated": len(calibrated.labels),
        "rows_measured": len(measured.labels),
        "hidden": hidden,
        "decay": decay,
        "balanced": options.balanced,
    }
    report = {**counts, **fit.summary(rows.labels), **fit.measure(head, measured)}
    return dataclasses.replace(head, report=report)


def _classes(labels: np.ndarray) -> tuple[Label, ...]:
    classes = tuple(np.unique(labels).tolist())
    if len(classes) == 1:
        raise InputError(f"all labels are {shown(classes[0])}; a classification needs two or more")
    if len(classes) > MAX_CLASSES:
        raise InputError(
            f"{len(classes)} different labels, such as {shown(classes[0])}; use at most "
            f'{MAX_CLASSES}, or kind="regression" for numbers'
        )
    return classes


def _split(
    rows: LabeledVectors, classes: tuple[Label, ...], holdout: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide rows by the low bits of their hashes: to fit, to calibrate, to measure.

    A class all of whose rows would be held out is fitted.
    """
    share = (rows.hashes & np.uint64(0xFFFFFF)).astype(np.float64) / (1 << 24)
    held = share < holdout
    for name in classes:
        of_class = rows.labels == name
        if held[of_class].all():
            held &= ~of_class
    if held.all():
        held[:] = False
    first = share < holdout / 2
    return np.flatnonzero(~held), np.flatnonzero(held & first), np.flatnonzero(held & ~first)


class _Fit:
    """Say what is minimized, how outputs are calibrated, and what is measured."""

    outputs: int
    curvature: float  # see `fit_layers`

    def scaling(self) -> tuple[float, float]:
        """Give the factor and shift from outputs to labels."""
        return 1.0, 0.0

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Give the targets of labels, and through `loss` the loss of outputs."""
        raise NotImplementedError

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Give the mean loss and its gradient by outputs (n, outputs)."""
        raise NotImplementedError

    def calibrate(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Fit scale and shift of outputs."""
        raise NotImplementedError

    def summary(self, labels: np.ndarray) -> dict[str, Any]:
        """Describe the labels."""
        raise NotImplementedError

    def measure(self, head: Head, rows: LabeledVectors) -> dict[str, Any]:
        """Measure a head on rows that it does not know."""
        raise NotImplementedError


class _Classification(_Fit):
    def __init__(self, classes: tuple[Label, ...], labels: np.ndarray, balanced: bool) -> None:
        self._names = np.array(classes, labels.dtype)
        self.outputs = len(classes)
        self.curvature = (1 - 1 / len(classes)) / len(classes)  # of equal probabilities
        counts = np.bincount(self.targets(labels), minlength=len(classes))
        weights = len(labels) / (len(classes) * np.maximum(counts, 1))
        self._weights = weights if balanced else np.ones(len(classes))

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._names, labels)

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        probabilities, at = softmax(outputs), np.arange(len(targets))
        weights = self._weights[targets] / self._weights[targets].sum()
        total = -(weights * np.log(np.maximum(probabilities[at, targets], 1e-300))).sum()
        probabilities[at, targets] -= 1
        return float(total), probabilities * weights[:, None]

    def calibrate(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

        targets = self.targets(labels)
        found = minimize_scalar(
            lambda power: self.loss(outputs * np.exp(power), targets)[0],
            bounds=tuple(np.log(SCALES)),
            method="bounded",
        )
        return float(np.exp(found.x)), 0.0

    def summary(self, labels: np.ndarray) -> dict[str, Any]:
        counts = np.bincount(self.targets(labels), minlength=len(self._names))
        names = map(str, self._names.tolist())
        return {"rows_by_class": dict(zip(names, counts.tolist(), strict=True))}

    def measure(self, head: Head, rows: LabeledVectors) -> dict[str, Any]:
        if not len(rows.labels):
            return {}
        targets = self.targets(rows.labels)
        raw = dataclasses.replace(head, scale=1.0).probabilities(rows.vectors)
        found = head.probabilities(rows.vectors)
        right = found.argmax(axis=1) == targets
        present = np.unique(targets)
        recalls = [right[targets == one].mean() for one in present]
        frequent = np.bincount(targets).max() / len(targets)
        return {
            "accuracy": _rounded(right.mean()),
            "balanced_accuracy": _rounded(np.mean(recalls)),
            "most_frequent_class": _rounded(frequent),
            "log_loss": _rounded(log_loss(found, targets)),
            "log_loss_before": _rounded(log_loss(raw, targets)),
            "calibration_error": _rounded(calibration_error(found, targets)),
            "calibration_error_before": _rounded(calibration_error(raw, targets)),
        }


class _Regression(_Fit):
    outputs, curvature = 1, 1.0

    def __init__(self, labels: np.ndarray) -> None:
        self.mean, self.deviation = float(labels.mean()), float(labels.std()) or 1.0

    def scaling(self) -> tuple[float, float]:
        return self.deviation, self.mean

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return (labels - self.mean) / self.deviation

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        difference = outputs - targets[:, None]
        return float((difference**2).mean() / 2), difference / len(targets)

    def calibrate(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        predicted = outputs[:, 0]
        around = predicted - predicted.mean()
        variance = float(around @ around)
        scale = float(around @ labels) / variance if variance > 0 else 0.0
        scale = max(scale, 0.0)  # a head that orders rows the wrong way round says nothing
        return scale, float(labels.mean() - scale * predicted.mean())

    def summary(self, labels: np.ndarray) -> dict[str, Any]:
        return {"label_mean": _rounded(labels.mean()), "label_deviation": _rounded(labels.std())}

    def measure(self, head: Head, rows: LabeledVectors) -> dict[str, Any]:
        if not len(rows.labels):
            return {}
        error = head.values(rows.vectors).astype(np.float64) - rows.labels
        variance = float(np.var(rows.labels))
        from_median = np.abs(rows.labels - np.median(rows.labels)).mean()
        found = {
            "mean_absolute_error": _rounded(np.abs(error).mean()),
            "mean_absolute_error_of_median": _rounded(from_median),
            "root_mean_squared_error": _rounded(np.sqrt((error**2).mean())),
        }
        r2 = 1 - float((error**2).mean()) / variance if variance > 0 else None
        return {"r2": None if r2 is None else _rounded(r2), **found}


def _rounded(value: Any) -> float:
    return round(float(value), 6)


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute the mean negative log-likelihood of the true classes."""
    of_true = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.maximum(of_true, 1e-12)).mean())


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute the expected calibration error, in 15 bins of equal width, of the likeliest class."""
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, sure, BINS) - np.bincount(bins, right, BINS)
    return float(np.abs(gaps).sum() / len(targets))


def _best(
    fit: _Fit,
    fitted: LabeledVectors,
    calibrated: LabeledVectors,
    hidden: int,
    decays: Sequence[float],
) -> tuple[tuple[Layer, ...], float]:
    """Fit with each decay, from the largest, while the loss falls, and keep the best layers.

    Smaller decays than the first one that is worse fit more noise, in more steps.
    """
    inputs, targets = rotated(fitted.vectors), fit.targets(fitted.labels)
    weights = start_of(inputs, hidden, fit.outputs)
    best: tuple[float, tuple[Layer, ...], float] | None = None
    for decay in decays:
        weights = minimized(fit, inputs, targets, weights, decay)
        layers = folded(inputs, weights, *fit.scaling())
        if len(decays) == 1:
            return layers, decay
        head = Head("", (), layers, 1.0, 0.0, None, {})
        outputs, of_others = head.outputs(calibrated.vectors), fit.targets(calibrated.labels)
        if isinstance(fit, _Regression):
            outputs = fit.targets(outputs)
        loss = fit.loss(outputs, of_others)[0]
        if best is not None and loss >= best[0]:
            break
        best = loss, layers, decay
    assert best is not None
    return best[1], best[2]
