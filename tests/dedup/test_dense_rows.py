"""Near-equal rows cost a few pairs each, and are decided as by all of their pairs."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import Deduplicate, DeduplicateLexical, DeduplicateSemantic
from beam_gpte.dedup import join_cells, lexical, search_plan
from beam_gpte.dedup.dense import rows as dense_rows

NewPipeline = Callable[..., beam.Pipeline]
ALL = 10**9  # near rows before a row, so that none is dense


def set_dense_from(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (dense_rows, join_cells, lexical):
        monkeypatch.setattr(module, "DENSE_FROM", count)


def decisions(
    new_pipeline: NewPipeline,
    rows: list[dict],
    step: Any,
    reference: list[dict] | None = None,
    scratch: str | None = None,
) -> tuple[list, dict[str, Any]]:
    """What is removed, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        with new_pipeline() as p:
            known = None
            if reference is not None:
                known = p | "Reference" >> beam.Create(reference)
            result = p | beam.Create(rows) | Deduplicate((step,), known, scratch)
            removed = result.removed | "Fields" >> beam.Map(decision_of)
            for name, collection in (("removed", removed), ("report", result.report)):
                assert_that(collection, functools.partial(keep, f"{folder}/{name}"), label=name)
        found = [json.loads(Path(folder, name).read_text()) for name in ("removed", "report")]
    return sorted(map(tuple, found[0])), found[1][0]


def keep(path: str, elements: list) -> None:
    Path(path).write_text(json.dumps(elements))


def decision_of(row: dict) -> tuple:
    return row["id"], row["duplicate_of"], -1.0 if row["score"] is None else float(row["score"])


def near_vectors(groups: int, each: int, noise: float, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((groups, 16))
    rows = []
    for i in range(groups * each):
        center = centers[i % groups] / np.linalg.norm(centers[i % groups])
        vector = center + noise * random.standard_normal(16) / 4
        row = {"id": f"{i:04}", "embedding": vector.astype(np.float32), "n": int(i * 7919 % 101)}
        rows.append({**row, "kind": "ab"[i % 3 > 0]})
    return rows


SETTINGS: list[dict[str, Any]] = [
    {},
    {"keep": "n desc"},
    {"scope": "kind"},
    {"grouping": "components", "keep": "n asc"},
    {"grouping": "semdedup"},
    {"threshold": 0.8},
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("tiles", [1, 3])
def test_dense_vectors_are_decided_as_by_all_their_pairs(
    new_pipeline: NewPipeline,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    tiles: int,
) -> None:
    if tiles > 1:  # tiles of few rows
        monkeypatch.setattr(search_plan, "TILE_ROWS", 60)
        monkeypatch.setattr(search_plan, "CELLS_TILE_ROWS", 60)
    rows = near_vectors(3, 60, 0.35)
    results = []
    for dense_from in (ALL, 4):
        set_dense_from(monkeypatch, dense_from)
        results.append(decisions(new_pipeline, rows, DeduplicateSemantic(**settings)))
    (removed, report), (dense_removed, dense_report) = results
    assert len(removed) > 100
    assert dense_removed == removed
    for figure in ("kept", "removed", "by_threshold", "group_sizes"):
        assert dense_report[figure] == report[figure]
    assert dense_report["recall"]["estimate"] == 1.0
    assert dense_report["pairs"] < report["pairs"] / 2
    assert dense_report["pairs_cut"] > 0


def test_dense_rows_near_to_a_reference_are_removed_for_it(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = near_vectors(2, 60, 0.3)
    reference = [{**row, "id": f"r{row['id']}"} for row in near_vectors(2, 20, 0.3, seed=1)]
    results = []
    for dense_from in (ALL, 4):
        set_dense_from(monkeypatch, dense_from)
        results.append(decisions(new_pipeline, rows, DeduplicateSemantic(), reference)[0])
    assert results[0] == results[1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tiles", [1, 3])
def test_dense_rows_on_a_disk_are_decided_as_those_in_memory(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiles: int
) -> None:
    if tiles > 1:
        monkeypatch.setattr(search_plan, "CELLS_TILE_ROWS", 60)
    set_dense_from(monkeypatch, 4)
    rows = near_vectors(3, 60, 0.35)
    step = DeduplicateSemantic()
    removed, report = decisions(new_pipeline, rows, step, scratch=str(tmp_path))
    in_memory, same = decisions(new_pipeline, rows, step)
    assert removed == in_memory
    assert report["by_threshold"] == same["by_threshold"]
    assert report["pairs_cut"] > 0


def texts(rows: int) -> list[dict]:
    kinds = (
        "the parcel that you sent for is on its way",
        "your order has left our warehouse today",
    )
    return [
        {"id": f"{i:05}", "text": f"Dear customer, {kinds[i % 5 == 0]}; its number is {1000 + i}"}
        for i in range(rows)
    ]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("settings", [{}, {"keep": "longest"}, {"threshold": 0.6}], ids=str)
def test_dense_texts_are_decided_as_by_all_their_pairs(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    results = []
    for dense_from in (ALL, 4):
        set_dense_from(monkeypatch, dense_from)
        if dense_from == ALL:
            monkeypatch.setattr(lexical, "MAX_NEIGHBORS", ALL)
        results.append(decisions(new_pipeline, texts(150), DeduplicateLexical(**settings)))
    (removed, report), (dense_removed, dense_report) = results
    assert removed
    assert dense_removed == removed
    assert dense_report["pairs"] < report["pairs"] / 4


def test_near_equal_rows_have_a_bounded_number_of_pairs_each(new_pipeline: NewPipeline) -> None:
    rows = 600
    _, report = decisions(new_pipeline, texts(rows), DeduplicateLexical())
    assert report["pairs"] < 20 * rows
    _, report = decisions(new_pipeline, near_vectors(1, rows, 0.2), DeduplicateSemantic())
    assert report["pairs"] < 20 * rows


def test_equal_texts_and_scopes_of_one_row_cost_no_more(new_pipeline: NewPipeline) -> None:
    rows = [{"id": str(i), "text": "All rows have this text.", "own": i} for i in range(300)]
    removed, report = decisions(new_pipeline, rows, DeduplicateLexical())
    assert {of for _, of, _ in removed} == {"0"}
    assert report["pairs"] < 20 * 300
    removed, report = decisions(new_pipeline, rows, DeduplicateLexical(scope="own"))
    assert removed == []
