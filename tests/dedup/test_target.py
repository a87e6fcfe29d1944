"""Choose the threshold by how many rows stay: it is that of the counts, and so is the result."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateSemantic,
    InputError,
    SemanticOptions,
)
from beam_gpte.core.dedup.target import Target
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.dedup.report import report_text
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
GRID = (0.75, 0.8, 0.85, 0.9, 0.95)


def corpus(seed: int = 0) -> pl.DataFrame:
    """300 vectors around 60 directions, some of them equal."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(60, 16))
    spread = random.uniform(0, 0.2, size=(300, 1))
    vectors = centers[random.integers(0, 60, 300)] + spread * random.normal(size=(300, 16)) * 3
    vectors[270:] = vectors[random.integers(0, 30, 30)]
    columns = {"id": range(300), "stars": random.integers(0, 5, 300)}
    embedding = pl.Series(vectors_to_arrow(vectors.astype(np.float32)))
    return pl.DataFrame(columns).with_columns(embedding=embedding)


def plain(threshold: float, rows: pl.DataFrame, **settings: str) -> tuple:
    step = DeduplicateSemantic(threshold, options=SemanticOptions(report_thresholds=()), **settings)
    return rows | step


@pytest.fixture(scope="module")
def counts() -> dict[float, int]:
    """How many rows stay at each threshold, by a run at each."""
    return {at: len(plain(at, corpus(), keep="stars desc").kept) for at in (0.7, *GRID)}


@pytest.mark.parametrize("wanted", [1, 120, 170, 299])
def test_the_result_is_that_of_a_run_at_the_chosen_threshold(
    counts: dict[float, int], wanted: int
) -> None:
    assert len(set(counts.values())) > 3
    nearest = min(abs(size - wanted) for size in counts.values())
    expected = max(at for at, size in counts.items() if abs(size - wanted) == nearest)
    options = SemanticOptions(report_thresholds=GRID, target_size=wanted)
    found = corpus() | DeduplicateSemantic(0.7, keep="stars desc", options=options)
    alone = plain(expected, corpus(), keep="stars desc")
    for name in ("kept", "removed"):
        assert getattr(found, name).sort("id").equals(getattr(alone, name).sort("id"))
    assert sorted(found.pairs.rows()) == sorted(alone.pairs.rows())
    (report,), (other,) = found.report, alone.report
    assert report["threshold"] == expected
    assert (report["target_size"], report["min_threshold"]) == (wanted, 0.7)
    for name in ("rows", "kept", "removed", "pairs", "scores", "group_sizes", "borderline"):
        assert report[name] == other[name]
    by_threshold = {entry["threshold"]: entry["removed"] for entry in report["by_threshold"]}
    assert by_threshold == {at: 300 - size for at, size in counts.items()}
    assert report["recall"]["estimate"] == 1.0
    assert f"semantic at {expected}" in report_text(report)


def test_a_rate_is_the_share_of_the_rows_that_goes(counts: dict[float, int]) -> None:
    rate = (300 - counts[0.85]) / 300
    options = SemanticOptions(report_thresholds=GRID, target_rate=rate)
    found = corpus() | DeduplicateSemantic(0.7, keep="stars desc", options=options)
    assert len(found.kept) == counts[0.85]
    assert found.report[0]["ratio"] == pytest.approx(rate, abs=1e-6)


def test_workers_and_blocks_choose_the_same(
    new_pipeline: NewPipeline, tmp_path: Path, counts: dict[float, int]
) -> None:
    """With a reference, whose rows are not counted, and an exact step before."""
    results = []
    for cuts, mode in ((1, "in memory"), (9, "two processes")):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        rows = corpus().sample(fraction=1, shuffle=True, seed=cuts)
        parts = [rows[i::cuts] for i in range(cuts)]
        options = SemanticOptions(report_thresholds=GRID, target_size=counts[0.9] - 20)
        steps = (
            DeduplicateExact(("stars", "embedding")),
            DeduplicateSemantic(0.7, options=options),
        )
        with new_pipeline(mode) as pipeline:
            known = corpus(1)[:40].with_columns(pl.col("id") + 5)
            reference = pipeline | "Known" >> beam.Create([Block.from_table(known.to_arrow())])
            blocks = [Block.from_table(part.to_arrow()) for part in parts]
            found = pipeline | beam.Create(blocks) | Deduplicate(steps, reference)
            found.kept | "Kept" >> beam.Map(keep, str(folder), "kept")
            found.report | "Report" >> beam.Map(keep, str(folder), "report")
        ids = sorted(row["id"] for row in rows_in(kept(str(folder), "kept")))
        reports = {report["step"]: report for report in kept(str(folder), "report")}
        results.append((ids, reports["semantic"]["threshold"]))
    assert results[0] == results[1]
    assert abs(len(results[0][0]) - (counts[0.9] - 20)) < 40


def test_by_default_every_hundredth_above_the_threshold_may_be_chosen() -> None:
    options = SemanticOptions(target_size=10)
    assert options.thresholds(0.9) == (0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0)
    assert len(options.thresholds(0.2)) == 63
    assert SemanticOptions().thresholds(0.8) == (0.85, 0.9, 0.95)


def test_ties_go_to_the_larger_threshold() -> None:
    """By hand: of 100 rows 40, 30, 30 and 20 go."""
    removed = (40, 30, 30, 20)
    assert [Target(size=size).level(100, removed) for size in (60, 61, 65, 70, 75, 99)] == [
        0,
        0,
        2,
        2,
        3,
        3,
    ]
    assert [Target(rate=rate).level(100, removed) for rate in (0, 0.3, 0.36, 0.99)] == [3, 2, 0, 0]
    assert Target(size=3).level(0, (0, 0)) == 1


def test_no_rows_have_a_threshold_too(new_pipeline: NewPipeline) -> None:
    options = SemanticOptions(target_size=10)
    found = corpus()[:0] | DeduplicateSemantic(0.9, options=options)
    assert len(found.kept) == 0
    assert found.report[0]["threshold"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_size": 3, "target_rate": 0.1}, "target_size and target_rate are both given"),
        ({"target_size": 0}, "target_size is 0; use a number of rows"),
        ({"target_rate": 1.0}, "target_rate is 1.0; use the share of rows to remove"),
        ({"target_rate": -0.1}, "target_rate is -0.1; use the share of rows to remove"),
    ],
)
def test_a_target_that_there_is_not_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticOptions(**settings)


@pytest.mark.parametrize("grouping", ["components", "semdedup"])
def test_a_target_needs_the_grouping_leader(grouping: str) -> None:
    with pytest.raises(InputError, match=f"with the grouping '{grouping}'; use leader"):
        DeduplicateSemantic(grouping=grouping, options=SemanticOptions(target_size=3))
