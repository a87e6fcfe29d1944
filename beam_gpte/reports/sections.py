"""Build the sections that several pages share: lengths, cosines, nearest texts, rejects, maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.reports.charts import Threshold, histogram, log_histogram
from beam_gpte.reports.differences import mark_differences
from beam_gpte.reports.maps import MAX_TEXT, vector_map
from beam_gpte.reports.page import Example, Figure, Markup, Score, Section
from beam_gpte.reports.sample import LENGTH
from beam_gpte.reports.token_lengths import token_lengths

MAX_EXAMPLES = 6  # of a kind
MANY_TOKENS = 1 << 24  # the limit of models that have none
MAX_PAIRS = 60  # nearest texts in a table


def ids_of(sample: pl.DataFrame, id_column: str | None = None) -> list[str]:
    """Return the ids of a sample's rows; by default its first column, as `WriteSample` has it."""
    return [str(id_) for id_ in sample[id_column or sample.columns[0]].to_list()]


def lengths_figure(
    sample: pl.DataFrame, text_column: str, what: str, config: EncoderConfig | None = None
) -> Figure:
    """Show the lengths of a sample's texts: in tokens, and which are truncated, if that is known.

    Args:
      sample: rows, with the lengths that `WriteSample` measured.
      text_column: of the texts.
      what: names the rows.
      config: of the model that embedded them.
    """
    known = sample.filter(pl.col(text_column + LENGTH).is_not_null())
    lengths, note = known[text_column + LENGTH].to_numpy(), f"of {len(sample):,} {what}, a sample"
    tokens = token_lengths(known[text_column].to_list(), lengths, config)
    if tokens is None:
        return Figure("Lengths", log_histogram(lengths, "characters"), note)
    share = tokens.share_above
    name = f"the model's limit, {tokens.limit:,} tokens"
    mark = Threshold(tokens.limit, name, f"{share:.1%} {tokens.fate}", "whole", is_limit=True)
    # a limit that no text comes near would leave the chart empty
    near = share > 0 or tokens.limit <= 4 * tokens.counts.max()
    if not near and tokens.limit < MANY_TOKENS:
        note += f"; the longest is far below the model's limit of {tokens.limit:,} tokens"
    chart = log_histogram(tokens.counts, "tokens", mark if near else None)
    return Figure("Lengths", chart, note)


def cosines_figure(cosines: np.ndarray) -> Figure:
    """Show the cosines (n, n) between all texts of a sample."""
    chart = histogram(cosines[np.triu_indices(len(cosines), 1)], "cosine", unit="pairs")
    return Figure("Cosines", chart, "of every pair in the sample: what unrelated texts score")


def reject_sections(reasons: dict[str, int]) -> list[Section]:
    """List the reasons of rejected rows, the most frequent first; no section if there are none."""
    rows = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [Section("Rejected rows", table=rows, header=("reason", "rows"))] if rows else []


def nearest_texts(
    cosines: np.ndarray, sample: pl.DataFrame, text_column: str, id_column: str | None = None
) -> Section:
    """Show the nearest neighbors among a sample's texts, with cosines (n, n), each text once."""
    first = sample.with_row_index("row").unique(text_column, keep="first", maintain_order=True)
    rows = first["row"].to_numpy()
    ids = [ids_of(sample, id_column)[row] for row in rows]
    texts, upper = first[text_column].to_list(), np.triu(cosines[rows][:, rows], 1)
    best = np.argsort(-upper, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [
        (int(i), int(j)) for i, j in zip(*np.unravel_index(best, upper.shape), strict=True) if i < j
    ]
    found = [(float(upper[i, j]), (ids[i], texts[i]), (ids[j], texts[j])) for i, j in pairs]
    examples = [compare_texts(f"cosine {cosine:.4f}", *both) for cosine, *both in found]
    note = "The pairs of the sample with the largest cosines. Equal texts are left out."
    table = [compared_row(Score(cosine), *both) for cosine, *both in found]
    few = len(table) <= MAX_EXAMPLES
    return Section(
        "Nearest texts",
        note,
        examples=examples[:MAX_EXAMPLES],
        table=() if few else table,
        header=("cosine", "first id", "first text", "second id", "second text"),
        search=not few,
    )


def compare_texts(
    title: str, first: tuple[str, str | None], second: tuple[str, str | None]
) -> Example:
    """Mark the differences of two texts, each given as (name, text)."""
    one, other = mark_differences(first[1] or "", second[1] or "", TEXT_SHOWN)
    note = ", identical as far as shown" if one == other else ""
    return Example(title, [(first[0], one), (second[0] + note, other)])


def compared_row(
    score: Any, first: tuple[str, str | None], second: tuple[str, str | None]
) -> tuple[Any, ...]:
    """Make a row of a table: a score, and two texts with their ids and marked differences."""
    one, other = mark_differences(first[1] or "", second[1] or "", TEXT_SHOWN)
    return score, first[0], Markup(one), second[0], Markup(other)


def vectors_map(
    sample: pl.DataFrame,
    vectors: np.ndarray,
    text_column: str,
    id_column: str | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    note: str = "",
) -> Section:
    """Map a sample so that near vectors are near, with its columns to color by.

    Args:
      sample: n rows with ids and texts.
      vectors: of these rows, floats (n, dim).
      text_column: the texts.
      id_column: the ids; by default the first column.
      columns: further values of each row to color by, before those of the sample.
      note: what else to say.
    """
    texts = [shorten(value, MAX_TEXT) for value in sample[text_column].to_list()]
    id_column = id_column or sample.columns[0]
    of_rows = plain_columns(sample.drop(id_column, text_column, strict=False))
    chart = vector_map(vectors, ids_of(sample, id_column), texts, {**(columns or {}), **of_rows})
    return map_section(chart, f"{len(sample):,} texts, a sample. {note}".strip())


def plain_columns(sample: pl.DataFrame) -> dict[str, list[Any]]:
    """Return the columns of a sample that are neither vectors nor nested, by name."""
    return {
        ("characters" if name.endswith(LENGTH) else name): sample[name].to_list()
        for name in sample.columns
        if not sample[name].dtype.is_nested() and sample[name].null_count() < len(sample)
    }


def map_section(chart: Any, what: str) -> Section:
    """Show a map.

    Args:
      chart: a `VectorMap`.
      what: what a point is, and how many there are.
    """
    return Section(
        "Map",
        f"{what} Near points have near vectors; distances between regions, and directions, mean "
        "nothing. Point at a dot for its text, or click on it for all that is known of it.",
        [Figure("Positions by t-SNE", chart, "Regions are named by the words frequent in them.")],
    )


def shorten(text: str | None, max_characters: int) -> str:
    """Truncate a text, with an ellipsis where something is missing."""
    text = text or ""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (n, dim) to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
