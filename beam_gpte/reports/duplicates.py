"""Build the sections of a deduplication: scores, groups and pairs of each step, and a map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.text.minhash import MinHash, shingles, signatures
from beam_gpte.dedup.lexical import compared_texts
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.reports.charts import Threshold, bars_between, categories
from beam_gpte.reports.differences import merge_differences
from beam_gpte.reports.page import Example, Figure, Score, Section
from beam_gpte.reports.sections import (
    MAX_EXAMPLES,
    compare_texts,
    compared_row,
    ids_of,
    lengths_figure,
    shorten,
    unit_vectors,
    vectors_map,
)

BARS_ABOVE = 5  # the threshold, of a report's twenty
MAX_BARS_BELOW = 40
MAX_REMOVED = 300  # rows of a table
STATE = "kept or removed"


def duplicate_sections(
    steps: Sequence[dict[str, Any]],
    sample: pl.DataFrame,
    text_column: str,
    embedding_column: str,
    config: EncoderConfig | None,
) -> list[Section]:
    """Build all sections.

    Args:
      steps: their reports.
      sample: some of the rows, kept and removed, with ids first.
      text_column: the texts.
      embedding_column: the vectors, of which the sample may have none.
      config: of the model, to count tokens; None counts characters.
    """
    sections = _map(sample, text_column, embedding_column)
    for step in steps:
        sections.append(_step(step, _scores_below(step, sample, text_column, embedding_column)))
    if table := [row for step in steps for row in _rows_of_step(step)]:
        header = ("step", "what", "score", "kept id", "kept", "other id", "other")
        note = (
            "Of each step the largest groups, with the removed rows that are least like the kept "
            "one, and the pairs nearest to the threshold. Words that only one has are marked."
        )
        section = Section("Groups and pairs", note, table=table, header=header, search=True)
        sections.append(section)
    return sections + _removed_and_lengths(sample, text_column, config)


def _is_removed(sample: pl.DataFrame) -> pl.Series:
    if DUPLICATE_OF in sample.columns:
        return sample[DUPLICATE_OF].is_not_null()
    return pl.Series([False] * len(sample), dtype=pl.Boolean)


def _map(sample: pl.DataFrame, text_column: str, embedding_column: str) -> list[Section]:
    """Map the rows that have a vector."""
    if embedding_column not in sample.columns:
        return []
    embedded = sample.filter(pl.col(embedding_column).is_not_null())
    if len(embedded) < 2:
        return []
    vectors = unit_vectors(embedded[embedding_column].to_numpy())
    states = ["removed" if gone else "kept" for gone in _is_removed(embedded)]
    return [vectors_map(embedded, vectors, text_column, columns={STATE: states})]


def _removed_and_lengths(
    sample: pl.DataFrame, text_column: str, config: EncoderConfig | None
) -> list[Section]:
    if sample.is_empty():
        return []
    gone = _is_removed(sample)
    parts = {"kept": sample.filter(~gone), "removed": sample.filter(gone)}
    sections = [removed_rows(parts["removed"], text_column)] if gone.any() else []
    lengths = [
        lengths_figure(part, text_column, f"{name} rows", config)
        for name, part in parts.items()
        if len(part)
    ]
    return [*sections, Section("Lengths", figures=lengths)]


def removed_rows(removed: pl.DataFrame, text_column: str, id_column: str | None = None) -> Section:
    """Show removed rows of a sample in a table, lowest scores first.

    Args:
      removed: with `DUPLICATE_OF`, and others of a removed row if it has them.
      text_column: the texts.
      id_column: the ids; by default the first column.
    """
    order = [SCORE] if SCORE in removed.columns else [DUPLICATE_OF]
    ordered = removed.sort(order, nulls_last=True, maintain_order=True).head(MAX_REMOVED)
    further = [name for name in ("found_by",) if name in removed.columns]
    scores = ordered[SCORE].to_list() if SCORE in removed.columns else [None] * len(ordered)
    columns = [
        ids_of(ordered, id_column),
        [str(id_) for id_ in ordered[DUPLICATE_OF].to_list()],
        [None if score is None else Score(score) for score in scores],
        *(ordered[name].to_list() for name in further),
        [shorten(text, TEXT_SHOWN) for text in ordered[text_column].to_list()],
    ]
    note = f"{len(ordered):,} removed rows of the sample, lowest scores first."
    header = ("id", "duplicate of", "score", *(name.replace("_", " ") for name in further), "text")
    return Section(
        "Removed rows", note, table=[*zip(*columns, strict=True)], header=header, search=True
    )


def _step(step: dict[str, Any], below: np.ndarray | None) -> Section:
    """Show one step of a deduplication, from its report."""
    threshold = step["threshold"]
    examples = [_group(group) for group in step["largest_groups"][:MAX_EXAMPLES]]
    if threshold < 1:
        examples += [_borderline(pair) for pair in step["borderline"][:MAX_EXAMPLES]]
    note = (
        f"{step['rows']:,} rows, {step['kept']:,} kept, {step['removed']:,} removed "
        f"({step['ratio']:.1%})."
    )
    if recall := step.get("recall"):
        interval = f"{recall['low']:.4f} to {recall['high']:.4f}"
        note += f" Recall {recall['estimate']:.4f} (95 %: {interval})."
    title = f"Step {step['step']}, threshold {threshold:g}"
    return Section(title, note, _step_figures(step, below), examples)


def _step_figures(step: dict[str, Any], below: np.ndarray | None) -> list[Figure]:
    figures = []
    if step["threshold"] < 1 and (step["pairs"] or below is not None):
        figures.append(_scores(step, below))
    if step["group_sizes"]:
        kept = sum(step["group_sizes"].values())
        note = f"{kept:,} kept rows, by the number of rows removed as their duplicates"
        sizes = {
            size.split("-")[0] if len(set(size.split("-"))) == 1 else size: n
            for size, n in step["group_sizes"].items()
        }
        chart = categories(sizes, "removed rows of a group", "kept rows")
        figures.append(Figure("Groups", chart, note))
    if len(step.get("by_threshold", ())) > 1:
        removed = {f"{entry['threshold']:g}": entry["removed"] for entry in step["by_threshold"]}
        chart = categories(removed, "threshold", "rows removed")
        figures.append(Figure("Other thresholds", chart, "rows that each would remove"))
    return figures


def _scores(step: dict[str, Any], below: np.ndarray | None) -> Figure:
    """Show the pairs above the threshold, and below it what a sample makes of them."""
    threshold, counts = step["threshold"], [count for _, count in step["scores"]]
    together = max(1, len(counts) // BARS_ABOVE)
    above = [sum(counts[i : i + together]) for i in range(0, len(counts), together)]
    width = (1 - threshold) / len(above)
    note = f"of {step['pairs']:,} pairs"
    estimated: list[float] = []
    if below is not None and len(below):
        lowest = max(float(below.min()), threshold - MAX_BARS_BELOW * width)
        bars = int(np.ceil((threshold - lowest) / width - 1e-9))
        places = np.floor((below - threshold) / width + bars).astype(int)
        sampled = np.bincount(places[(places >= 0) & (places < bars)], minlength=bars)
        rows, pairs = step["rows"], len(below)
        factor = max(1.0, rows * (rows - 1) / 2 / pairs)
        estimated = [float(round(count * factor)) for count in sampled]
        note += (
            f"; below the threshold an estimate by {pairs:,} pairs of a sample, each of which "
            f"stands for {factor:,.0f}"
        )
    edges = threshold + np.arange(-len(estimated), len(above) + 1) * width
    mark = Threshold(threshold, f"threshold, {threshold:g}", "duplicates", "no duplicates")
    chart = bars_between(edges, [*estimated, *above], "score", mark, bool(estimated), "pairs")
    return Figure("Scores", chart, note)


def _scores_below(
    step: dict[str, Any], sample: pl.DataFrame, text_column: str, embedding_column: str
) -> np.ndarray | None:
    """Return the scores of all pairs of a sample's rows, as a step would measure them.

    None for a step that scores nothing, and where the sample lacks what it would score.
    """
    if not len(sample) or step["threshold"] >= 1:
        return None
    if step["step"] == "semantic" and embedding_column in sample.columns:
        vectors = sample[embedding_column].drop_nulls().to_numpy()
        if vectors.ndim != 2 or len(vectors) < 2:
            return None
        unit = unit_vectors(vectors)
        return (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    if step["step"] == "lexical" and len(sample) > 1:
        return _lexical_scores(sample[text_column], step)
    return None


def _lexical_scores(texts: pl.Series, step: dict[str, Any]) -> np.ndarray:
    """Estimate Jaccard similarities by the columns of signatures that agree."""
    minhash = MinHash(shingle=step.get("shingle", 5), unit=step.get("unit", "characters"))
    compared = compared_texts(texts.fill_null(""), minhash.unit)
    signed = signatures(shingles(compared.to_list(), minhash.shingle, minhash.unit))
    rows = [(signed[i + 1 :] == signed[i]).mean(axis=1) for i in range(len(signed) - 1)]
    return np.concatenate(rows)


def _rows_of_step(step: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Make rows of a table: removed members of groups, and pairs nearest to the threshold."""
    name = step["step"]
    rows = [
        (
            name,
            f"group of {group['removed']:,}",
            *_compared(
                member[SCORE], (group["id"], group.get("text")), (member["id"], member.get("text"))
            ),
        )
        for group in step["largest_groups"]
        for member in group["members"]
    ]
    borderline = step["borderline"] if step["threshold"] < 1 else []
    pairs = [
        (
            name,
            "near the threshold",
            *_compared(
                pair[SCORE],
                (pair[FIRST_ID], pair.get("first_text")),
                (pair[SECOND_ID], pair.get("second_text")),
            ),
        )
        for pair in borderline
    ]
    return rows + pairs


def _compared(
    score: float | None, first: tuple[Any, str | None], second: tuple[Any, str | None]
) -> tuple[Any, ...]:
    shown = None if score is None else Score(score)
    return compared_row(shown, (str(first[0]), first[1]), (str(second[0]), second[1]))


def _group(group: dict[str, Any]) -> Example:
    """Show a kept row and its removed duplicates.

    In a duplicate, words of the kept row alone are struck out, and its additional ones underlined.
    """
    kept = group.get("text", "")
    lines = [(str(group["id"]), merge_differences(kept, kept, TEXT_SHOWN))]
    for member in group["members"]:
        text, name, score = member.get("text", ""), str(member["id"]), member[SCORE]
        if score is not None:
            name += f", {score:.4f}"
        if text == kept:
            lines.append((f"{name}, identical as far as shown", ""))
        else:
            lines.append((name, merge_differences(kept, text, TEXT_SHOWN)))
    return Example(f"{group['removed']:,} removed as duplicates of this row", lines)


def _borderline(pair: dict[str, Any]) -> Example:
    first = str(pair[FIRST_ID]), pair.get("first_text")
    second = str(pair[SECOND_ID]), pair.get("second_text")
    return compare_texts(f"near the threshold: {pair[SCORE]:.4f}", first, second)
