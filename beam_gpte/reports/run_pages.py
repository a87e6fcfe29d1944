"""What the pages of the programs show: `embedding_page(run, ...)`, `deduplication_page` and `bitext_page` give HTML.

Nothing here reads a corpus: what a page shows, a run has counted, or `WriteSample` has left. `report_vectors` has the pages
of programs that look at what was written.
"""

from collections.abc import Sequence
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
    scatter,
    score_histogram,
)
from beam_gpte.reports.differences import mark_differences, mark_untranslated, merge_differences
from beam_gpte.reports.page import Example, Figure, Run, Section, render_page
from beam_gpte.reports.sample import LENGTH

EXAMPLES = 6  # of a kind
TITLE_SHOWN = 120  # characters of a text that belongs to a point

_REMOVED = "_removed"


def embedding_page(
    run: Run, summary: dict[str, Any], sample: pl.DataFrame, text: str, embedding: str
) -> str:
    """`sample`: some of the rows with `text`, its length and `embedding`."""
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
        vectors = unit(sample[embedding].to_numpy())
        cosines = np.clip(vectors @ vectors.T, -1, 1)
        sections += [
            Section(
                "Lengths and scores",
                figures=[lengths_of(sample, text, "texts"), cosines_of(cosines)],
            ),
            nearest_texts(cosines, sample, text),
            map_of(sample, vectors, [("texts", np.ones(len(sample), bool))], text),
        ]
    return render_page(
        "Embedded corpus", run, tiles, [*sections, *rejected_rows(summary["reasons"])]
    )


def deduplication_page(
    run: Run, summary: dict[str, Any], sample: pl.DataFrame, text: str, embedding: str
) -> str:
    """`sample`: some of the rows, kept and removed, with `text`, its length and, where there is one, `embedding`."""
    tiles = {
        "rows": summary["rows"],
        "kept": summary["kept"],
        "removed": summary["removed"],
        "removed of all": f"{summary['removed'] / summary['rows']:.1%}"
        if summary["rows"]
        else None,
        "rejected": summary["rejected"],
        "rows per second": round(summary["rows"] / max(run.speed["seconds"], 1e-9), 1),
    }
    sections = [_step(step) for step in summary["steps"]]
    if len(sample):
        removed = (
            pl.col(DUPLICATE_OF).is_not_null() if DUPLICATE_OF in sample.columns else pl.lit(False)
        )
        decided = sample.with_columns(removed.alias(_REMOVED))
        parts = [("kept", decided.filter(~pl.col(_REMOVED))), ("removed", decided.filter(_REMOVED))]
        lengths = [lengths_of(rows, text, f"{name} rows") for name, rows in parts if len(rows)]
        sections.append(Section("Lengths", figures=lengths))
        known = (
            decided.filter(pl.col(embedding).is_not_null())
            if embedding in sample.columns
            else decided.clear()
        )
        if len(known) > 1:
            gone = known[_REMOVED].to_numpy()
            groups = [("kept", ~gone), ("removed", gone)]
            sections.append(map_of(known, unit(known[embedding].to_numpy()), groups, text))
    return render_page("Deduplicated corpus", run, tiles, sections)


def bitext_page(
    run: Run, summary: dict[str, Any], pairs: pl.DataFrame, sample: pl.DataFrame, embedding: str
) -> str:
    """`pairs`: all, the largest margin first; `sample`: some of them with both vectors."""
    tiles: dict[str, Any] = {
        "source rows": summary["source_rows"],
        "target rows": summary["target_rows"],
        "pairs": len(pairs),
        "least margin": f"{summary['threshold_used']:.4g}",
        "dropped by length": summary["dropped_by_length"],
        "rejected": summary["rejected"],
        **{
            name: f"{summary[name]:.1%}"
            for name in ("precision", "recall", "f1")
            if name in summary
        },
    }
    sections = []
    if len(pairs):
        mark = (summary["threshold_used"], "least margin")
        margins = histogram(pairs[MARGIN].to_numpy(), "margin", "margin", mark)
        figures = [Figure("Margins", margins, f"of {len(pairs):,} pairs")]
        if LENGTH_RATIO in pairs.columns:
            ratios = histogram(
                pairs[LENGTH_RATIO].drop_nulls().to_numpy(), "target by source, by the median", ""
            )
            figures.append(
                Figure("Ratios of lengths", ratios, "characters of both texts of a pair")
            )
        lengths = [
            Figure(
                f"Lengths, {side}",
                log_histogram(_characters(pairs[name]), "characters", "characters"),
                "of all pairs",
            )
            for side, name in (("source", SOURCE_TEXT), ("target", TARGET_TEXT))
        ]
        sections += [
            Section("Scores", figures=figures),
            Section("Lengths", figures=lengths),
            *_pairs(pairs),
        ]
    if len(sample) > 2:
        sections.append(_two_sided_map(sample, embedding, bool(summary["center"])))
    return render_page("Mined bitext", run, tiles, sections, summary["warnings"])


def lengths_of(sample: pl.DataFrame, text: str, what: str) -> Figure:
    lengths = sample[text + LENGTH].drop_nulls().to_numpy()
    return Figure(
        "Lengths",
        log_histogram(lengths, "characters", "characters"),
        f"of {len(sample):,} {what}, a sample",
    )


def cosines_of(cosines: np.ndarray) -> Figure:
    """Of a sample, (n, n)."""
    note = "of every two of the sample: what texts score that have nothing to do with each other"
    return Figure(
        "Cosines", histogram(cosines[np.triu_indices(len(cosines), 1)], "cosine", "cosine"), note
    )


def rejected_rows(reasons: dict[str, int]) -> list[Section]:
    rows = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Section("Rejected rows", table=rows, head=("reason", "rows"))] if rows else []


def cut_off(text: str | None, characters: int) -> str:
    text = text or ""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _characters(texts: pl.Series) -> np.ndarray:
    return texts.str.len_chars().fill_null(0).to_numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest_texts(cosines: np.ndarray, sample: pl.DataFrame, text: str) -> Section:
    """The nearest neighbours among a sample's texts, each text once."""
    first = sample.with_row_index("row").unique(text, keep="first", maintain_order=True)
    rows = first["row"].to_numpy()
    texts, upper = first[text].to_list(), np.triu(cosines[rows][:, rows], 1)
    best = np.argsort(-upper, axis=None, kind="stable")[:EXAMPLES]
    pairs = [
        (int(i), int(j)) for i, j in zip(*np.unravel_index(best, upper.shape), strict=True) if i < j
    ]
    examples = [
        pair_of(f"cosine {upper[i, j]:.4f}", ("", texts[i]), ("", texts[j])) for i, j in pairs
    ]
    note = "Those of the sample with the largest cosines. Equal texts are left out."
    return Section("Nearest texts", note, examples=examples)


def pair_of(head: str, first: tuple[str, str | None], second: tuple[str, str | None]) -> Example:
    """Two (name, text)."""
    one, other = mark_differences(first[1] or "", second[1] or "", TEXT_SHOWN)
    return Example(
        head, [(first[0], one), (second[0] + (", the same here" if one == other else ""), other)]
    )


def _step(step: dict[str, Any]) -> Section:
    """A step of a deduplication, from its report."""
    figures, at = [], step["threshold"]
    if step["pairs"] and at < 1:
        figures.append(
            Figure(
                "Scores", score_histogram(step["scores"], "score"), f"of {step['pairs']:,} pairs"
            )
        )
    if step["group_sizes"]:
        note = f"{sum(step['group_sizes'].values()):,} kept rows, by how many rows were removed for them"
        sizes = {
            size.split("-")[0] if len(set(size.split("-"))) == 1 else size: n
            for size, n in step["group_sizes"].items()
        }
        figures.append(Figure("Groups", categories(sizes, "removed rows of a group"), note))
    if len(step.get("by_threshold", ())) > 1:
        removed = {f"{entry['threshold']:g}": entry["removed"] for entry in step["by_threshold"]}
        figures.append(
            Figure(
                "Other thresholds", categories(removed, "threshold"), "rows that each would remove"
            )
        )
    examples = [_group(group) for group in step["largest_groups"][:EXAMPLES]]
    if at < 1:
        examples += [
            pair_of(
                f"near the threshold: {pair[SCORE]:.4f}",
                (str(pair[FIRST_ID]), pair.get("first_text")),
                (str(pair[SECOND_ID]), pair.get("second_text")),
            )
            for pair in step["borderline"][:EXAMPLES]
        ]
    note = f"{step['rows']:,} rows, {step['kept']:,} kept, {step['removed']:,} removed ({step['ratio']:.1%})."
    if step.get("recall"):
        recall = step["recall"]
        note += (
            f" Recall {recall['estimate']:.4f} (95 %: {recall['low']:.4f} to {recall['high']:.4f})."
        )
    return Section(f"Step {step['step']}, threshold {at:g}", note, figures, examples)


def _group(group: dict[str, Any]) -> Example:
    """The kept row's text, and those removed for it, with what the kept one has struck out, what they have underlined."""
    kept = group.get("text", "")
    lines = [(str(group["id"]), merge_differences(kept, kept, TEXT_SHOWN))]
    for member in group["members"]:
        text = member.get("text", "")
        name = (
            str(member["id"]) if member[SCORE] is None else f"{member['id']}, {member[SCORE]:.4f}"
        )
        same = text == kept  # as far as it is shown
        lines.append(
            (f"{name}, the same here", "")
            if same
            else (name, merge_differences(kept, text, TEXT_SHOWN))
        )
    return Example(f"{group['copies']:,} removed for this row", lines)


def _pairs(pairs: pl.DataFrame) -> list[Section]:
    """Pairs of the largest margins, of the least, and those whose numbers differ; each once."""
    numbers = (
        pairs.filter(~pl.col(SAME_NUMBERS)) if SAME_NUMBERS in pairs.columns else pairs.clear()
    )
    chosen = (
        ("Surest pairs", "The largest margins.", pairs.head(EXAMPLES)),
        (
            "Least sure pairs",
            "The margins nearest to the threshold.",
            pairs.tail(EXAMPLES).reverse(),
        ),
        ("Pairs whose numbers differ", "The largest margins among them.", numbers.head(EXAMPLES)),
    )
    marked = "Marked are numbers, placeholders and addresses that the other text does not have."
    return [
        Section(
            title,
            f"{note} {marked}",
            (),
            [_translation(row) for row in frame.iter_rows(named=True)],
        )
        for title, note, frame in chosen
        if len(frame)
    ]


def _translation(row: dict[str, Any]) -> Example:
    texts = [cut_off(row[name], TEXT_SHOWN) for name in (SOURCE_TEXT, TARGET_TEXT)]
    return Example(
        f"margin {row[MARGIN]:.4f}",
        list(zip(("source", "target"), mark_untranslated(*texts), strict=True)),
    )


def map_of(
    sample: pl.DataFrame, vectors: np.ndarray, groups: Sequence[tuple[str, np.ndarray]], text: str
) -> Section:
    axes, shares = principal_axes(vectors)
    xy = vectors @ axes.T
    texts = [cut_off(value, TITLE_SHOWN) for value in sample[text].to_list()]
    points = [
        Points(name, xy[chosen], [texts[i] for i in np.flatnonzero(chosen)])
        for name, chosen in groups
        if chosen.any()
    ]
    return _map_section(points, f"{len(sample):,} texts", shares)


def _two_sided_map(sample: pl.DataFrame, embedding: str, center: bool) -> Section:
    sides = [unit(sample[f"{side}_{embedding}"].to_numpy()) for side in ("source", "target")]
    if center:
        sides = [vectors - vectors.mean(axis=0) for vectors in sides]
    axes, shares = principal_axes(np.concatenate(sides))
    texts = [
        [cut_off(value, TITLE_SHOWN) for value in sample[name]]
        for name in (SOURCE_TEXT, TARGET_TEXT)
    ]
    both = [f"{source} → {target}" for source, target in zip(*texts, strict=True)]
    points = [
        Points(name, vectors @ axes.T, both)
        for name, vectors in zip(("source", "target"), sides, strict=True)
    ]
    what = f"{len(sample):,} pairs, a line from source to target{', each side around its mean' if center else ''}"
    return _map_section(points, what, shares, joined=True)


def _map_section(
    points: Sequence[Points], what: str, shares: np.ndarray, joined: bool = False
) -> Section:
    svg, numbered = scatter(points, f"Map of {what}", joined)
    note = f"{what}; the two directions have {shares[0]:.1%} and {shares[1]:.1%} of the variance."
    legend = [(f"dot{i}", group.name) for i, group in enumerate(points)] if len(points) > 1 else []
    figure = Figure("Principal components", svg, note, legend, numbered)
    return Section(
        "Map",
        "A sample of the vectors, seen from where they differ most. Point at a dot for its text.",
        [figure],
    )
