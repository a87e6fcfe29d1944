"""Render the pages of runs: `embedding_page(run, ...)`, `deduplication_page` and `bitext_page`.

Nothing here reads a corpus: a page shows what a run has counted, and the rows that `WriteSample`
has written. `output_pages` has the pages of programs that read what was written.
"""

from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, MARGIN, SCORE, SECOND_ID
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.mining.pair_checks import LENGTH_RATIO, SAME_NUMBERS, SOURCE_TEXT, TARGET_TEXT
from beam_gpte.reports.charts import (
    Points,
    categories,
    histogram,
    log_histogram,
    principal_axes,
    score_histogram,
)
from beam_gpte.reports.differences import mark_untranslated, merge_differences
from beam_gpte.reports.page import Example, Figure, Run, Section, render_page
from beam_gpte.reports.sections import (
    MAX_EXAMPLES,
    MAX_TOOLTIP,
    compare_texts,
    cosines_figure,
    lengths_figure,
    map_section,
    nearest_texts,
    reject_sections,
    shorten,
    unit_vectors,
    vectors_map,
)

_REMOVED = "_removed"


def embedding_page(
    run: Run, summary: dict[str, Any], sample: pl.DataFrame, text_column: str, embedding_column: str
) -> str:
    """Render the page of an embedded corpus.

    Args:
      run: what it reports on.
      summary: of `beam-gpte embed`.
      sample: some of the rows, with text, length and vector.
      text_column: the texts.
      embedding_column: the vectors.
    """
    tiles = {
        "texts": summary["texts"],
        "texts per second": summary["texts_per_second"],
        "tokens": summary["tokens"],
        "reused": summary["reused"] or None,
        "truncated": summary["truncated"],
        "rejected": summary["rejected"],
    }
    sections = []
    if len(sample) > 1:
        vectors = unit_vectors(sample[embedding_column].to_numpy())
        cosines = np.clip(vectors @ vectors.T, -1, 1)
        everything = [("texts", np.ones(len(sample), bool))]
        figures = [lengths_figure(sample, text_column, "texts"), cosines_figure(cosines)]
        sections += [
            Section("Lengths and scores", figures=figures),
            nearest_texts(cosines, sample, text_column),
            vectors_map(sample, vectors, everything, text_column),
        ]
    sections += reject_sections(summary["reasons"])
    return render_page("Embedded corpus", run, tiles, sections)


def deduplication_page(
    run: Run, summary: dict[str, Any], sample: pl.DataFrame, text_column: str, embedding_column: str
) -> str:
    """Render the page of a deduplicated corpus.

    Args:
      run: what it reports on.
      summary: of `beam-gpte dedup`.
      sample: some of the rows, kept and removed, with text, length and, if they have one, vector.
      text_column: the texts.
      embedding_column: the vectors.
    """
    rows = summary["rows"]
    tiles = {
        "rows": rows,
        "kept": summary["kept"],
        "removed": summary["removed"],
        "share removed": f"{summary['removed'] / rows:.1%}" if rows else None,
        "rejected": summary["rejected"],
        "rows per second": round(rows / max(run.speed["seconds"], 1e-9), 1),
    }
    sections = [_step(step) for step in summary["steps"]]
    if len(sample):
        sections += _kept_and_removed(sample, text_column, embedding_column)
    return render_page("Deduplicated corpus", run, tiles, sections)


def _kept_and_removed(
    sample: pl.DataFrame, text_column: str, embedding_column: str
) -> list[Section]:
    """Show the lengths of kept and removed rows, and a map of those with a vector."""
    has_removed = DUPLICATE_OF in sample.columns
    removed = pl.col(DUPLICATE_OF).is_not_null() if has_removed else pl.lit(False)
    decided = sample.with_columns(removed.alias(_REMOVED))
    parts = [("kept", decided.filter(~pl.col(_REMOVED))), ("removed", decided.filter(_REMOVED))]
    lengths = [
        lengths_figure(part, text_column, f"{name} rows") for name, part in parts if len(part)
    ]
    sections = [Section("Lengths", figures=lengths)]
    if embedding_column in decided.columns:
        embedded = decided.filter(pl.col(embedding_column).is_not_null())
        if len(embedded) > 1:
            vectors = unit_vectors(embedded[embedding_column].to_numpy())
            gone = embedded[_REMOVED].to_numpy()
            groups = [("kept", ~gone), ("removed", gone)]
            sections.append(vectors_map(embedded, vectors, groups, text_column))
    return sections


def _step(step: dict[str, Any]) -> Section:
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
    return Section(title, note, _step_figures(step), examples)


def _step_figures(step: dict[str, Any]) -> list[Figure]:
    figures = []
    if step["pairs"] and step["threshold"] < 1:
        scores = score_histogram(step["scores"], "score")
        figures.append(Figure("Scores", scores, f"of {step['pairs']:,} pairs"))
    if step["group_sizes"]:
        kept = sum(step["group_sizes"].values())
        note = f"{kept:,} kept rows, by the number of rows removed as their duplicates"
        sizes = {
            size.split("-")[0] if len(set(size.split("-"))) == 1 else size: n
            for size, n in step["group_sizes"].items()
        }
        figures.append(Figure("Groups", categories(sizes, "removed rows of a group"), note))
    if len(step.get("by_threshold", ())) > 1:
        removed = {f"{entry['threshold']:g}": entry["removed"] for entry in step["by_threshold"]}
        chart = categories(removed, "threshold")
        figures.append(Figure("Other thresholds", chart, "rows that each would remove"))
    return figures


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


def bitext_page(
    run: Run, summary: dict[str, Any], pairs: pl.DataFrame, sample: pl.DataFrame, embedding: str
) -> str:
    """Render the page of a mined bitext.

    Args:
      run: what it reports on.
      summary: of `beam-gpte mine`.
      pairs: all of them, the largest margin first.
      sample: some of the pairs, with both vectors.
      embedding: the column of the vectors on each side.
    """
    tiles: dict[str, Any] = {
        "source rows": summary["source_rows"],
        "target rows": summary["target_rows"],
        "pairs": len(pairs),
        "minimum margin": f"{summary['threshold_used']:.4g}",
        "dropped by length": summary["dropped_by_length"],
        "rejected": summary["rejected"],
    }
    for name in ("precision", "recall", "f1"):
        if name in summary:
            tiles[name] = f"{summary[name]:.1%}"
    sections = _pair_sections(pairs, summary["threshold_used"]) if len(pairs) else []
    if len(sample) > 2:
        sections.append(_pairs_map(sample, embedding, bool(summary["center"])))
    return render_page("Mined bitext", run, tiles, sections, summary["warnings"])


def _pair_sections(pairs: pl.DataFrame, threshold: float) -> list[Section]:
    mark = (threshold, "minimum margin")
    margins = histogram(pairs[MARGIN].to_numpy(), "margin", "margin", mark)
    scores = [Figure("Margins", margins, f"of {len(pairs):,} pairs")]
    if LENGTH_RATIO in pairs.columns:
        values = pairs[LENGTH_RATIO].drop_nulls().to_numpy()
        ratios = histogram(values, "target by source, relative to the median", "")
        scores.append(Figure("Length ratios", ratios, "characters of both texts of a pair"))
    lengths = []
    for side, name in (("source", SOURCE_TEXT), ("target", TARGET_TEXT)):
        characters = pairs[name].str.len_chars().fill_null(0).to_numpy()
        chart = log_histogram(characters, "characters", "characters")
        lengths.append(Figure(f"Lengths, {side}", chart, "of all pairs"))
    return [
        Section("Scores", figures=scores),
        Section("Lengths", figures=lengths),
        *_pair_examples(pairs),
    ]


def _pair_examples(pairs: pl.DataFrame) -> list[Section]:
    """Show the pairs of the largest and smallest margins, and those whose numbers differ."""
    differ = ~pl.col(SAME_NUMBERS) if SAME_NUMBERS in pairs.columns else pl.lit(False)
    numbers = pairs.filter(differ).head(MAX_EXAMPLES)
    smallest = pairs.tail(MAX_EXAMPLES).reverse()
    chosen = (
        ("Most certain pairs", "The largest margins.", pairs.head(MAX_EXAMPLES)),
        ("Least certain pairs", "The margins nearest to the threshold.", smallest),
        ("Pairs whose numbers differ", "The largest margins among them.", numbers),
    )
    marked = "Marked are numbers, placeholders and addresses that the other text does not have."
    return [
        Section(title, f"{note} {marked}", examples=[*map(_translation, frame.to_dicts())])
        for title, note, frame in chosen
        if len(frame)
    ]


def _translation(row: dict[str, Any]) -> Example:
    source, target = (shorten(row[name], TEXT_SHOWN) for name in (SOURCE_TEXT, TARGET_TEXT))
    marked = mark_untranslated(source, target)
    return Example(f"margin {row[MARGIN]:.4f}", [("source", marked[0]), ("target", marked[1])])


def _pairs_map(sample: pl.DataFrame, embedding: str, center: bool) -> Section:
    names = ("source", "target")
    sides = [unit_vectors(sample[f"{side}_{embedding}"].to_numpy()) for side in names]
    if center:
        sides = [vectors - vectors.mean(axis=0) for vectors in sides]
    axes, shares = principal_axes(np.concatenate(sides))
    sources, targets = (
        [shorten(text, MAX_TOOLTIP) for text in sample[name]] for name in (SOURCE_TEXT, TARGET_TEXT)
    )
    both = [f"{source} → {target}" for source, target in zip(sources, targets, strict=True)]
    points = [
        Points(name, vectors @ axes.T, both) for name, vectors in zip(names, sides, strict=True)
    ]
    centered = ", each side around its mean" if center else ""
    what = f"{len(sample):,} pairs, a line from source to target{centered}"
    return map_section(points, what, shares, paired=True)
