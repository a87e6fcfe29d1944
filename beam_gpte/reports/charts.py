"""Charts as inline SVG, for one page in light and dark: colours are CSS classes of `page.html`.

Every function gives markup that is safe to put into the page: texts in it are escaped.
"""

import dataclasses
import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 440, 210  # units of the drawing, about pixels of a phone; text stays readable there
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 18, 34
BINS = 24
MAP_SIZE = 440
NUMBERED = 8  # points of a map that the page says the texts of, where nobody can point at them


@dataclasses.dataclass(frozen=True)
class Points:
    """Points of a map in one colour: `xy` floats (n, 2), a text for each, and what they are, for the legend."""

    name: str
    xy: np.ndarray
    texts: Sequence[str]


def histogram(
    values: np.ndarray, label: str, unit: str, mark: tuple[float, str] | None = None
) -> str:
    """Counts of finite floats (n,), in at least `BINS` / 2.5 equal steps; `mark` is a value and what it is."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if mark is not None:
        low, high = min(low, mark[0]), max(high, mark[0])
    step = _nice(max(high - low, 1e-9) / BINS)
    first = math.floor(low / step + 1e-9)
    number = max(
        1, math.ceil(high / step - 1e-9) - first
    )  # the largest value belongs to the last step
    at = np.clip(np.floor(values / step + 1e-9).astype(int) - first, 0, number - 1)
    counts = np.bincount(at, minlength=number).tolist()
    every = max(1, round(_nice(number / 6)))
    places = max(0, math.ceil(-math.log10(step) - 1e-9))
    edges = [f"{(first + i) * step:.{places}f}" for i in range(number + 1)]
    titles = [f"{edges[i]} to {edges[i + 1]} {unit}: {count:,}" for i, count in enumerate(counts)]
    ticks = [(float(i), edges[i]) for i in range(-first % every, number + 1, every)]
    return bars(
        counts, titles, ticks, label, None if mark is None else (mark[0] / step - first, mark[1])
    )


def log_histogram(values: np.ndarray, label: str, unit: str) -> str:
    """Counts of whole numbers (n,), in steps that grow: four to a doubling, or fewer over a wide range."""
    values = np.maximum(np.asarray(values, np.int64), 1)
    low, high = (int(values.min()), int(values.max())) if len(values) else (1, 2)
    edges = np.unique(np.floor(np.geomspace(low, high + 1, BINS + 1)).astype(np.int64))
    counts, _ = np.histogram(values, edges)
    titles = [
        f"{edges[i]:,} to {edges[i + 1] - 1:,} {unit}: {count:,}" for i, count in enumerate(counts)
    ]
    round_numbers = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    inside = [number for number in round_numbers if edges[0] <= number <= edges[-1]]
    ticks = [
        (float(np.interp(number, edges, np.arange(len(edges)))), f"{number:,}") for number in inside
    ]
    return bars(counts.tolist(), titles, ticks[:: max(1, -(-len(ticks) // 7))], label)


def score_histogram(scores: Sequence[Sequence[float]], label: str) -> str:
    """Of a deduplication's report: [lower edge, pairs] each, up to 1."""
    edges = [edge for edge, _ in scores] + [1.0]
    counts = [int(count) for _, count in scores]
    titles = [
        f"{edges[i]:.4g} to {edges[i + 1]:.4g}: {count:,} pairs" for i, count in enumerate(counts)
    ]
    ticks = [(float(i), f"{edges[i]:.4g}") for i in range(0, len(edges), 4)]
    return bars(counts, titles, ticks, label)


def bars(
    counts: Sequence[int],
    titles: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    label: str,
    mark: tuple[float, str] | None = None,
) -> str:
    """A bar for each count; `ticks` and `mark` are places, in bars from the left, and what to write there."""
    plot, base = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM
    wide, top = plot / max(1, len(counts)), max([1, *counts])
    parts = []
    for count in range(0, top + 1, max(1, round(_nice(top / 4)))):
        y = base - count / top * (base - TOP)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(count)}</text>'
        )
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        tall = (
            max(1.5, count / top * (base - TOP)) if count else 0
        )  # a single one among many is seen
        box = f'x="{LEFT + i * wide + 0.5:.1f}" y="{base - tall:.1f}" width="{max(1, wide - 1):.1f}" height="{tall:.1f}"'
        parts.append(f'<rect class="bar" {box}><title>{escape(title)}</title></rect>')
    for place, text in ticks:
        parts.append(
            f'<text x="{LEFT + place * wide:.1f}" y="{base + 15}" text-anchor="middle">{escape(text)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{LEFT + plot / 2}" y="{HEIGHT - 3}" text-anchor="middle">{escape(label)}</text>'
    )
    if mark is not None:
        x = LEFT + mark[0] * wide
        side = "start" if x < WIDTH / 2 else "end"
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{base}"/>')
        beside = x + (4 if side == "start" else -4)
        parts.append(
            f'<text class="marked" x="{beside:.1f}" y="{TOP - 6}" text-anchor="{side}">{escape(mark[1])}</text>'
        )
    return _svg(parts, WIDTH, HEIGHT, label)


def categories(counts: dict[str, int], label: str) -> str:
    """A bar for each name, with its count on it."""
    plot, base = WIDTH - 2 * RIGHT, HEIGHT - BOTTOM
    wide, top = plot / max(1, len(counts)), max([1, *counts.values()])
    parts = [f'<line class="grid" x1="{RIGHT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for i, (name, count) in enumerate(counts.items()):
        tall, middle = (
            max(1.5, count / top * (base - TOP)) if count else 0,
            RIGHT + (i + 0.5) * wide,
        )
        width = min(56, wide * 0.7)
        box = f'x="{middle - width / 2:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
        parts.append(f'<rect class="bar" {box}><title>{escape(name)}: {count:,}</title></rect>')
        parts.append(
            f'<text class="count" x="{middle:.1f}" y="{base - tall - 4:.1f}" text-anchor="middle">{count:,}</text>'
        )
        parts.append(
            f'<text x="{middle:.1f}" y="{base + 15}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">{escape(label)}</text>'
    )
    return _svg(parts, WIDTH, HEIGHT, label)


def scatter(groups: Sequence[Points], label: str, joined: bool = False) -> tuple[str, list[str]]:
    """A map, and the texts of the points that have a number on it; `joined`: the first group's points and the second's
    belong together one by one, which lines show.
    """
    whole = np.concatenate([group.xy for group in groups])
    low, span = whole.min(axis=0), float(max(np.ptp(whole, axis=0).max(), 1e-9))
    margin = 14
    rest = (span - np.ptp(whole, axis=0)) / 2  # the shorter side is in the middle
    placed = [
        (group.xy - low + rest) / span * [1, -1] * (MAP_SIZE - 2 * margin)
        + [margin, MAP_SIZE - margin]
        for group in groups
    ]
    parts = []
    if joined:
        for (x1, y1), (x2, y2) in zip(*placed[:2], strict=True):
            parts.append(
                f'<line class="join" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
            )
    for i, (group, xy) in enumerate(zip(groups, placed, strict=True)):
        for (x, y), text in zip(xy, group.texts, strict=True):
            parts.append(
                f'<circle class="dot{i}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(text)}</title></circle>'
            )
    numbered = _far_apart(placed[0])
    for number, at in enumerate(numbered, start=1):
        x, y = placed[0][at]
        x, y = min(max(x, 10), MAP_SIZE - 10), min(max(y, 10), MAP_SIZE - 10)
        parts.append(f'<circle class="number" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        parts.append(
            f'<text class="numeral" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number}</text>'
        )
    return _svg(parts, MAP_SIZE, MAP_SIZE, label), [groups[0].texts[at] for at in numbered]


def _far_apart(xy: np.ndarray) -> list[int]:
    """Positions of up to `NUMBERED` points, each as far as can be from those before it."""
    chosen = [int(np.argmin(((xy - xy.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = np.full(len(xy), np.inf)
    while len(chosen) < min(NUMBERED, len(xy)):
        distance = np.minimum(distance, ((xy - xy[chosen[-1]]) ** 2).sum(axis=1))
        if distance.max() <= 0:
            break
        chosen.append(int(distance.argmax()))
    return chosen


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions (2, dim) in which `vectors`, floats (n, dim) around their mean, differ most, and their shares of
    the variance (2,). Each direction's largest component is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :2].T
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    shares = np.pad(values[::-1][:2], (0, max(0, 2 - len(values)))) / max(values.sum(), 1e-12)
    return axes * np.where(signs == 0, 1, signs)[:, None], shares


def _nice(step: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            return f"{count / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{count:,}"


def _svg(parts: list[str], width: int, height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
