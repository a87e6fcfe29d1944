"""The figures of a deduplication: `(rows, pairs, verdicts) | SummarizePairs(settings, threshold)` gives one dict."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.block import Block
from beam_gpte.deduplication import KeyById, frame_of
from beam_gpte.schemas import DUPLICATE_OF, FIRST_ID, SCORE, SECOND_ID

BINS = 20  # of the histogram of scores, from the threshold to 1
LARGEST_GROUPS = 10
BORDERLINE = 20  # pairs nearest to the threshold

_COPIES = "copies"


@dataclasses.dataclass(eq=False)
class SummarizePairs(beam.PTransform):
    """One dict: the settings, rows, kept, removed, pairs, their scores' histogram, group sizes, borderline pairs.

    `scores` counts pairs in bins of equal width from the threshold to 1; `group_sizes` says how many kept rows have how many
    removed ones (by powers of two); `largest_groups` and `borderline` name rows by id.
    """

    settings: dict[str, Any]
    threshold: float

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        rows, pairs, verdicts = inputs
        scores = pairs | "Scores" >> beam.CombineGlobally(_Scores(self.threshold))
        groups = (
            verdicts
            | "ByKept" >> beam.ParDo(KeyById(DUPLICATE_OF)).with_output_types(tuple[int, Block])
            | "Groups" >> beam.GroupByKey()
            | "GroupSizes" >> beam.Map(_group_sizes).with_output_types(dict)
        )
        return rows | "Summary" >> beam.Map(_summary, self.settings, AsSingleton(scores), AsList(groups)).with_output_types(
            dict
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
        share = (frame[SCORE].to_numpy().astype(np.float64) - self._threshold) / max(1 - self._threshold, 1e-9)
        counts = counts + np.bincount(np.clip((share * BINS).astype(int), 0, BINS - 1), minlength=BINS)
        best = frame.sort(SCORE, FIRST_ID, SECOND_ID).head(BORDERLINE).select(SCORE, FIRST_ID, SECOND_ID)
        return counts, sorted([*nearest, *best.rows()])[:BORDERLINE]

    def merge_accumulators(self, accumulators: Iterable[tuple]) -> tuple:
        whole = list(accumulators)
        nearest = sorted(pair for _, pairs in whole for pair in pairs)[:BORDERLINE]
        return sum((counts for counts, _ in whole), np.zeros(BINS, np.int64)), nearest

    def extract_output(self, accumulator: tuple) -> tuple:
        return accumulator


def _group_sizes(element: tuple[int, Iterable[Block]]) -> dict[str, Any]:
    sizes = (
        frame_of(element[1]).group_by(DUPLICATE_OF).len(name=_COPIES).sort([_COPIES, DUPLICATE_OF], descending=[True, False])
    )
    by_power = sizes.group_by(pl.col(_COPIES).log(2).floor().cast(pl.Int64).alias("power")).len(name="groups")
    return {
        "removed": int(sizes[_COPIES].sum()),
        "sizes": dict(by_power.rows()),
        "largest": sizes.head(LARGEST_GROUPS).rows(),
    }


def _summary(rows: int, settings: dict[str, Any], scores: tuple, groups: list[dict[str, Any]]) -> dict[str, Any]:
    counts, nearest = scores
    removed = sum(group["removed"] for group in groups)
    powers: dict[int, int] = {}
    for group in groups:
        for power, number in group["sizes"].items():
            powers[power] = powers.get(power, 0) + number
    largest = sorted((pair for group in groups for pair in group["largest"]), key=lambda pair: (-pair[1], pair[0]))
    return {
        **settings,
        "rows": rows,
        "kept": rows - removed,
        "removed": removed,
        "pairs": int(counts.sum()),
        "scores": counts.tolist(),
        "group_sizes": {f"{2**power}-{2 ** (power + 1) - 1}": powers[power] for power in sorted(powers)},
        "largest_groups": [{"id": id_, "copies": copies} for id_, copies in largest[:LARGEST_GROUPS]],
        "borderline": [{FIRST_ID: first, SECOND_ID: second, SCORE: score} for score, first, second in nearest],
    }
