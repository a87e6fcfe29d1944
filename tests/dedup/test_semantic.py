"""Compare DeduplicateSemantic with brute force and the sequential rule."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateSemantic,
    InputError,
    SemanticOptions,
    TextEncoder,
)
from beam_gpte.core.vectors.similarity import cosines, vectors_to_arrow

NewPipeline = Callable[..., beam.Pipeline]


@pytest.fixture(scope="module")
def vectors(data: Path, encoder: TextEncoder) -> np.ndarray:
    """Of 340 titles of Debian's packages, 40 of them duplicates."""
    titles = (
        pq.read_table(data / "debian_descriptions_50k.parquet").column("title").to_pylist()[:300]
    )
    return encoder.encode([*titles, *titles[100:140]])


def unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return (vectors / lengths[:, None] + 0.0).astype(np.float32)


def by_loop(
    vectors: np.ndarray, threshold: float, order: Iterable[int], scopes: list | None = None
) -> set[tuple[int, int]]:
    """(removed row, nearest kept row before it); the first row with a vector represents all."""
    units = unit(vectors)
    kept: list[int] = []
    removed = set()
    for row in order:
        near = [k for k in kept if scopes is None or scopes[k] == scopes[row]]
        scores = (
            cosines(units[near], np.repeat(units[row : row + 1], len(near), axis=0))
            if near
            else np.zeros(0)
        )
        if (scores >= np.float32(threshold)).any():
            best = max(range(len(near)), key=lambda i: (scores[i], -near[i]))
            removed.add((row, near[best]))
        else:
            kept.append(row)
    return removed


def blocks_of(
    vectors: np.ndarray, shards: int = 1, seed: int | None = None, **columns: list
) -> list[Block]:
    order = list(range(len(vectors)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    blocks = []
    for shard in np.array_split(np.array(order), shards):
        more = {name: [values[i] for i in shard] for name, values in columns.items()}
        blocks.append(
            Block.from_pydict(
                {"id": pa.array(shard), **more, "embedding": vectors_to_arrow(vectors[shard])}
            )
        )
    return blocks


def run(
    pipeline: beam.Pipeline,
    blocks: list[Block],
    transform: Deduplicate | DeduplicateSemantic,
    check: Callable[[dict], None],
) -> None:
    """Let `check` see ids in `kept`, (id, duplicate_of) in `removed`, scores in `pairs`."""
    with pipeline:
        result = (
            pipeline | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle() | transform
        )
        parts = [
            getattr(result, name)
            | name >> beam.Map(lambda block, name=name: (name, block.batch.to_pylist()))
            for name in ("kept", "removed", "pairs", "rejects")
        ]
        parts.append(result.report | "report" >> beam.Map(lambda report: ("report", [report])))
        assert_that(parts | "All" >> beam.Flatten(), lambda found: check(gathered(found)))


def gathered(found: list[tuple[str, list[dict]]]) -> dict:
    rows: dict[str, list[dict]] = {
        name: [] for name in ("kept", "removed", "pairs", "rejects", "report")
    }
    for name, part in found:
        rows[name] += part
    pairs = [(row["first_id"], row["second_id"]) for row in rows["pairs"]]
    assert len(pairs) == len(set(pairs))
    return {
        "kept": sorted(row["id"] for row in rows["kept"]),
        "removed": {(row["id"], row["duplicate_of"]) for row in rows["removed"]},
        "pairs": {pair: row["score"] for pair, row in zip(pairs, rows["pairs"], strict=True)},
        "rejects": {(row["id"], row["reject_reason"]) for row in rows["rejects"]},
        "report": rows["report"][0],
        "rows": rows,
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("threshold", "mode", "shards", "seed"),
    [
        (0.8, "in memory", 1, None),
        (0.9, "in memory", 2, 1),
        # tests/dedup/test_deduplicate.py and test_scratch.py run it in two processes
        (0.9, "two threads", 7, 2),
        (0.95, "in memory", 7, 3),
    ],
)
def test_no_pair_of_real_texts_is_missed_and_the_rule_is_the_sequential_one(
    new_pipeline: NewPipeline,
    vectors: np.ndarray,
    threshold: float,
    mode: str,
    shards: int,
    seed: int | None,
) -> None:
    units = unit(vectors)
    first_of: dict[bytes, int] = {}
    first = [first_of.setdefault(vector.tobytes(), row) for row, vector in enumerate(units)]
    a, b = np.triu_indices(len(units), 1)
    scores = np.concatenate(
        [
            cosines(units[a[i : i + 50_000]], units[b[i : i + 50_000]])
            for i in range(0, len(a), 50_000)
        ]
    )
    near = {
        (x, y)
        for x, y in zip(
            *(side[scores >= np.float32(threshold)].tolist() for side in (a, b)), strict=True
        )
    }
    pairs = {(x, y) for x, y in near if first[x] == x and first[y] == y} | {
        (x, y) for y, x in enumerate(first) if x != y
    }
    removed = by_loop(vectors, threshold, range(len(vectors)))

    def check(found: dict) -> None:
        assert set(found["pairs"]) == pairs
        assert found["removed"] == removed
        assert found["kept"] == sorted(set(range(len(vectors))) - {row for row, _ in removed})
        assert found["report"]["removed"] == len(removed)
        assert found["report"]["rows"] == len(vectors)
        assert (
            sum(count for _, count in found["report"]["scores"])
            == found["report"]["pairs"]
            == len(pairs)
        )

    run(new_pipeline(mode), blocks_of(vectors, shards, seed), DeduplicateSemantic(threshold), check)


def test_cells_are_used_and_miss_nothing(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray
) -> None:
    monkeypatch.setattr("beam_gpte.core.dedup.space.CELL_ROWS", 40)
    monkeypatch.setattr("beam_gpte.dedup.search_plan.GROUP_ROWS", 100)
    monkeypatch.setattr("beam_gpte.dedup.search_plan.CELLS_TILE_ROWS", 25)
    removed = by_loop(vectors, 0.9, range(len(vectors)))

    def check(found: dict) -> None:
        assert found["removed"] == removed

    run(new_pipeline(), blocks_of(vectors, 3), DeduplicateSemantic(0.9), check)


def test_few_probes_find_most_pairs_and_nothing_else(
    new_pipeline: NewPipeline, monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray
) -> None:
    monkeypatch.setattr("beam_gpte.core.dedup.space.CELL_ROWS", 40)
    wanted = by_loop(vectors, 0.9, range(len(vectors)))

    def check(found: dict) -> None:
        assert len({row for row, _ in found["removed"]} & {row for row, _ in wanted}) >= 0.9 * len(
            wanted
        )
        assert all(score >= np.float32(0.9) for score in found["pairs"].values())

    run(new_pipeline(), blocks_of(vectors), DeduplicateSemantic(0.9, mode="probes=4"), check)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("keep", ["stars desc", "stars asc", "shortest", "longest"])
def test_the_row_that_is_to_be_kept_is_kept(
    new_pipeline: NewPipeline, vectors: np.ndarray, keep: str
) -> None:
    draw, part = random.Random(0), vectors[np.r_[0:200, 300:340, 100:140]]
    stars = [draw.choice([None, 1, 2, 3]) for _ in part]
    texts = ["x" * draw.randint(0, 5) for _ in part]
    values = stars if "stars" in keep else [len(text) for text in texts]
    sign = -1 if keep in ("stars desc", "longest") else 1
    order = sorted(range(len(part)), key=lambda i: (values[i] is None, sign * (values[i] or 0), i))
    removed = {row for row, _ in by_loop(part, 0.9, order)}

    def check(found: dict) -> None:
        assert {row for row, _ in found["removed"]} == removed
        assert not {of for _, of in found["removed"]} & removed

    run(
        new_pipeline(),
        blocks_of(part, 2, 0, stars=stars, text=texts),
        DeduplicateSemantic(0.9, keep=keep),
        check,
    )


def test_rows_of_different_scopes_are_never_duplicates(
    new_pipeline: NewPipeline, vectors: np.ndarray
) -> None:
    part = vectors[np.r_[0:200, 300:340, 100:140]]
    scopes = [["de", "en", None][i % 3] for i in range(len(part))]
    removed = by_loop(part, 0.85, range(len(part)), scopes)
    assert removed != by_loop(part, 0.85, range(len(part)))

    def check(found: dict) -> None:
        assert found["removed"] == removed

    run(
        new_pipeline(),
        blocks_of(part, 2, 0, language=scopes),
        DeduplicateSemantic(0.85, scope="language"),
        check,
    )


def test_a_family_of_equal_vectors_gives_as_many_pairs_as_rows(new_pipeline: NewPipeline) -> None:
    family = np.repeat(np.array([[3.0, 4.0]], np.float32), 5000, axis=0)

    def check(found: dict) -> None:
        assert found["kept"] == [0]
        assert set(found["pairs"]) == {(0, i) for i in range(1, 5000)}

    run(new_pipeline(), blocks_of(family, 5, 1), DeduplicateSemantic(0.9), check)


@pytest.mark.parametrize(
    ("grouping", "removed"), [("leader", {(1, 0)}), ("components", {(1, 0), (2, 0)})]
)
def test_a_chain_is_one_component_and_has_two_leaders(
    new_pipeline: NewPipeline, grouping: str, removed: set[tuple[int, int]]
) -> None:
    angles = np.array([0, 0.4, 0.8])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def check(found: dict) -> None:
        assert found["removed"] == removed

    run(new_pipeline(), blocks_of(vectors), DeduplicateSemantic(0.9, grouping=grouping), check)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize(
    ("keep", "kept"), [("stars desc", [2]), ("stars asc", [1]), ("longest", [2])]
)
def test_of_a_component_the_row_stays_that_comes_first(
    new_pipeline: NewPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    kept: list[int],
    scratch: bool,
) -> None:
    """Rows 0-1-2-3 are a chain, each near to the next only, 4 equals 3; each in its own cell."""
    monkeypatch.setattr("beam_gpte.core.dedup.space.CELL_ROWS", 2)
    angles = np.array([0, 0.4, 0.8, 1.2, 1.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    more: dict[str, list] = {"stars": [2, 1, 4, None, 3], "text": ["ab", "a", "abcd", "", "abc"]}

    def check(found: dict) -> None:
        assert found["kept"] == kept
        assert {of for _, of in found["removed"]} == set(kept)
        assert len(found["removed"]) == 4
        assert set(found["rows"]["pairs"][0]) == {"first_id", "second_id", "score", "found_by"}

    step = DeduplicateSemantic(0.9, grouping="components", keep=keep)
    transform = Deduplicate((step,), scratch=str(tmp_path)) if scratch else step
    run(new_pipeline(), blocks_of(vectors, 2, 0, **more), transform, check)


def test_rows_equal_to_a_removed_row_are_duplicates_of_the_row_that_it_is_a_duplicate_of(
    new_pipeline: NewPipeline,
) -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.1], [0, 1]], np.float32)

    def check(found: dict) -> None:
        assert found["removed"] == {(1, 0), (2, 0)}
        assert found["kept"] == [0, 3]

    run(new_pipeline(), blocks_of(vectors), DeduplicateSemantic(0.9), check)


def test_bad_rows_are_collected_and_nothing_is_lost(new_pipeline: NewPipeline) -> None:
    vectors = [[1.0, 0.0], None, [0.0, 0.0], [float("nan"), 1.0], [1.0, 0.0], [0.0, 1.0]]
    ids = pa.array([1, 2, 3, 4, 5, 6])
    block = Block.from_pydict(
        {"id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32(), 2))}
    )
    clone = Block.from_pydict(
        {"id": pa.array([6, None]), "embedding": vectors_to_arrow(np.ones((2, 2), np.float32))}
    )

    def check(found: dict) -> None:
        assert found["rejects"] - {(6, "duplicate id")} == {
            (2, "embedding is null"),
            (3, "embedding is zero and has no direction"),
            (4, "embedding has a value that is not finite"),
            (None, "id is null"),
        }
        assert len(found["kept"]) + len(found["removed"]) + len(found["rejects"]) == 8

    run(new_pipeline(), [block, clone], DeduplicateSemantic().with_exception_handling(), check)


def test_without_exception_handling_a_bad_row_fails_the_job_and_is_named(
    new_pipeline: NewPipeline,
) -> None:
    block = Block.from_pydict(
        {"id": pa.array([7]), "embedding": vectors_to_arrow(np.zeros((1, 2), np.float32))}
    )
    with pytest.raises(Exception, match="row with id 7: embedding is zero"):
        run(new_pipeline(), [block], DeduplicateSemantic(), lambda found: None)


def test_vectors_of_two_lengths_are_refused(new_pipeline: NewPipeline) -> None:
    short, long = (
        Block.from_pydict(
            {"id": pa.array([dim]), "embedding": vectors_to_arrow(np.ones((1, dim), np.float32))}
        )
        for dim in (2, 3)
    )
    with pytest.raises(Exception, match="vectors of 2 and 3 dimensions"):
        run(new_pipeline(), [short, long], DeduplicateSemantic(), lambda found: None)


def test_rows_come_back_as_rows(new_pipeline: NewPipeline) -> None:
    rows = [
        {"id": i, "embedding": np.array([1, i == 2], np.float32), "note": f"n{i}"} for i in range(3)
    ]
    with new_pipeline() as pipeline:
        result = pipeline | beam.Create(rows) | DeduplicateSemantic(0.9)
        removed = result.removed | beam.Map(
            lambda row: (row["id"], row["duplicate_of"], row["note"])
        )
        kept = result.kept | "kept" >> beam.Map(lambda row: (row["id"], row["note"]))
        assert_that(removed, same([(1, 0, "n1")]), label="removed")
        assert_that(kept, same([(0, "n0"), (2, "n2")]), label="kept rows")


def test_an_empty_corpus_has_an_empty_result(new_pipeline: NewPipeline) -> None:
    def check(found: dict) -> None:
        assert found["kept"] == []
        assert found["report"]["rows"] == 0

    run(new_pipeline(), [], DeduplicateSemantic(), check)


def same(rows: list) -> Callable[[list], None]:
    def compare(found: list) -> None:
        assert sorted(found) == rows

    return compare


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"mode": "probes=0"},
        {"mode": "recall=1.5"},
        {"keep": "best"},
        {"grouping": "all"},
    ],
)
def test_settings_that_make_no_sense_are_refused_when_the_transform_is_made(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        DeduplicateSemantic(**settings)


def test_options_that_make_no_sense_are_refused_when_they_are_made() -> None:
    with pytest.raises(InputError, match="max_neighbors is 0; use 1 or more"):
        SemanticOptions(max_neighbors=0)
    options = SemanticOptions(report_thresholds=(0.5,))
    with pytest.raises(InputError, match="report_thresholds has 0.5; pairs below"):
        DeduplicateSemantic(options=options)
    options = SemanticOptions(report_thresholds=tuple(0.9 + i / 1000 for i in range(64)))
    with pytest.raises(InputError, match="report_thresholds has 64 thresholds; use at most 63"):
        DeduplicateSemantic(options=options)


def test_a_stream_is_refused() -> None:
    rows = beam.Pipeline("FnApiRunner") | beam.Create([{"id": 1}])
    windowed = rows | beam.WindowInto(beam.window.FixedWindows(1))
    with pytest.raises(
        InputError, match="DeduplicateSemantic: a corpus is deduplicated as a whole"
    ):
        windowed | DeduplicateSemantic()
