"""Summarize one step of a deduplication, and show the summary as text or as rows.

pairs -----> Scores --------+
decisions -> GroupSizes ----+--> figures and ids --> TextsOf these ids --> report
rows ------> CountRows -----+                             ^
  +-------------------------------------------------------+
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import AT, DUPLICATE_OF, FILE, FIRST_ID, REFERENCE, SCORE, SECOND_ID
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import frame_of, key_by_id
from beam_gpte.shuffle.spill import has_column, with_columns

BINS = 20  # of the histogram of scores, from the threshold to 1
LARGEST_GROUPS = 10
MEMBERS_SHOWN = 3  # of a group, those least similar to its kept row
BORDERLINE = 20  # pairs nearest to the threshold
TEXT_SHOWN = 200  # characters

_REMOVED = "removed"
Scores = tuple[np.ndarray, list[tuple[float, Any, Any]]]  # counts by bin, nearest pairs


class StepFindings(NamedTuple):
    """Hold the findings of a step; see `beam_gpte.dedup.deduplicate.StepResult`."""

    rows: beam.PCollection[Block]
    pairs: beam.PCollection[Block]
    decisions: beam.PCollection[Block]
    figures: tuple[beam.PCollection[dict], ...]


@dataclasses.dataclass(eq=False)
class SummarizeStep(beam.PTransform):
    """Summarize a step in one dict, for people and machines.

    The dict has the settings, the figures that the step adds, and

    rows, kept, removed, ratio (removed / rows), pairs; reference_rows, where there are any
    scores: a histogram of the pairs' scores, [lower edge, pairs] each, from the threshold to 1
    group_sizes: how many kept rows have how many removed ones, by powers of two
    largest_groups: id, removed (rows), text and the least similar members (id, score, text)
    borderline: the pairs nearest to the threshold, with both texts

    Texts are there, their first 200 characters, if the rows have `text_column`.

    Attributes:
      settings: with `step` and `threshold`.
      id_column: of the rows and decisions.
      text_column: which the rows need not have.
    """

    settings: dict[str, Any]
    id_column: str
    text_column: str

    @named_collections
    def expand(self, inputs: StepFindings) -> beam.PCollection[dict]:
        """Combine each collection, and look up the texts of the rows to show."""
        rows, pairs, decisions, figures = inputs
        count_scores = beam.CombineGlobally(_CountScores(self.settings["threshold"]))
        scores = pairs | "Scores" >> count_scores.as_singleton_view()
        groups = (
            decisions
            | "ByKept" >> key_by_id(DUPLICATE_OF)
            | "Groups" >> beam.GroupByKey()
            | "GroupSizes" >> beam.Map(_group_sizes, self.id_column).with_output_types(dict)
        )
        counts = (
            rows
            | "CountRows" >> beam.Map(_count_rows)
            | "SumRows" >> beam.CombineGlobally(_sums).as_singleton_view()
        )
        more = tuple(figures) | "Figures" >> beam.Flatten(pipeline=rows.pipeline)
        make = FromSideInputs(
            dict, _summary, counts, self.settings, scores, AsList(groups), AsList(more)
        )
        summary = AsSingleton(rows.pipeline | "Summary" >> make)
        select = beam.FlatMap(_select, (self.id_column, self.text_column)).with_output_types(Block)
        texts = (
            rows
            | "Texts" >> select
            | "TextsOf" >> beam.FlatMap(_texts_of, self.id_column, self.text_column, summary)
        )
        add_texts = FromSideInputs(dict, _with_texts, summary, AsList(texts))
        return rows.pipeline | "AddTexts" >> add_texts


class _CountScores(beam.CombineFn):
    """Count pairs by score, and keep those nearest to the threshold."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def create_accumulator(self) -> Scores:
        return np.zeros(BINS, np.int64), []

    def add_input(self, accumulator: Scores, block: Block) -> Scores:
        counts, nearest = accumulator
        frame = frame_of([block])
        above = frame[SCORE].to_numpy().astype(np.float64) - self._threshold
        share = above / max(1 - self._threshold, 1e-9)
        bins = np.clip((share * BINS).astype(int), 0, BINS - 1)
        best = frame.sort(SCORE, FIRST_ID, SECOND_ID).head(BORDERLINE)
        pairs = best.select(SCORE, FIRST_ID, SECOND_ID).rows()
        return counts + np.bincount(bins, minlength=BINS), sorted([*nearest, *pairs])[:BORDERLINE]

    def merge_accumulators(self, accumulators: Iterable[Scores]) -> Scores:
        parts = list(accumulators)
        nearest = sorted(pair for _, pairs in parts for pair in pairs)[:BORDERLINE]
        return sum((counts for counts, _ in parts), np.zeros(BINS, np.int64)), nearest

    def extract_output(self, accumulator: Scores) -> Scores:
        return accumulator


def _count_rows(block: Block) -> tuple[int, int]:
    """Count the rows of a block, and the reference rows among them."""
    return len(block), len(block) * (REFERENCE in block.schema.names)


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    return tuple(sum(side) for side in zip((0, 0), *pairs, strict=True))  # type: ignore[return-value]


def _group_sizes(element: tuple[int, Iterable[Block]], id_column: str) -> dict[str, Any]:
    """Summarize the groups of one partition of the kept rows' ids."""
    members = frame_of(element[1]).sort(SCORE, id_column, nulls_last=False)
    shown = pl.struct(pl.col(id_column).alias("id"), SCORE).head(MEMBERS_SHOWN).alias("members")
    by_kept = members.group_by(DUPLICATE_OF, maintain_order=True)
    groups = by_kept.agg(pl.len().alias(_REMOVED), shown)
    sizes = groups.sort([_REMOVED, DUPLICATE_OF], descending=[True, False])
    power = pl.col(_REMOVED).log(2).floor().cast(pl.Int64).alias("power")
    by_power = sizes.group_by(power).len(name="groups")
    largest = sizes.head(LARGEST_GROUPS).rename({DUPLICATE_OF: "id"}).to_dicts()
    removed = int(sizes[_REMOVED].sum())
    return {_REMOVED: removed, "sizes": dict(by_power.rows()), "largest": largest}


def _summary(
    rows: tuple[int, int],
    settings: dict[str, Any],
    scores: Scores,
    groups: list[dict[str, Any]],
    figures: list[dict],
) -> dict[str, Any]:
    counts, nearest = scores
    removed = sum(group[_REMOVED] for group in groups)
    powers: dict[int, int] = {}
    for group in groups:
        for power, number in group["sizes"].items():
            powers[power] = powers.get(power, 0) + number
    largest = sorted(
        (row for group in groups for row in group["largest"]),
        key=lambda row: (-row[_REMOVED], row["id"]),
    )
    corpus = rows[0] - rows[1]
    edges = np.linspace(settings["threshold"], 1, BINS, endpoint=False).round(6).tolist()
    return {
        **settings,
        "rows": corpus,
        **({"reference_rows": rows[1]} if rows[1] else {}),
        "kept": corpus - removed,
        "removed": removed,
        "ratio": round(removed / corpus, 6) if corpus else 0.0,
        "pairs": int(counts.sum()),
        **_merged(figures, corpus, settings["threshold"], removed),
        "scores": [list(pair) for pair in zip(edges, counts.tolist(), strict=True)],
        "group_sizes": {f"{2**p}-{2 ** (p + 1) - 1}": powers[p] for p in sorted(powers)},
        "largest_groups": largest[:LARGEST_GROUPS],
        "borderline": [
            {FIRST_ID: first, SECOND_ID: second, SCORE: score} for score, first, second in nearest
        ],
    }


def _merged(figures: list[dict], rows: int, threshold: float, removed: int) -> dict[str, Any]:
    """Merge the step's figures, sorted by name; `removed_at` becomes rows with their ratio."""
    merged = {name: value for part in figures for name, value in sorted(part.items())}
    if "removed_at" in merged:
        at = {threshold: removed, **merged.pop("removed_at")}
        merged["by_threshold"] = [
            {"threshold": edge, "removed": count, "ratio": round(count / rows, 6) if rows else 0.0}
            for edge, count in sorted(at.items())
        ]
    return dict(sorted(merged.items()))


def _select(block: Block, names: tuple[str, ...]) -> Iterator[Block]:
    if all(has_column(block, name) for name in names):
        kept = dict.fromkeys((*names, FILE, AT))
        yield Block(block.batch.select([name for name in kept if name in block.schema.names]))


def _texts_of(
    block: Block, id_column: str, text_column: str, summary: dict[str, Any]
) -> Iterator[tuple[Any, str]]:
    wanted = {part[name] for part, name, _ in _rows_shown(summary)}
    if not wanted:
        return
    is_wanted = frame_of([Block(block.batch.select([id_column]))])[id_column].is_in(sorted(wanted))
    found = with_columns(block.filter(is_wanted.to_arrow()), [text_column])
    columns = (found.column(name).to_pylist() for name in (id_column, text_column))
    for id_, text in zip(*columns, strict=True):
        if text is not None:
            yield id_, str(text)[:TEXT_SHOWN]


def _rows_shown(summary: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield each part of a summary that shows a row, the key of its id, and that of its text."""
    for group in summary["largest_groups"]:
        yield group, "id", "text"
        yield from ((member, "id", "text") for member in group["members"])
    for pair in summary["borderline"]:
        yield pair, FIRST_ID, "first_text"
        yield pair, SECOND_ID, "second_text"


def _with_texts(summary: dict[str, Any], texts: list[tuple[Any, str]]) -> dict[str, Any]:
    text_of = dict(texts)
    groups = [
        {**group, "members": [dict(member) for member in group["members"]]}
        for group in summary["largest_groups"]
    ]
    pairs = [dict(pair) for pair in summary["borderline"]]
    copied = {**summary, "largest_groups": groups, "borderline": pairs}
    for part, name, text in list(_rows_shown(copied)):
        if part[name] in text_of:
            part[text] = text_of[part[name]]
    return copied


def report_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a report as rows of `step`, `figure`, `value`, for a table or a time series."""
    figures = {n: value for n, value in report.items() if isinstance(value, bool | int | float)}
    removed_at = {entry["threshold"]: entry["removed"] for entry in report.get("by_threshold", ())}
    figures |= {f"removed at {threshold}": count for threshold, count in removed_at.items()}
    if recall := report.get("recall"):
        figures |= {f"recall {name}": recall[name] for name in ("estimate", "low", "high")}
    figures |= {f"pairs from {edge}": count for edge, count in report["scores"]}
    figures |= {f"groups of {size}": count for size, count in report["group_sizes"].items()}
    for name, value in figures.items():
        yield {"step": report["step"], "figure": name, "value": float(value)}


def report_text(report: dict[str, Any], groups: int = 3, pairs: int = 5) -> str:
    """Format a report for a terminal.

    Args:
      report: of a `Deduplication`.
      groups: how many of the largest groups to show.
      pairs: how many of the pairs nearest to the threshold to show.
    """
    lines = [
        f"{report['step']} at {report['threshold']}: {report['rows']:,} rows, "
        f"{report['kept']:,} kept, {report['removed']:,} removed ({report['ratio']:.1%})",
        *_figure_lines(report),
    ]
    for group in report["largest_groups"][:groups]:
        lines.append(f"  {group[_REMOVED]:,} like {_shown(group['id'], group.get('text'))}")
        for member in group["members"]:
            text = _shown(member["id"], member.get("text"))
            lines.append(f"    {_score(member[SCORE])} {text}")
    borderline = report["borderline"][:pairs] if report["threshold"] < 1 else []
    lines += ["  nearest to the threshold"] if borderline else []
    for pair in borderline:
        lines.append(f"    {_score(pair[SCORE])} {_shown(pair[FIRST_ID], pair.get('first_text'))}")
        lines.append(f"           {_shown(pair[SECOND_ID], pair.get('second_text'))}")
    return "\n".join(lines)


def _figure_lines(report: dict[str, Any]) -> Iterator[str]:
    if recall := report.get("recall"):
        yield (
            f"  recall {recall['estimate']:.4f} (95 %: {recall['low']:.4f} to "
            f"{recall['high']:.4f}), by {recall['pairs']:,} pairs of {recall['rows']:,} rows"
        )
    for entry in report.get("by_threshold", ()):
        yield f"  at {entry['threshold']:<6} {entry['removed']:>12,} removed ({entry['ratio']:.1%})"
    if report["pairs"] and report["threshold"] < 1:
        top = max(count for _, count in report["scores"])
        yield f"  {report['pairs']:,} pairs by score"
        for edge, count in report["scores"]:
            if count:
                yield f"    {edge:<8} {count:>10,} {'#' * round(40 * count / top)}"
    if report["group_sizes"]:
        sizes = ", ".join(f"{count:,} of {size}" for size, count in report["group_sizes"].items())
        yield f"  groups by their removed rows: {sizes}"


def _score(score: float | None) -> str:
    return "      " if score is None else f"{score:.4f}"


def _shown(id_: Any, text: str | None) -> str:
    return str(id_) if text is None else f"{id_}: {' '.join(text.split())[:90]}"
