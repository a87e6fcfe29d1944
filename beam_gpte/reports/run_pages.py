"""Render the pages of runs: `embedding_page(run, ...)`, `deduplication_page` and `bitext_page`.

Nothing here reads a corpus: a page shows what a run has counted, and the rows that `WriteSample`
has written. `output_pages` has the pages of programs that read what was written.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.columns import COSINE, MARGIN, SIDES, SOURCE_ID, TARGET_ID
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.mining.pair_checks import LENGTH_RATIO, SAME_NUMBERS, SOURCE_TEXT, TARGET_TEXT
from beam_gpte.reports.charts import Threshold, bars_between, histogram
from beam_gpte.reports.differences import mark_untranslated
from beam_gpte.reports.duplicates import duplicate_sections
from beam_gpte.reports.maps import MAX_TEXT, vector_map
from beam_gpte.reports.missed_pairs import MissedPair
from beam_gpte.reports.page import Example, Figure, Markup, Run, Score, Section, render_page
from beam_gpte.reports.sections import (
    MAX_EXAMPLES,
    cosines_figure,
    lengths_figure,
    map_section,
    nearest_texts,
    plain_columns,
    reject_sections,
    shorten,
    unit_vectors,
    vectors_map,
)

MAX_PAIRS = 400  # of a table
MAX_MISSED = 300
_PAIR_HEADER = ("margin", "source id", "source", "target id", "target", "cosine", "length ratio")
_MARKED = "Marked are numbers, placeholders and addresses that the other text does not have."


def embedding_page(
    run: Run,
    summary: dict[str, Any],
    sample: pl.DataFrame,
    text_column: str,
    embedding_column: str,
    config: EncoderConfig | None = None,
) -> str:
    """Render the page of an embedded corpus.

    Args:
      run: what it reports on.
      summary: of `beam-gpte embed`.
      sample: some of the rows, with ids first, text, length and vector.
      text_column: the texts.
      embedding_column: the vectors.
      config: of the model, to count tokens; None counts characters.
    """
    texts, truncated = summary["texts"], summary["truncated"]
    tiles = {
        "texts": texts,
        "texts per second": summary["texts_per_second"],
        "tokens": summary["tokens"],
        "reused": summary["reused"] or None,
        "truncated": f"{truncated:,} ({truncated / texts:.1%})" if truncated else truncated,
        "rejected": summary["rejected"],
    }
    sections, dimension = [], None
    if len(sample) > 1:
        vectors = unit_vectors(sample[embedding_column].to_numpy())
        dimension = vectors.shape[1]
        cosines = np.clip(vectors @ vectors.T, -1, 1)
        lengths = lengths_figure(sample, text_column, "texts", config)
        sections += [
            vectors_map(sample, vectors, text_column),
            Section("Lengths and scores", figures=[lengths, cosines_figure(cosines)]),
            nearest_texts(cosines, sample, text_column),
        ]
    sections += reject_sections(summary["reasons"])
    return render_page("Embedded corpus", run, tiles, sections, about={"dimension": dimension})


def deduplication_page(
    run: Run,
    summary: dict[str, Any],
    sample: pl.DataFrame,
    text_column: str,
    embedding_column: str,
    config: EncoderConfig | None = None,
) -> str:
    """Render the page of a deduplicated corpus.

    Args:
      run: what it reports on.
      summary: of `beam-gpte dedup`.
      sample: some of the rows, kept and removed, with ids first, text, length and, if they have
        one, vector.
      text_column: the texts.
      embedding_column: the vectors.
      config: of the model, to count tokens; None counts characters.
    """
    rows = summary["rows"]
    tiles = {
        "rows": rows,
        "kept": summary["kept"],
        "removed": summary["removed"],
        "share removed": f"{summary['removed'] / rows:.1%}" if rows else None,
        "emptied": summary.get("emptied") or None,
        "rejected": summary["rejected"],
        "rows per second": round(rows / max(run.speed["seconds"], 1e-9), 1),
    }
    sections = duplicate_sections(summary["steps"], sample, text_column, embedding_column, config)
    has_vectors = embedding_column in sample.columns and sample[embedding_column].dtype.is_nested()
    width = sample[embedding_column].drop_nulls().to_numpy().shape[-1] if has_vectors else None
    return render_page("Deduplicated corpus", run, tiles, sections, about={"dimension": width})


def bitext_page(
    run: Run,
    summary: dict[str, Any],
    pairs: pl.DataFrame,
    sample: pl.DataFrame,
    embedding: str,
    missed: Sequence[MissedPair] | None = None,
    config: EncoderConfig | None = None,
) -> str:
    """Render the page of a mined bitext.

    Args:
      run: what it reports on.
      summary: of `beam-gpte mine`.
      pairs: all of them, the largest margin first.
      sample: some of the pairs, with both vectors.
      embedding: the column of the vectors on each side.
      missed: the gold pairs that are not among them; None without gold.
      config: of the model, to count tokens; None counts characters.
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
            tiles[name.replace("f1", "F1")] = f"{summary[name]:.1%}"
    sections = [_scores(pairs, summary)]
    width = None
    if len(sample) > 2:
        sections.append(_pairs_map(sample, embedding, bool(summary["center"])))
        width = sample[f"source_{embedding}"].to_numpy().shape[1]
    if missed is not None:
        sections.append(_missed(missed))
    if len(pairs):
        sections += [*_pair_examples(pairs), _pair_table(pairs), _pair_lengths(sample, config)]
    about = {"model": run.parameters.get("model") or summary.get("model"), "dimension": width}
    return render_page("Mined bitext", run, tiles, sections, summary["warnings"], about)


def _scores(pairs: pl.DataFrame, summary: dict[str, Any]) -> Section:
    """Show the margins on both sides of the threshold, and ratios of lengths within the limit."""
    figures, counted = [], summary.get("margins")
    name = f"minimum margin, {summary['threshold_used']:.4g}"
    mark = Threshold(summary["threshold_used"], name, "pairs", "not taken for pairs")
    if counted:
        edges = np.array([edge for edge, _ in counted])
        step = edges[1] - edges[0] if len(edges) > 1 else 0.01
        # bins end where the next one begins; where none is above the threshold, the line ends them
        edges = edges[0] + np.arange(len(edges) + 1) * step
        counts = [count for _, count in counted]
        chart = bars_between(edges, counts, "margin", mark, unit="best pairs")
        figures.append(Figure("Margins", chart, f"of {sum(counts):,} best pairs"))
    elif len(pairs):
        chart = histogram(pairs[MARGIN].to_numpy(), "margin", mark, "pairs")
        figures.append(Figure("Margins", chart, f"of {len(pairs):,} pairs"))
    if LENGTH_RATIO in pairs.columns and len(pairs):
        values = pairs[LENGTH_RATIO].drop_nulls().to_numpy()
        ratios = histogram(values, "target by source, relative to the median", unit="pairs")
        figures.append(Figure("Length ratios", ratios, "characters of both texts of a pair"))
    note = summary.get("no_posterior")
    said = f"Pairs have no posterior: {note}; the minimum margin alone decides." if note else ""
    return Section("Scores", said, figures)


def _pair_lengths(sample: pl.DataFrame, config: EncoderConfig | None) -> Section:
    figures = [
        dataclasses.replace(
            lengths_figure(sample, name, f"{side} texts", config), title=f"Lengths, {side}"
        )
        for side, name in zip(SIDES, (SOURCE_TEXT, TARGET_TEXT), strict=True)
        if name in sample.columns
    ]
    return Section("Lengths", figures=figures)


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
    return [
        Section(title, f"{note} {_MARKED}", examples=[*map(_translation, frame.to_dicts())])
        for title, note, frame in chosen
        if len(frame)
    ]


def _translation(row: dict[str, Any]) -> Example:
    source, target = (shorten(row[name], TEXT_SHOWN) for name in (SOURCE_TEXT, TARGET_TEXT))
    marked = mark_untranslated(source, target)
    ids = (f"source {row[SOURCE_ID]}", f"target {row[TARGET_ID]}")
    return Example(f"margin {row[MARGIN]:.4f}", [*zip(ids, marked, strict=True)])


def _pair_table(pairs: pl.DataFrame) -> Section:
    """Show all pairs, or, of many, those nearest to the threshold and others at equal distances."""
    shown, note = pairs, f"All {len(pairs):,} pairs."
    if len(pairs) > MAX_PAIRS:
        near = pairs.tail(MAX_PAIRS // 2)
        rest = pairs.head(len(pairs) - len(near))
        places = np.linspace(0, len(rest) - 1, MAX_PAIRS // 2).round().astype(int)
        shown = pl.concat([rest[places], near])
        note = (
            f"{len(shown):,} of {len(pairs):,} pairs: the {len(near):,} nearest to the minimum "
            "margin, and others from the largest margin on."
        )
    rows = [_pair_row(row) for row in shown.iter_rows(named=True)]
    return Section("Pairs", f"{note} {_MARKED}", table=rows, header=_PAIR_HEADER, search=True)


def _pair_row(row: dict[str, Any]) -> tuple[Any, ...]:
    texts = [shorten(row[name], TEXT_SHOWN) for name in (SOURCE_TEXT, TARGET_TEXT)]
    source, target = map(Markup, mark_untranslated(*texts))
    numbers = [
        None if row.get(name) is None else Score(row[name]) for name in (COSINE, LENGTH_RATIO)
    ]
    ids = str(row[SOURCE_ID]), str(row[TARGET_ID])
    return (Score(row[MARGIN]), ids[0], source, ids[1], target, *numbers)


def _missed(missed: Sequence[MissedPair]) -> Section:
    if not missed:
        return Section("Missed gold pairs", "None: all gold pairs are among the pairs.")
    rows = [
        (
            pair.source_id,
            pair.target_id,
            pair.why,
            *(shorten(text, TEXT_SHOWN) for text in (pair.source_text, pair.target_text)),
        )
        for pair in missed[:MAX_MISSED]
    ]
    some = f"; the first {MAX_MISSED} of them" if len(missed) > MAX_MISSED else ""
    note = f"{len(missed):,} gold pairs that are not among the pairs{some}."
    header = ("source id", "target id", "why", "source", "target")
    return Section("Missed gold pairs", note, table=rows, header=header, search=True)


def _pairs_map(sample: pl.DataFrame, embedding: str, center: bool) -> Section:
    names = [f"{side}_{embedding}" for side in SIDES]
    sides = [unit_vectors(sample[name].to_numpy()) for name in names]
    if center:
        sides = [vectors - vectors.mean(axis=0) for vectors in sides]
    texts = [sample[name].to_list() for name in (SOURCE_TEXT, TARGET_TEXT)]
    ids = [str(id_) for name in (SOURCE_ID, TARGET_ID) for id_ in sample[name].to_list()]
    shown = [shorten(text, MAX_TEXT) for side in texts for text in side]
    of_pairs = plain_columns(sample.drop(*names, SOURCE_TEXT, TARGET_TEXT, SOURCE_ID, TARGET_ID))
    partners = [shorten(text, MAX_TEXT) for side in reversed(texts) for text in side]
    columns = {
        "side": [side for side in SIDES for _ in range(len(sample))],
        "translation": partners,
        **{name: values * 2 for name, values in of_pairs.items() if name != "characters"},
    }
    chart = vector_map(np.concatenate(sides), ids, shown, columns, joined=True)
    centered = ", each side around its mean" if center else ""
    return map_section(
        chart, f"{len(sample):,} pairs, a line from source to target{centered}; a sample."
    )
