"""Build the sections that several pages share: lengths, cosines, nearest texts, rejects, maps."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.reports.charts import Points, histogram, log_histogram, principal_axes, scatter
from beam_gpte.reports.differences import mark_differences
from beam_gpte.reports.page import Example, Figure, Section
from beam_gpte.reports.sample import LENGTH

MAX_EXAMPLES = 6  # of a kind
MAX_TOOLTIP = 120  # characters of a text shown at a point


def lengths_figure(sample: pl.DataFrame, text_column: str, what: str) -> Figure:
    """Draw the lengths of a sample's texts, which `WriteSample` measured."""
    lengths = sample[text_column + LENGTH].drop_nulls().to_numpy()
    chart = log_histogram(lengths, "characters", "characters")
    return Figure("Lengths", chart, f"of {len(sample):,} {what}, a sample")


def cosines_figure(cosines: np.ndarray) -> Figure:
    """Draw the cosines (n, n) between all texts of a sample."""
    chart = histogram(cosines[np.triu_indices(len(cosines), 1)], "cosine", "cosine")
    return Figure("Cosines", chart, "of every pair in the sample: what unrelated texts score")


def reject_sections(reasons: dict[str, int]) -> list[Section]:
    """List the reasons of rejected rows, the most frequent first; no section if there are none."""
    rows = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [Section("Rejected rows", table=rows, header=("reason", "rows"))] if rows else []


def nearest_texts(cosines: np.ndarray, sample: pl.DataFrame, text_column: str) -> Section:
    """Show the nearest neighbors among a sample's texts, with cosines (n, n), each text once."""
    first = sample.with_row_index("row").unique(text_column, keep="first", maintain_order=True)
    rows = first["row"].to_numpy()
    texts, upper = first[text_column].to_list(), np.triu(cosines[rows][:, rows], 1)
    best = np.argsort(-upper, axis=None, kind="stable")[:MAX_EXAMPLES]
    pairs = [
        (int(i), int(j)) for i, j in zip(*np.unravel_index(best, upper.shape), strict=True) if i < j
    ]
    examples = [
        compare_texts(f"cosine {upper[i, j]:.4f}", ("", texts[i]), ("", texts[j])) for i, j in pairs
    ]
    note = "The pairs of the sample with the largest cosines. Equal texts are left out."
    return Section("Nearest texts", note, examples=examples)


def compare_texts(
    title: str, first: tuple[str, str | None], second: tuple[str, str | None]
) -> Example:
    """Mark the differences of two texts, each given as (name, text)."""
    one, other = mark_differences(first[1] or "", second[1] or "", TEXT_SHOWN)
    note = ", identical as far as shown" if one == other else ""
    return Example(title, [(first[0], one), (second[0] + note, other)])


def vectors_map(
    sample: pl.DataFrame,
    vectors: np.ndarray,
    groups: Sequence[tuple[str, np.ndarray]],
    text_column: str,
) -> Section:
    """Map a sample onto the two directions of largest variance.

    Args:
      sample: n rows with texts.
      vectors: of these rows, floats (n, dim).
      groups: (name, which rows) of each color, bool (n,); empty ones are left out.
      text_column: the texts.
    """
    axes, shares = principal_axes(vectors)
    xy = vectors @ axes.T
    texts = [shorten(value, MAX_TOOLTIP) for value in sample[text_column].to_list()]
    points = [
        Points(name, xy[chosen], [texts[i] for i in np.flatnonzero(chosen)])
        for name, chosen in groups
        if chosen.any()
    ]
    return map_section(points, f"{len(sample):,} texts", shares)


def map_section(
    points: Sequence[Points], what: str, shares: np.ndarray, paired: bool = False
) -> Section:
    """Show a map of points, with a legend if there are several groups.

    Args:
      points: of each color.
      what: what a point is, and how many there are.
      shares: of the variance, of each direction.
      paired: join the points of the first two groups by lines.
    """
    svg, numbered = scatter(points, f"Map of {what}", paired)
    note = f"{what}; the axes have {shares[0]:.1%} and {shares[1]:.1%} of the variance."
    legend = [(f"dot{i}", group.name) for i, group in enumerate(points)] if len(points) > 1 else []
    return Section(
        "Map",
        "A sample of the vectors, projected onto the two directions in which they vary most. "
        "Point at a dot for its text.",
        [Figure("Principal components", svg, note, legend, numbered)],
    )


def shorten(text: str | None, max_characters: int) -> str:
    """Truncate a text, with an ellipsis where something is missing."""
    text = text or ""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (n, dim) to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
