"""Compare new texts with old ones by signatures alone: by a plain estimate, and by true Jaccard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    Columns,
    Deduplicate,
    DeduplicateLexical,
    InputError,
    MinHash,
    ReadVectors,
    SignTexts,
    WriteVectorsToParquet,
)
from beam_gpte.core.text.minhash import shingles, signatures
from beam_gpte.core.text.normalize import normalize
from beam_gpte.dedup.signatures import match_known
from beam_gpte.shuffle.group_by_id import block_of
from tests.dedup.test_lexical import brute_force
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
FOX = "the quick brown fox jumps over the lazy dog and runs away into the deep dark wood"


def edited(seed: int, n: int = 60) -> pl.DataFrame:
    """Sentences of 20 words of 40, and for each a version with some of its words replaced."""
    random = np.random.default_rng(seed)
    words = np.array([f"{chr(97 + i % 26)}w{i}ord" for i in range(40)])
    first = random.choice(words, (n, 20))
    second = first.copy()
    for i, row in enumerate(second):
        row[: i % 8] = random.choice(words, i % 8)
    texts = [" ".join(row) for row in np.concatenate([first, second])]
    return pl.DataFrame(
        {"id": [*range(n), *range(n)], "text": texts, "new": [False] * n + [True] * n}
    )


def estimates(rows: pl.DataFrame, minhash: MinHash) -> np.ndarray:
    """The share of columns in which the signatures agree, of all pairs."""
    texts = rows.select(normalize(pl.col("text")))["text"].to_list()
    signed = signatures(shingles(texts, minhash.shingle, minhash.unit), minhash.num_perm)
    return np.array([(row == signed).mean(axis=1, dtype=np.float32) for row in signed])


def run(
    pipeline: beam.Pipeline, folder: Path, rows: pl.DataFrame, cuts: int, **settings: Any
) -> dict[str, list[dict]]:
    blocks = [block_of(rows[i::cuts]) for i in range(cuts)]
    with pipeline as p:
        history = p | "Old" >> ReadVectors(str(folder.parent / "signatures"))
        result = p | beam.Create(blocks) | DeduplicateLexical(history=history, **settings)
        for name in ("kept", "removed", "pairs", "report"):
            getattr(result, name) | name >> beam.Map(keep, str(folder), name)
    return {
        name: rows_in(kept(str(folder), name)) for name in ("kept", "removed", "pairs", "report")
    }


def test_new_texts_meet_those_of_a_folder_of_signatures(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    """Ids of old rows are those of new ones; the texts of old ones are gone."""
    both = edited(0)
    old, new = both.filter(~pl.col("new")), both.filter("new")
    with new_pipeline() as pipeline:
        rows = pipeline | beam.Create([block_of(old)])
        _ = rows | SignTexts() | WriteVectorsToParquet(str(tmp_path / "signatures"))
    results = []
    for cuts, mode in ((1, "in memory"), (5, "two processes")):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        found = run(
            new_pipeline(mode), folder, new.sample(fraction=1, shuffle=True), cuts, threshold=0.6
        )
        results.append(
            {name: sorted(map(repr, found[name])) for name in ("kept", "removed", "pairs")}
        )
    assert results[0] == results[1]

    n, threshold = len(old), np.float32(0.6)
    scores = estimates(both, MinHash())[:n, n:]
    expected = {(i, j): scores[i, j] for i, j in np.argwhere(scores >= threshold).tolist()}
    among_new = brute_force(new.select("id", "text"), 0.6)
    got = {(pair["first_id"], pair["second_id"]): pair["score"] for pair in found["pairs"]}
    assert len(expected) > 20
    assert set(got) <= set(expected) | set(among_new)
    assert len(set(got) & set(expected)) >= 0.98 * len(expected)
    known = {pair: score for pair, score in got.items() if pair in expected}
    assert known == {pair: expected[pair] for pair in known}

    removed = {second for _, second in known}
    assert {row["id"] for row in found["removed"]} >= removed
    for row in found["removed"]:
        assert (row["duplicate_of"], row["id"]) in got
    true = brute_force(pl.DataFrame({"id": range(2 * n), "text": both["text"]}), 0.0)
    errors = [abs(score - true[i, n + j]) for (i, j), score in known.items()]
    (report,) = found["report"]
    assert report["standard_error"] == pytest.approx((0.6 * 0.4 / 128) ** 0.5, abs=1e-6)
    assert max(errors) < 5 * report["standard_error"]
    assert (report["reference_rows"], report["rows"]) == (n, n)


def test_equal_texts_agree_wholly_and_others_of_the_corpus_are_compared_as_before() -> None:
    """By hand: 1 is old; 2 and 3 are near to one another alone; blank texts are equal."""
    new = {1: "stocks  fell", 2: FOX, 3: FOX + "s", 4: " "}
    with beam.Pipeline("FnApiRunner") as pipeline:
        old = [{"id": 2, "text": "Stocks fell"}, {"id": 9, "text": ""}]
        history = pipeline | "Old" >> beam.Create(old) | SignTexts()
        rows = pipeline | beam.Create([{"id": i, "text": text} for i, text in new.items()])
        found = rows | DeduplicateLexical(0.8, keep="longest", history=history)
        removed = found.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
        assert_that(removed, equal_to([(1, 2), (2, 3), (4, 9)]))


def test_a_scope_is_kept_in_the_signatures() -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        old = [{"id": 1, "text": FOX, "site": "a"}, {"id": 2, "text": FOX + "s", "site": None}]
        history = pipeline | "Old" >> beam.Create(old) | SignTexts(scope="site")
        new = [{"id": i, "text": FOX, "site": site} for i, site in enumerate(["a", "b", None])]
        rows = pipeline | beam.Create(new)
        found = rows | DeduplicateLexical(0.8, scope="site", history=history)
        removed = found.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
        assert_that(removed, equal_to([(0, 1), (2, 2)]))


@pytest.mark.parametrize("ids", [pa.int32(), pa.uint64(), pa.string()])
def test_signatures_are_blocks_of_ids_signatures_and_counts(
    new_pipeline: NewPipeline, tmp_path: Path, ids: pa.DataType
) -> None:
    minhash = MinHash(16, 2, "words")
    names = ["1", "2"] if ids == pa.string() else [1, 2]
    block = Block.from_pydict({"doc": pa.array(names, ids), "body": ["a b c", "A"], "n": [3, 4]})
    with new_pipeline() as pipeline:
        signed = pipeline | beam.Create([block]) | SignTexts(None, minhash, Columns("doc", "body"))
        _ = signed | beam.Map(keep, str(tmp_path), "signed")
    (found,) = kept(str(tmp_path), "signed")
    assert found.schema.names == ["doc", "signature", "shingles"]
    assert found.schema.types == [ids, pa.list_(pa.uint32(), 16), pa.int64()]
    rows = {row["doc"]: row for row in found.batch.to_pylist()}
    assert [rows[name]["shingles"] for name in names] == [2, 1]
    expected = signatures(shingles(["a b c", "a"], 2, "words"), 16).tolist()
    assert [rows[name]["signature"] for name in names] == expected


def test_null_texts_and_taken_ids_are_apart() -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = [{"id": 1, "text": None}, {"id": 2, "text": "a"}, {"id": 2, "text": "a"}]
        signed, rejects = pipeline | beam.Create(rows) | SignTexts().with_exception_handling()
        assert_that(signed | beam.Map(len), equal_to([1]), "Signed")
        reasons = rejects | beam.Map(lambda row: row["reject_reason"])
        assert_that(reasons, equal_to(["text is null", "duplicate id"]), "Rejects")


def test_what_is_left_out_of_a_large_bucket_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_known, "MAX_NEIGHBORS", 2)
    with beam.Pipeline("FnApiRunner") as pipeline:
        old = [{"id": i, "text": FOX} for i in range(5)]
        history = pipeline | "Old" >> beam.Create(old) | SignTexts()
        found = (
            pipeline | beam.Create([{"id": 7, "text": FOX}]) | DeduplicateLexical(history=history)
        )
        pairs = found.pairs | "Ids" >> beam.Map(lambda pair: (pair["first_id"], pair["second_id"]))
        assert_that(pairs, equal_to([(0, 7), (1, 7)]), "Pairs")
        cut = found.report | "Cut" >> beam.Map(lambda report: report["pairs_cut"] % 3)
        assert_that(cut, equal_to([0]), "Counted")


OTHERS: dict[str, tuple[SignTexts, dict, str]] = {
    "size": (SignTexts(minhash=MinHash(64)), {}, "made with num_perm 64, and .* compared with 128"),
    "unit": (SignTexts(minhash=MinHash(unit="words")), {}, "made with unit 'words'"),
    "scope": (SignTexts(scope="site"), {}, "made with scope 'site', and .* compared with None"),
    "no scope": (SignTexts(), {"scope": "site"}, "no column 'signature_scope'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_signatures_that_were_made_otherwise_are_refused(name: str) -> None:
    sign, settings, message = OTHERS[name]
    pipeline = beam.Pipeline("FnApiRunner")
    rows = [{"id": 1, "text": FOX, "site": "a"}]
    history = pipeline | "Old" >> beam.Create(rows) | sign
    _ = pipeline | beam.Create(rows) | DeduplicateLexical(history=history, **settings)
    with pytest.raises(Exception, match=f"DeduplicateLexical: .*{message}"):
        pipeline.run()


def test_columns_of_unknown_making_are_refused() -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    column = pa.array([[1] * 128], pa.list_(pa.uint32(), 128))
    block = Block.from_pydict({"id": [1], "signature": column})
    history = pipeline | "Old" >> beam.Create([block])
    _ = pipeline | beam.Create([{"id": 1, "text": "a"}]) | DeduplicateLexical(history=history)
    with pytest.raises(Exception, match="'signature' does not say how its signatures were made"):
        pipeline.run()


def test_what_signatures_cannot_do_is_refused_while_the_graph_is_built() -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    rows = pipeline | beam.Create([{"id": 1, "text": "a"}])
    history = rows | SignTexts()
    with pytest.raises(InputError, match="signatures estimate Jaccard alone"):
        DeduplicateLexical(history=history, similarity="containment")
    with pytest.raises(InputError, match="history and reference; use one"):
        DeduplicateLexical(history=history, reference=rows)
    with pytest.raises(InputError, match="history is not of blocks; use SignTexts"):
        DeduplicateLexical(history=rows)
    with pytest.raises(InputError, match="DeduplicateLexical has a history; use this step alone"):
        Deduplicate((DeduplicateLexical(history=history),))
