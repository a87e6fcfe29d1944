"""Draw charts as inline SVG, for light and dark: their colors are CSS classes of `page.html`.

Every function returns markup that is safe to put into a page: the texts in it are escaped.
"""

import dataclasses
import math
from collections.abc import Sequence
from html import escape

import numpy as np

# units of the drawing, about the pixels of a phone, so that text stays readable there
WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 18, 34
BINS = 24
MAP_SIZE = 440
MAP_MARGIN = 14
MAX_NUMBERED = 8  # points of a map whose texts are listed, for paper and touch screens


@dataclasses.dataclass(frozen=True)
class Points:
    """Describe the points of a map that share one color.

    Attributes:
      name: for the legend.
      xy: floats (n, 2).
      texts: one for each point.
    """

    name: str
    xy: np.ndarray
    texts: Sequence[str]


def histogram(
    values: np.ndarray, label: str, unit: str, mark: tuple[float, str] | None = None
) -> str:
    """Count the finite ones of floats (n,) in at least `BINS` / 2.5 equal bins.

    Args:
      values: floats (n,).
      label: of the axis.
      unit: of the values, for tooltips.
      mark: a value to draw a line at, and its label.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if mark is not None:
        low, high = min(low, mark[0]), max(high, mark[0])
    step = _round_up(max(high - low, 1e-9) / BINS)
    first = math.floor(low / step + 1e-9)
    number = max(1, math.ceil(high / step - 1e-9) - first)  # the maximum belongs to the last bin
    bins = np.clip(np.floor(values / step + 1e-9).astype(int) - first, 0, number - 1)
    counts = np.bincount(bins, minlength=number).tolist()
    every = max(1, round(_round_up(number / 6)))
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    edges = [f"{(first + i) * step:.{decimals}f}" for i in range(number + 1)]
    titles = [f"{edges[i]} to {edges[i + 1]} {unit}: {count:,}" for i, count in enumerate(counts)]
    ticks = [(float(i), edges[i]) for i in range(-first % every, number + 1, every)]
    line = None if mark is None else (mark[0] / step - first, mark[1])
    return bars(counts, titles, ticks, label, line)


def log_histogram(values: np.ndarray, label: str, unit: str) -> str:
    """Count integers (n,) in bins that grow: four per doubling, or fewer over a wide range."""
    values = np.maximum(np.asarray(values, np.int64), 1)
    low, high = (int(values.min()), int(values.max())) if len(values) else (1, 2)
    edges = np.unique(np.floor(np.geomspace(low, high + 1, BINS + 1)).astype(np.int64))
    counts, _ = np.histogram(values, edges)
    titles = [
        f"{edges[i]:,} to {edges[i + 1] - 1:,} {unit}: {count:,}" for i, count in enumerate(counts)
    ]
    round_numbers = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    inside = [number for number in round_numbers if edges[0] <= number <= edges[-1]]
    places = np.interp(inside, edges, np.arange(len(edges))).tolist()
    ticks = [(place, f"{number:,}") for place, number in zip(places, inside, strict=True)]
    return bars(counts.tolist(), titles, ticks[:: max(1, -(-len(ticks) // 7))], label)


def score_histogram(scores: Sequence[Sequence[float]], label: str) -> str:
    """Draw the scores of a deduplication's report: [lower edge, pairs] of each bin, up to 1."""
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
    """Draw one bar per count over a scale of counts.

    Args:
      counts: one for each bar.
      titles: their tooltips.
      ticks: places below the axis, in bars from the left, and what to write there.
      label: of the axis.
      mark: where to draw a line, in bars from the left, and its label.
    """
    plot, base = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM
    wide, top = plot / max(1, len(counts)), max([1, *counts])
    parts = []
    for count in range(0, top + 1, max(1, round(_round_up(top / 4)))):
        y = base - count / top * (base - TOP)
        parts.append(_line("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, _short(count), "end"))
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        parts.append(_bar(LEFT + i * wide + 0.5, max(1.0, wide - 1), count / top, title))
    parts += [_text(LEFT + place * wide, base + 15, text) for place, text in ticks]
    parts.append(_text(LEFT + plot / 2, HEIGHT - 3, label, css="axis"))
    if mark is not None:
        x = LEFT + mark[0] * wide
        side, beside = ("start", 4) if x < WIDTH / 2 else ("end", -4)
        parts.append(_line("mark", x, TOP - 6, x, base))
        parts.append(_text(x + beside, TOP - 6, mark[1], side, "marked"))
    return _svg(parts, WIDTH, HEIGHT, label)


def categories(counts: dict[str, int], label: str) -> str:
    """Draw one bar per name, with its count above it."""
    plot, base = WIDTH - 2 * RIGHT, HEIGHT - BOTTOM
    wide, top = plot / max(1, len(counts)), max([1, *counts.values()])
    width = min(56.0, wide * 0.7)
    parts = [_line("grid", RIGHT, base, WIDTH - RIGHT, base)]
    for i, (name, count) in enumerate(counts.items()):
        middle = RIGHT + (i + 0.5) * wide
        parts.append(_bar(middle - width / 2, width, count / top, f"{name}: {count:,}"))
        parts.append(_text(middle, base - _tall(count / top) - 4, f"{count:,}", css="count"))
        parts.append(_text(middle, base + 15, name))
    parts.append(_text(WIDTH / 2, HEIGHT - 3, label, css="axis"))
    return _svg(parts, WIDTH, HEIGHT, label)


def scatter(groups: Sequence[Points], label: str, paired: bool = False) -> tuple[str, list[str]]:
    """Draw a map of points, some of them numbered.

    Args:
      groups: one for each color; points of the first are numbered.
      label: of the map.
      paired: draw a line from each point of the first group to the same one of the second.

    Returns:
      The map, and the texts of the numbered points.
    """
    placed = _place([group.xy for group in groups])
    parts = []
    if paired:
        ends = zip(*placed[:2], strict=True)
        parts += [_line("join", *start, *end) for start, end in ends]
    for i, (group, xy) in enumerate(zip(groups, placed, strict=True)):
        for (x, y), text in zip(xy, group.texts, strict=True):
            title = f"<title>{escape(text)}</title>"
            parts.append(f'<circle class="dot{i}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>')
    numbered = _spread_out(placed[0])
    for number, row in enumerate(numbered, start=1):
        x, y = np.clip(placed[0][row], 10, MAP_SIZE - 10)
        parts.append(f'<circle class="number" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        parts.append(_text(x, y + 4, str(number), css="numeral"))
    return _svg(parts, MAP_SIZE, MAP_SIZE, label), [groups[0].texts[row] for row in numbered]


def _place(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scale floats (n, 2) to the map, with the shorter side centered."""
    points = np.concatenate(groups)
    low, span = points.min(axis=0), float(max(np.ptp(points, axis=0).max(), 1e-9))
    rest = (span - np.ptp(points, axis=0)) / 2
    scale, origin = MAP_SIZE - 2 * MAP_MARGIN, [MAP_MARGIN, MAP_SIZE - MAP_MARGIN]
    return [(xy - low + rest) / span * [1, -1] * scale + origin for xy in groups]


def _spread_out(xy: np.ndarray) -> list[int]:
    """Choose up to `MAX_NUMBERED` points, each as far as possible from those before it."""
    chosen = [int(np.argmin(((xy - xy.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = np.full(len(xy), np.inf)
    while len(chosen) < min(MAX_NUMBERED, len(xy)):
        distance = np.minimum(distance, ((xy - xy[chosen[-1]]) ** 2).sum(axis=1))
        if distance.max() <= 0:
            break
        chosen.append(int(distance.argmax()))
    return chosen


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the two directions in which vectors vary most around their mean.

    Args:
      vectors: floats (n, dim).

    Returns:
      The directions (2, dim), each with its largest component positive, and their shares of the
      variance (2,).
    """
    centered = vectors.astype(np.float64) - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centered.T @ centered)
    axes = directions[:, ::-1][:, :2].T
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    shares = np.pad(values[::-1][:2], (0, max(0, 2 - len(values)))) / max(values.sum(), 1e-12)
    return axes * np.where(signs == 0, 1, signs)[:, None], shares


def _round_up(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            return f"{count / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{count:,}"


def _tall(share: float) -> float:
    """Height of a bar; one row among many stays visible."""
    return max(1.5, share * (HEIGHT - BOTTOM - TOP)) if share else 0.0


def _bar(x: float, width: float, share: float, title: str) -> str:
    tall = _tall(share)
    place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}"'
    size = f'width="{width:.1f}" height="{tall:.1f}"'
    return f'<rect class="bar" {place} {size}><title>{escape(title)}</title></rect>'


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", css: str = "") -> str:
    style = f'class="{css}" ' if css else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {style}{place}>{escape(text)}</text>"


def _svg(parts: list[str], width: int, height: int, label: str) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"
