"""Define the result of a deduplication, and summarize its steps as dicts, text or table rows.

figures of all steps --> GroupByKey: Add --> figures and ids --> TextsOf these ids --> report
                                                                      ^
rows -----------------------------------------------------------------+

What meets, and why no other shuffle can carry it:
  Add: all parts of the figures of each step, which the last group of every step adds to.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import AT, CORPUS_ID, FILE, FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.errors import MAX_SHOWN, printable
from beam_gpte.dedup.figures import BINS, REMOVED, AddFigures, StepFigures
from beam_gpte.dedup.recall_audit import recall_figures
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.corpus_ids import own_ids
from beam_gpte.shuffle.group_by_id import frame_of
from beam_gpte.shuffle.spill import has_column, with_columns

TEXT_SHOWN = 200  # characters

Numbered = tuple[int, StepFigures]


@dataclasses.dataclass(frozen=True)
class StepSummary:
    """Describe a step whose figures are summarized.

    Attributes:
      settings: with `step` and `threshold`.
      thresholds: larger ones, at which the removed rows are counted.
    """

    settings: dict[str, Any]
    thresholds: tuple[float, ...] = ()


class FiguresOfSteps(NamedTuple):
    """Hold the rows of all steps, and the figures of each, in parts."""

    rows: beam.PCollection[Block]
    figures: tuple[tuple[beam.PCollection[StepFigures], ...], ...]


@dataclasses.dataclass(eq=False)
class SummarizeSteps(beam.PTransform):
    """Summarize each step in one dict, for people and machines.

    The dict has the settings, the figures that the step adds, and

    rows, kept, removed, ratio (removed / rows), pairs; reference_rows, where there are any
    scores: a histogram of the pairs' scores, [lower edge, pairs] each, from the threshold to 1
    group_sizes: how many kept rows have how many removed ones, by powers of two
    largest_groups: id, removed (rows), text and the least similar members (id, score, text)
    borderline: the pairs nearest to the threshold, with both texts

    Texts are there, their first 200 characters, if the rows have `text_column`.

    Attributes:
      steps: in their order.
      id_column: of the rows and decisions; `CORPUS_ID` where there is a reference.
      text_column: which the rows need not have.
    """

    steps: tuple[StepSummary, ...]
    id_column: str
    text_column: str

    @named_collections
    def expand(self, inputs: FiguresOfSteps) -> beam.PCollection[dict]:
        """Add up all figures, and look up the texts of the rows to show."""
        rows, pipeline = inputs.rows, inputs.rows.pipeline
        numbered = [
            parts
            | f"Figures{i}" >> beam.Flatten()
            | f"Number{i}" >> beam.Map(_numbered, i).with_output_types(Numbered)
            for i, parts in enumerate(inputs.figures, 1)
        ]
        totals = (
            numbered
            | "Figures" >> beam.Flatten()
            | "Add" >> beam.CombinePerKey(AddFigures()).with_output_types(Numbered)
        )
        make = FromSideInputs(list, _summaries, self.steps, AsList(totals))
        summaries = AsSingleton(pipeline | "Summary" >> make)
        select = beam.FlatMap(_select, (self.id_column, self.text_column)).with_output_types(Block)
        texts = (
            rows
            | "Texts" >> select
            | "TextsOf" >> beam.FlatMap(_texts_of, self.id_column, self.text_column, summaries)
        )
        arguments = self.id_column, summaries, AsList(texts)
        add_texts = beam.FlatMap(_with_texts, *arguments).with_output_types(dict)
        return pipeline | "Once" >> beam.Impulse() | "AddTexts" >> add_texts


def _numbered(figures: StepFigures, number: int) -> Numbered:
    return number, figures


def _summaries(steps: tuple[StepSummary, ...], totals: list[Numbered]) -> list[dict[str, Any]]:
    figures = dict(totals)
    return [_summary(step, figures.get(i, StepFigures())) for i, step in enumerate(steps, 1)]


def _summary(step: StepSummary, figures: StepFigures) -> dict[str, Any]:
    rows, removed, settings = figures.rows, figures.removed, dict(step.settings)
    if figures.threshold is not None:
        settings["threshold"] = figures.threshold
    counts = figures.scores or (0,) * BINS
    edges = np.linspace(settings["threshold"], 1, BINS, endpoint=False).round(6).tolist()
    powers = figures.sizes
    return {
        **settings,
        "rows": rows,
        **({"reference_rows": figures.reference_rows} if figures.reference_rows else {}),
        "kept": rows - removed,
        "removed": removed,
        "ratio": round(removed / rows, 6) if rows else 0.0,
        "pairs": sum(counts),
        **_step_figures(step, figures, settings["threshold"]),
        "scores": [list(pair) for pair in zip(edges, counts, strict=True)],
        "group_sizes": {f"{2**p}-{2 ** (p + 1) - 1}": powers[p] for p in sorted(powers)},
        "largest_groups": list(figures.largest),
        "borderline": [
            {FIRST_ID: first, SECOND_ID: second, SCORE: score}
            for score, first, second in figures.nearest
        ],
    }


def _step_figures(step: StepSummary, figures: StepFigures, threshold: float) -> dict[str, Any]:
    """Give the figures that only some steps have, sorted by name."""
    found = {**figures.costs, **recall_figures(figures)}
    if step.thresholds:
        counts = figures.removed_at or (0,) * len(step.thresholds)
        at = {threshold: figures.removed}
        at |= dict(zip(step.thresholds, counts, strict=True))
        rows = figures.rows
        found["by_threshold"] = [
            {"threshold": edge, "removed": count, "ratio": round(count / rows, 6) if rows else 0.0}
            for edge, count in sorted(at.items())
        ]
    return dict(sorted(found.items()))


def _select(block: Block, names: tuple[str, ...]) -> Iterator[Block]:
    if all(has_column(block, name) for name in names):
        kept = dict.fromkeys((*names, FILE, AT))
        yield block.select([name for name in kept if name in block.schema.names])


def _texts_of(
    block: Block, id_column: str, text_column: str, summaries: list[dict[str, Any]]
) -> Iterator[tuple[Any, str]]:
    wanted = {part[name] for summary in summaries for part, name, _ in _rows_shown(summary)}
    if not wanted:
        return
    is_wanted = frame_of([block.select([id_column])])[id_column].is_in(sorted(wanted))
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


def _with_texts(
    _: bytes, id_column: str, summaries: list[dict[str, Any]], texts: list[tuple[Any, str]]
) -> Iterator[dict[str, Any]]:
    text_of = dict(texts)
    return (_with_text(summary, id_column, text_of) for summary in summaries)


def _with_text(summary: dict[str, Any], id_column: str, text_of: dict[Any, str]) -> dict[str, Any]:
    groups = [
        {**group, "members": [dict(member) for member in group["members"]]}
        for group in summary["largest_groups"]
    ]
    pairs = [dict(pair) for pair in summary["borderline"]]
    copied = {**summary, "largest_groups": groups, "borderline": pairs}
    for part, name, text in list(_rows_shown(copied)):
        if part[name] in text_of:
            part[text] = text_of[part[name]]
        if id_column == CORPUS_ID:
            part[name] = own_ids(pa.array([part[name]], pa.large_string()))[0].as_py()
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
        lines.append(f"  {group[REMOVED]:,} like {_shown(group['id'], group.get('text'))}")
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
    shown = printable(str(id_)[:MAX_SHOWN])
    return shown if text is None else f"{shown}: {printable(' '.join(text.split())[:90])}"


class Deduplication(NamedTuple):
    """Hold the result of a deduplication.

    Attributes:
      kept: rows as they came, with the vectors that a step with a model made.
      removed: rows as they came, without such vectors, and with `duplicate_of` (the id of a kept
        row, or of a reference row), `score` (float32: the similarity to it) and `found_by` (the
        step: ``exact``, ``lexical`` or ``semantic``). After several steps, where a later step
        removed the row that a row had been found near to, `duplicate_of` names the row that that
        one is a duplicate of, and `score` is null.
      pairs: `first_id`, `second_id` (of the ids' type), `score`, `found_by`: similar rows, the one
        that is kept before the other first. Blocks, tables or record batches where the rows are
        these, Beam Rows where they are Beam Rows, else mappings.
      report: one dict per step, with its figures; see `beam_gpte.dedup.report`.
      rejects: rows that could not be compared, with step and reason; empty unless
        `with_exception_handling()` was called.
      saved_index: of a semantic step, its cells and sketches as bytes, for `saved_index` of a later
        run; else None.
      annotated: kept and removed rows as they came, with `cluster_id` (the id of the row that
        stays, of a reference row where that is one), `cluster_size` (int64: rows of the corpus in
        the cluster) and `is_representative` (bool: of each cluster the row that is kept); None
        unless `Deduplicate` was given `annotate`.
    """

    kept: beam.PCollection
    removed: beam.PCollection
    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection
    saved_index: beam.PCollection | None
    annotated: beam.PCollection | None = None
