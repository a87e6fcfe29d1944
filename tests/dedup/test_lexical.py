"""Compare DeduplicateLexical with brute force over sets of strings."""

import ast
import itertools
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, InputError
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.text.normalize import normalize
from beam_gpte.dedup import lexical
from beam_gpte.dedup.lexical import DeduplicateLexical
from beam_gpte.shuffle.group_by_id import block_of, frame_of

THRESHOLD = 0.7
FOX = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def descriptions(data: Path) -> pl.DataFrame:
    """300 rows in groups: packages of one source are described in nearly the same words."""
    rows = pl.read_parquet(data / "debian_descriptions_50k.parquet", columns=["id", "name", "text"])
    return rows.sort("name").slice(20_000, 300).select(pl.col("id").cast(pl.Int64), "text")


def brute_force(rows: pl.DataFrame, threshold: float = THRESHOLD) -> dict[tuple[int, int], float]:
    """Pairs in the order of `rows`, with their Jaccard."""
    texts = rows.select("id", normalize(pl.col("text"))).rows()
    grams = {id_: {text[i : i + 5] for i in range(max(1, len(text) - 4))} for id_, text in texts}
    scores = {
        (a, b): len(grams[a] & grams[b]) / len(grams[a] | grams[b])
        for a, b in itertools.combinations(grams, 2)
    }
    return {pair: score for pair, score in scores.items() if score >= threshold}


def leaders(pairs: Container[tuple[int, int]], order: Iterable[int]) -> set[int]:
    kept: list[int] = []
    for id_ in order:
        if not any((other, id_) in pairs for other in kept):
            kept.append(id_)
    return set(kept)


def run(
    pipeline: beam.Pipeline, folder: Path, rows: pl.DataFrame, cuts: int, **settings: str
) -> list[tuple[str, dict]]:
    """Results by name; through files, since workers may be other processes."""
    bounds = [len(rows) * i // cuts for i in range(cuts + 1)]
    blocks = [block_of(rows[a:b]) for a, b in itertools.pairwise(bounds)]
    with pipeline as p:
        corpus = p | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle()
        result = corpus | DeduplicateLexical(threshold=THRESHOLD, **settings)
        parts = [
            getattr(result, name)
            | f"Rows_{name}"
            >> beam.FlatMap(lambda block, name: [(name, r) for r in rows_of(block)], name)
            for name in ("kept", "removed", "pairs", "report")
        ]
        _ = parts | beam.Flatten() | beam.Map(repr) | beam.io.WriteToText(str(folder / "result"))
    lines = sorted(
        line for file in folder.glob("result-*") for line in file.read_text().splitlines()
    )
    return [ast.literal_eval(line) for line in lines]


def rows_of(element: Block | dict) -> list[dict]:
    return element.batch.to_pylist() if isinstance(element, Block) else [element]


def test_pairs_and_decisions_are_those_of_brute_force_in_any_blocks_and_order(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, descriptions: pl.DataFrame
) -> None:
    results = []
    for cuts, mode in ((1, "in memory"), (7, "in memory"), (2, "two processes")):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        rows = descriptions.sample(fraction=1, shuffle=True, seed=cuts)
        results.append(run(new_pipeline(mode), folder, rows, cuts, keep="longest"))
    assert results[0] == results[1] == results[2]

    ordered = descriptions.sort(-pl.col("text").str.len_chars().cast(pl.Int64), "id")
    true = brute_force(ordered)
    got = {
        name: [row for kind, row in results[0] if kind == name]
        for name in ("kept", "removed", "pairs", "report")
    }
    found = {(pair["first_id"], pair["second_id"]): pair["score"] for pair in got["pairs"]}
    assert len(true) > 100
    assert len(found) == len(got["pairs"])  # each once
    assert set(found) <= set(true)
    assert len(found) >= 0.98 * len(true)
    assert found == pytest.approx({pair: true[pair] for pair in found}, abs=1e-6)

    kept, removed = ({row["id"] for row in got[name]} for name in ("kept", "removed"))
    assert kept == leaders(found, ordered["id"].to_list())
    assert sorted([*kept, *removed]) == sorted(descriptions["id"])
    for row in got["removed"]:
        assert row["duplicate_of"] in kept
        assert row["score"] == found[row["duplicate_of"], row["id"]]
    (report,) = got["report"]
    assert [report[name] for name in ("rows", "kept", "removed", "pairs")] == [
        300,
        len(kept),
        len(removed),
        len(found),
    ]


def test_rows_come_back_as_they_were_and_bad_ones_apart(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    rows = [
        {"id": 2, "text": FOX.upper() + "  ", "n": 1},
        {"id": 1, "text": FOX + "!", "n": None},
        {"id": 3, "text": "nothing like it", "n": 3},
        {"id": 4, "text": None, "n": 4},
        {"id": None, "text": "no id", "n": 5},
        {"id": 3, "text": "nothing like it", "n": 3},
    ]
    with new_pipeline() as p:
        result = p | beam.Create(rows) | DeduplicateLexical(keep="n asc").with_exception_handling()
        assert_that(result.kept, equal_to([rows[0], rows[2]]), "Kept")
        # 39 grams, and one more in row 1
        removed = result.removed | beam.Map(lambda row: {**row, "score": round(row["score"] * 40)})
        assert_that(
            removed,
            equal_to([{**rows[1], "duplicate_of": 2, "score": 39, "found_by": "lexical"}]),
            "Removed",
        )
        reasons = result.rejects | "Why" >> beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(
            reasons,
            equal_to([(4, "text is null"), (None, "id is null"), (3, "duplicate id")]),
            "Rejects",
        )


def test_a_null_text_fails_the_job_by_name(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    message = "DeduplicateLexical: row with id 7: text is null; fix the row, or collect such rows"
    block = Block.from_pydict({"id": [7, 8], "text": [None, "a"]})
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        _ = p | beam.Create([block]).with_output_types(Block) | DeduplicateLexical()


def test_a_corpus_without_rows_has_a_report(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    empty = Block.from_pydict({"id": [1], "text": ["a"]}).slice(0, 0)
    with new_pipeline() as p:
        result = p | beam.Create([empty]).with_output_types(Block) | DeduplicateLexical()
        assert_that(result.kept, equal_to([]), "Kept")
        figures = result.report | beam.Map(
            lambda report: (report["rows"], report["kept"], report["pairs"])
        )
        assert_that(figures, equal_to([(0, 0, 0)]), "Report")


def test_a_crowded_bucket_is_cut_to_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 rows in a bucket and 2 neighbors each: 0 + 1 + 2 + 2 + 2 pairs; a row alone has none."""
    monkeypatch.setattr(lexical, "MAX_NEIGHBORS", 2)
    monkeypatch.setattr(lexical, "PAIRS_AT_ONCE", 3)
    rows = pl.DataFrame(
        {"id": [5, 3, 1, 2, 4, 9], lexical.BUCKET: pl.Series([8, 8, 8, 8, 8, 0], dtype=pl.UInt64)}
    )
    blocks = [block_of(rows[:4]), block_of(rows[4:])]
    pairs = (
        frame_of(list(lexical._pair_buckets((0, blocks), "id", KeepOrder())))
        .sort("second_id", "first_id")
        .rows()
    )
    assert pairs == [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "threshold is 0; use a similarity above 0"),
        (
            {"threshold": 0.01},
            "num_perm is 128, too few to find pairs at a threshold of 0.01; use more",
        ),
        ({"keep": "best"}, "keep is 'best'; use first, longest"),
    ],
)
def test_wrong_arguments_raise_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeduplicateLexical(**settings)


def test_texts_without_an_n_gram_are_near_to_equal_ones_alone(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    texts = ["", " \n", "\u200b", "\u200b\ufeff", "a", "A", "ab", "no", "-", "abcde", "abcdef"]
    block = Block.from_pydict({"id": list(range(len(texts))), "text": texts})
    with new_pipeline() as p:
        rows = p | beam.Create([block]).with_output_types(Block)
        removed = (rows | DeduplicateLexical(threshold=0.6)).removed | beam.FlatMap(
            lambda block: [(row["id"], row["duplicate_of"]) for row in block.batch.to_pylist()]
        )
        assert_that(removed, equal_to([(1, 0), (5, 4)]))
