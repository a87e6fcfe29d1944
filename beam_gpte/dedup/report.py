"""The figures of one step of a deduplication: `(rows, pairs, verdicts, figures) | SummarizeStep(...)` gives one dict.

pairs ----> Scores --------+
verdicts -> GroupSizes ----+--> figures and ids --> TextsOf these ids --> report
rows -----> CountRows -----+                            ^
  +-----------------------------------------------------+
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import AT, DUPLICATE_OF, FILE, FIRST_ID, REFERENCE, SCORE, SECOND_ID
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.shuffle.group_by_id import frame_of, key_by_id
from beam_gpte.shuffle.spill import has_column, with_columns

BINS = 20  # of the histogram of scores, from the threshold to 1
LARGEST_GROUPS = 10
MEMBERS_SHOWN = 3  # of a group, those least similar to its kept row
BORDERLINE = 20  # pairs nearest to the threshold
TEXT_SHOWN = 200  # characters

_COPIES = "copies"


@dataclasses.dataclass(eq=False)
class SummarizeStep(beam.PTransform):
    """One dict for people and machines: the settings, and

    rows, kept, removed, ratio (removed / rows), pairs; reference_rows, where there are any
    scores: a histogram of the pairs' scores, [lower edge, pairs] each, from the threshold to 1
    group_sizes: how many kept rows have how many removed ones, by powers of two
    largest_groups: id, copies, text and the least similar members (id, score, text) of the largest
    borderline: the pairs nearest to the threshold, with both texts
    and the figures that the step gives besides.

    Texts are there if the rows have `text_column`, their first 200 characters.
    """

    settings: dict[str, Any]
    id_column: str
    text_column: str

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        rows, pairs, decisions, figures = inputs
        scores = (
            pairs
            | "Scores"
            >> beam.CombineGlobally(_Scores(self.settings["threshold"])).as_singleton_view()
        )
        groups = (
            decisions
            | "ByKept" >> key_by_id(DUPLICATE_OF)
            | "Groups" >> beam.GroupByKey()
            | "GroupSizes" >> beam.Map(_group_sizes, self.id_column).with_output_types(dict)
        )
        counts = (
            rows
            | "CountRows"
            >> beam.Map(lambda block: (len(block), len(block) * (REFERENCE in block.schema.names)))
            | "SumRows" >> beam.CombineGlobally(_sums).as_singleton_view()
        )
        more = tuple(figures) | "Figures" >> beam.Flatten(pipeline=rows.pipeline)
        make = FromSideInputs(
            dict, _summary, counts, self.settings, scores, AsList(groups), AsList(more)
        )
        summary = rows.pipeline | "Summary" >> make
        texts = (
            rows
            | "Texts"
            >> beam.FlatMap(_select, (self.id_column, self.text_column)).with_output_types(Block)
            | "TextsOf"
            >> beam.FlatMap(_texts_of, self.id_column, self.text_column, AsSingleton(summary))
        )
        return rows.pipeline | "AddTexts" >> FromSideInputs(
            dict, _with_texts, AsSingleton(summary), AsList(texts)
        )


class _Scores(beam.CombineFn):
    """Counts pairs by score, and keeps those nearest to the threshold."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def create_accumulator(self) -> tuple[np.ndarray, list[tuple[float, Any, Any]]]:
        return np.zeros(BINS, np.int64), []

    def add_input(self, accumulator: tuple, block: Block) -> tuple:
        counts, nearest = accumulator
        frame = frame_of([block])
        share = (frame[SCORE].to_numpy().astype(np.float64) - self._threshold) / max(
            1 - self._threshold, 1e-9
        )
        counts = counts + np.bincount(
            np.clip((share * BINS).astype(int), 0, BINS - 1), minlength=BINS
        )
        best = (
            frame.sort(SCORE, FIRST_ID, SECOND_ID)
            .head(BORDERLINE)
            .select(SCORE, FIRST_ID, SECOND_ID)
        )
        return counts, sorted([*nearest, *best.rows()])[:BORDERLINE]

    def merge_accumulators(self, accumulators: Iterable[tuple]) -> tuple:
        whole = list(accumulators)
        nearest = sorted(pair for _, pairs in whole for pair in pairs)[:BORDERLINE]
        return sum((counts for counts, _ in whole), np.zeros(BINS, np.int64)), nearest

    def extract_output(self, accumulator: tuple) -> tuple:
        return accumulator


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    return tuple(sum(side) for side in zip((0, 0), *pairs, strict=True))  # type: ignore[return-value]


def _group_sizes(element: tuple[int, Iterable[Block]], id_column: str) -> dict[str, Any]:
    members = frame_of(element[1]).sort(SCORE, id_column, nulls_last=False)
    groups = members.group_by(DUPLICATE_OF, maintain_order=True).agg(
        pl.len().alias(_COPIES), pl.struct(id_column, SCORE).head(MEMBERS_SHOWN).alias("members")
    )
    sizes = groups.sort([_COPIES, DUPLICATE_OF], descending=[True, False])
    by_power = sizes.group_by(pl.col(_COPIES).log(2).floor().cast(pl.Int64).alias("power")).len(
        name="groups"
    )
    return {
        "removed": int(sizes[_COPIES].sum()),
        "sizes": dict(by_power.rows()),
        "largest": [
            {
                "id": id_,
                _COPIES: copies,
                "members": [{"id": m[id_column], SCORE: m[SCORE]} for m in shown],
            }
            for id_, copies, shown in sizes.head(LARGEST_GROUPS).rows()
        ],
    }


def _summary(
    rows: tuple[int, int],
    settings: dict[str, Any],
    scores: tuple,
    groups: list[dict[str, Any]],
    figures: list[dict],
) -> dict[str, Any]:
    counts, nearest = scores
    removed = sum(group["removed"] for group in groups)
    powers: dict[int, int] = {}
    for group in groups:
        for power, number in group["sizes"].items():
            powers[power] = powers.get(power, 0) + number
    largest = sorted(
        (row for group in groups for row in group["largest"]),
        key=lambda row: (-row[_COPIES], row["id"]),
    )
    own = rows[0] - rows[1]
    edges = np.linspace(settings["threshold"], 1, BINS, endpoint=False).round(6).tolist()
    return {
        **settings,
        "rows": own,
        **({"reference_rows": rows[1]} if rows[1] else {}),
        "kept": own - removed,
        "removed": removed,
        "ratio": round(removed / own, 6) if own else 0.0,
        "pairs": int(counts.sum()),
        **_merged(figures, own, settings["threshold"], removed),
        "scores": [list(pair) for pair in zip(edges, counts.tolist(), strict=True)],
        "group_sizes": {
            f"{2**power}-{2 ** (power + 1) - 1}": powers[power] for power in sorted(powers)
        },
        "largest_groups": largest[:LARGEST_GROUPS],
        "borderline": [
            {FIRST_ID: first, SECOND_ID: second, SCORE: score} for score, first, second in nearest
        ],
    }


def _merged(figures: list[dict], rows: int, threshold: float, removed: int) -> dict[str, Any]:
    """The steps' figures in one dict, by name; `removed_at` becomes rows with their ratio."""
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
    wanted = {part[name] for part, name, _ in _named(summary)}
    if wanted:
        named = frame_of([Block(block.batch.select([id_column]))])[id_column].is_in(sorted(wanted))
        found = with_columns(block.filter(named.to_arrow()), [text_column])
        for id_, text in zip(
            found.column(id_column).to_pylist(), found.column(text_column).to_pylist(), strict=True
        ):
            if text is not None:
                yield id_, str(text)[:TEXT_SHOWN]


def _named(summary: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """What names a row: a part of the summary, where the row's id is in it, and where its text goes."""
    for group in summary["largest_groups"]:
        yield group, "id", "text"
        yield from ((member, "id", "text") for member in group["members"])
    for pair in summary["borderline"]:
        yield pair, FIRST_ID, "first_text"
        yield pair, SECOND_ID, "second_text"


def _with_texts(summary: dict[str, Any], texts: list[tuple[Any, str]]) -> dict[str, Any]:
    text_of = dict(texts)
    whole = {
        **summary,
        "largest_groups": [
            {**group, "members": [dict(m) for m in group["members"]]}
            for group in summary["largest_groups"]
        ],
        "borderline": [dict(pair) for pair in summary["borderline"]],
    }
    for part, name, text in list(_named(whole)):
        if part[name] in text_of:
            part[text] = text_of[part[name]]
    return whole


def report_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures of a report as rows of `step`, `figure`, `value`: what a table or a time series takes."""
    for name, value in report.items():
        if isinstance(value, bool | int | float):
            yield {"step": report["step"], "figure": name, "value": float(value)}
    for entry in report.get("by_threshold", ()):
        yield {
            "step": report["step"],
            "figure": f"removed at {entry['threshold']}",
            "value": float(entry["removed"]),
        }
    for name in ("estimate", "low", "high"):
        if report.get("recall"):
            yield {
                "step": report["step"],
                "figure": f"recall {name}",
                "value": report["recall"][name],
            }
    for edge, count in report["scores"]:
        yield {"step": report["step"], "figure": f"pairs from {edge}", "value": float(count)}
    for size, count in report["group_sizes"].items():
        yield {"step": report["step"], "figure": f"groups of {size}", "value": float(count)}


def report_text(report: dict[str, Any], groups: int = 3, pairs: int = 5) -> str:
    """A report to read on a terminal, with this many of the largest groups and borderline pairs."""
    title = f"{report['step']} at {report['threshold']}"
    lines = [
        f"{title}: {report['rows']:,} rows, {report['kept']:,} kept, {report['removed']:,} removed ({report['ratio']:.1%})"
    ]
    recall = report.get("recall")
    if recall:
        lines.append(
            f"  recall {recall['estimate']:.4f} (95 %: {recall['low']:.4f} to {recall['high']:.4f}), "
            f"by {recall['pairs']:,} pairs of {recall['rows']:,} rows"
        )
    for entry in report.get("by_threshold", ()):
        lines.append(
            f"  at {entry['threshold']:<6} {entry['removed']:>12,} removed ({entry['ratio']:.1%})"
        )
    if report["pairs"] and report["threshold"] < 1:
        top = max(count for _, count in report["scores"])
        lines.append(f"  {report['pairs']:,} pairs by score")
        lines += [
            f"    {edge:<8} {count:>10,} {'#' * round(40 * count / top)}"
            for edge, count in report["scores"]
            if count
        ]
    if report["group_sizes"]:
        sizes = ", ".join(f"{count:,} of {size}" for size, count in report["group_sizes"].items())
        lines.append(f"  groups by their removed rows: {sizes}")
    for group in report["largest_groups"][:groups]:
        lines.append(f"  {group['copies']:,} like {_shown(group['id'], group.get('text'))}")
        lines += [
            f"    {_score(m[SCORE])} {_shown(m['id'], m.get('text'))}" for m in group["members"]
        ]
    borderline = report["borderline"][:pairs] if report["threshold"] < 1 else []
    if borderline:
        lines.append("  nearest to the threshold")
    for pair in borderline:
        lines.append(f"    {_score(pair[SCORE])} {_shown(pair[FIRST_ID], pair.get('first_text'))}")
        lines.append(f"           {_shown(pair[SECOND_ID], pair.get('second_text'))}")
    return "\n".join(lines)


def _score(score: float | None) -> str:
    return "      " if score is None else f"{score:.4f}"


def _shown(id_: Any, text: str | None) -> str:
    return str(id_) if text is None else f"{id_}: {' '.join(text.split())[:90]}"
