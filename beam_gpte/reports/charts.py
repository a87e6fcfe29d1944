"""Count values for charts, which `page.js` draws with Bokeh: `histogram(cosines, "cosine")`.

A chart is data: what to draw, and the same numbers as a table, for readers without scripts.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 24


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Mark a value on the axis of a chart.

    Attributes:
      at: the value.
      name: of the line.
      above: what the bars from the value on are; those below are of another color.
      below: what these are.
      is_limit: whether it is bad to be above it, or good.
    """

    at: float
    name: str
    above: str = ""
    below: str = ""
    is_limit: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Hold what a chart shows; the base of all kinds."""

    @property
    def wide(self) -> bool:
        """Return whether it takes the whole width of a page."""
        return False

    def data(self) -> dict[str, Any]:
        """Return what `page.js` draws."""
        raise NotImplementedError

    def table(self) -> list[tuple[str, str]]:
        """Return the same numbers in rows of text; none if they are too many to read."""
        return []


@dataclasses.dataclass(frozen=True)
class Bars(Chart):
    """Show counts as bars, side by side.

    Attributes:
      counts: of each bar.
      names: what each bar holds.
      ticks: places below the axis, in bars from the left, and what to write there.
      label: of the axis.
      mark: place in bars of a threshold, if there is one, and the threshold.
      log: whether the axis of counts is logarithmic.
      unit: what is counted.
    """

    counts: Sequence[float]
    names: Sequence[str]
    ticks: Sequence[tuple[float, str]]
    label: str
    mark: tuple[float, Threshold] | None = None
    log: bool = False
    unit: str = ""

    def data(self) -> dict[str, Any]:
        """Return what `page.js` draws."""
        mark = None if self.mark is None else [self.mark[0], *dataclasses.astuple(self.mark[1])[1:]]
        return {
            "kind": "bars",
            "counts": list(self.counts),
            "names": list(self.names),
            "ticks": [list(tick) for tick in self.ticks],
            "label": self.label,
            "mark": mark,
            "log": self.log,
            "unit": self.unit,
        }

    def table(self) -> list[tuple[str, str]]:
        """Return the bars that hold something."""
        pairs = zip(self.names, self.counts, strict=True)
        return [
            (name, f"{count:,.4g}" if count % 1 else f"{count:,.0f}")
            for name, count in pairs
            if count
        ]


def histogram(
    values: np.ndarray, label: str, mark: Threshold | None = None, unit: str = ""
) -> Bars:
    """Count the finite ones of floats (n,) in at least `BINS` / 2.5 equal bins.

    With a threshold one edge is there, so that each bar is on one side of it.

    Args:
      values: floats (n,).
      label: of the axis.
      mark: a value to draw a line at.
      unit: what the values are of, in the plural.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if mark is not None:
        low, high = min(low, mark.at), max(high, mark.at)
    edges = nice_edges(low, high, 0.0 if mark is None else mark.at)
    # what is at an edge but for rounding belongs above it, and the maximum into the last bin
    places = np.searchsorted(edges, values + 1e-9 * (edges[1] - edges[0]), side="right") - 1
    counts = np.bincount(np.clip(places, 0, len(edges) - 2), minlength=len(edges) - 1)
    return bars_between(edges, counts.tolist(), label, mark, unit=unit)


def bars_between(
    edges: np.ndarray,
    counts: Sequence[float],
    label: str,
    mark: Threshold | None = None,
    log: bool = False,
    unit: str = "",
) -> Bars:
    """Name the bars of equal bins.

    Args:
      edges: ascending floats (n + 1,), equally far apart.
      counts: of the n bins.
      label: of the axis.
      mark: a value to draw a line at.
      log: whether the axis of counts is logarithmic.
      unit: what is counted, in the plural.
    """
    step = float(edges[1] - edges[0])
    decimals = max(0, math.ceil(-math.log10(step) + 1 - 1e-9)) if step < 1 else 0
    shown = [_number(edge, decimals) for edge in edges]
    names = [f"{shown[i]} to {shown[i + 1]}" for i in range(len(counts))]
    ticks = [
        ((value - edges[0]) / step, _number(value, decimals))
        for value in _round_values(float(edges[0]), float(edges[-1]))
    ]
    place = None if mark is None else (float((mark.at - edges[0]) / step), mark)
    return Bars(counts, names, ticks, label, place, log, unit)


def nice_edges(low: float, high: float, aligned: float) -> np.ndarray:
    """Divide a range into bins of a round size, of which one begins at `aligned`."""
    step = _round_up(max(high - low, 1e-9) / BINS)
    first = math.floor((low - aligned) / step + 1e-9)
    last = max(first + 1, math.ceil((high - aligned) / step - 1e-9))
    return aligned + np.arange(first, last + 1) * step


def log_histogram(
    values: np.ndarray, label: str, mark: Threshold | None = None, unit: str = "texts"
) -> Bars:
    """Count integers (n,) in bins that grow: four per doubling, or fewer over a wide range."""
    values = np.maximum(np.asarray(values, np.int64), 1)
    low, high = (int(values.min()), int(values.max())) if len(values) else (1, 2)
    if mark is not None:
        high = max(high, int(mark.at))
    edges = np.unique(np.floor(np.geomspace(low, high + 1, BINS + 1)).astype(np.int64))
    if mark is not None:  # the first value above it begins a bar
        edges = np.unique(np.append(edges, np.clip(int(mark.at) + 1, low, high + 1)))
    counts, _ = np.histogram(values, edges)
    names = [_whole(int(edges[i]), int(edges[i + 1]) - 1) for i in range(len(counts))]
    round_numbers = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    inside = [number for number in round_numbers if edges[0] <= number <= edges[-1]]
    bars = np.arange(len(edges))
    places = np.interp(inside, edges, bars).tolist()
    ticks = [(place, f"{number:,}") for place, number in zip(places, inside, strict=True)]
    place = None
    if mark is not None:
        place = (float(np.interp(int(mark.at) + 1, edges, bars)), mark)
    every = max(1, -(-len(ticks) // 7))
    return Bars(counts.tolist(), names, ticks[::every], label, place, unit=unit)


def categories(counts: Mapping[str, int], label: str, unit: str) -> Bars:
    """Count by name."""
    ticks = [(i + 0.5, name) for i, name in enumerate(counts)]
    return Bars([*counts.values()], [*counts], ticks, label, unit=unit)


def _whole(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _number(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _round_values(low: float, high: float) -> list[float]:
    """List five or so round values of a range."""
    step = _round_up((high - low) / 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _round_up(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
