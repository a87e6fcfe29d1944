"""Name the cluster of each row: the row that stays, its size, and which row represents it."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    InputError,
)
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from benchmarks.graphs import count
from tests.examples import WordEncoder, keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
FOX = "the quick brown fox jumps over the lazy dog and runs away into the deep dark wood"
# by hand: b equals a, c is worded like a, d has the words of a in another order, e equals d
BACK = " ".join(reversed(FOX.split()))
TEXTS = [FOX, FOX.upper(), FOX + "s", BACK, BACK + " ", "stocks fell on Monday"]
STEPS = (DeduplicateExact(), DeduplicateLexical(0.8), DeduplicateSemantic(0.9, WordEncoder()))


def clusters_of(kept_rows: list[dict], removed: list[dict]) -> dict[Any, tuple[Any, int, bool]]:
    """The annotations that follow from the rows that stay and what the others name."""
    sizes = collections.Counter(row["duplicate_of"] for row in removed)
    found = {row["id"]: (row["id"], sizes[row["id"]] + 1, True) for row in kept_rows}
    for row in removed:
        named = row["duplicate_of"]
        found[row["id"]] = (named, sizes[named] + 1, False)
    return found


def annotations(rows: list[dict]) -> dict[Any, tuple[Any, int, bool]]:
    assert len({row["id"] for row in rows}) == len(rows)
    names = ("cluster_id", "cluster_size", "is_representative")
    return {row["id"]: tuple(row[name] for name in names) for row in rows}


IDS = {
    "int32": lambda i: i - 3,
    "uint64": lambda i: 2**64 - 1 - i,
    "string": lambda i: f"é{i}",
    "dictionary": lambda i: f"d{i}",
}


def id_type(kind: str) -> pa.DataType:
    strings = pa.dictionary(pa.int8(), pa.string())
    return strings if kind == "dictionary" else getattr(pa, kind)()


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("kind", IDS)
def test_after_three_steps_a_cluster_is_the_row_that_stays_with_all_that_lead_to_it(
    new_pipeline: NewPipeline, tmp_path: Path, kind: str, scratch: bool
) -> None:
    ids = [IDS[kind](i) for i in range(len(TEXTS))]
    whole = Block.from_pydict({"id": pa.array(ids, id_type(kind)), "text": TEXTS})
    with new_pipeline("two processes" if kind == "uint64" else "in memory") as pipeline:
        rows = pipeline | beam.Create([whole.slice(i, 1) for i in range(len(whole))])
        folder = str(tmp_path / "scratch") if scratch else None
        result = rows | Deduplicate(STEPS, scratch=folder, annotate=True)
        for name in ("kept", "removed", "annotated"):
            getattr(result, name) | name >> beam.Map(keep, str(tmp_path), name)
    found = {name: rows_in(kept(str(tmp_path), name)) for name in ("kept", "removed", "annotated")}
    assert {row["found_by"] for row in found["removed"]} == {"exact", "lexical", "semantic"}
    clusters = annotations(found["annotated"])
    assert clusters == clusters_of(found["kept"], found["removed"])
    assert {name: size for name, size, _ in clusters.values()} == {
        clusters[ids[0]][0]: 5,
        ids[5]: 1,
    }
    for block in kept(str(tmp_path), "annotated"):
        names = ["id", "text", "cluster_id", "cluster_size", "is_representative"]
        assert block.schema.names == names  # no vector that a step made
        plain = pa.string() if kind == "dictionary" else id_type(kind)
        assert block.schema.field("cluster_id").type == plain


def test_a_row_of_the_reference_represents_its_cluster_and_is_not_counted(
    new_pipeline: NewPipeline,
) -> None:
    """By hand: 1 and 2 are like row 1 of the reference, which is not row 1 of the corpus."""
    with new_pipeline() as pipeline:
        texts = {1: FOX + "s", 2: FOX, 3: "none like it", 4: "None like  it"}
        rows = pipeline | beam.Create([{"id": i, "text": text} for i, text in texts.items()])
        known = pipeline | "Known" >> beam.Create([{"id": 1, "text": FOX}, {"id": 3, "text": "x"}])
        steps = (DeduplicateExact(), DeduplicateLexical(0.8))
        found = rows | Deduplicate(steps, reference=known, annotate=True)
        named = found.annotated | beam.Map(
            lambda row: (*(row[name] for name in row if name != "text"),)
        )
        expected = [(1, 1, 2, False), (2, 1, 2, False), (3, 3, 2, True), (4, 3, 2, False)]
        assert_that(named, equal_to(expected))


def test_two_clusters_of_one_name_are_two_where_a_reference_has_that_id(
    new_pipeline: NewPipeline,
) -> None:
    """By hand: row 1 stays, and 2 is like it; 3 is like row 1 of the reference."""
    with new_pipeline() as pipeline:
        texts = {1: "one", 2: "One", 3: "other"}
        rows = pipeline | beam.Create([{"id": i, "text": text} for i, text in texts.items()])
        known = pipeline | "Known" >> beam.Create([{"id": 1, "text": "Other"}])
        found = rows | Deduplicate((DeduplicateExact(),), reference=known, annotate=True)
        named = found.annotated | beam.Map(
            lambda row: (*(row[name] for name in row if name != "text"),)
        )
        assert_that(named, equal_to([(1, 1, 2, True), (2, 1, 2, False), (3, 1, 1, False)]))


def test_rows_come_as_they_were_with_their_times_and_without_rejects(
    new_pipeline: NewPipeline,
) -> None:
    rows = [
        {"id": "a", "text": "same", "score": 7, "cluster_id": None},
        {"id": "b", "text": "Same", "score": None, "cluster_id": "mine"},
        {"id": "c", "text": None, "score": 1, "cluster_id": None},
    ]
    rename = {"cluster_id": "cluster", "score": "s"}
    with new_pipeline() as pipeline:
        timed = [TimestampedValue(row, 10 * i) for i, row in enumerate(rows)]
        deduplicate = Deduplicate((DeduplicateExact(),), annotate=True, rename=rename)
        found = pipeline | beam.Create(timed) | beam.Map(lambda row: row)
        found = found | deduplicate.with_exception_handling()

        def with_time(row: dict, time: Any = beam.DoFn.TimestampParam) -> tuple:
            return row, int(time)

        new = {"cluster": "a", "cluster_size": 2}
        expected = [
            ({**rows[0], **new, "is_representative": True}, 0),
            ({**rows[1], **new, "is_representative": False}, 10),
        ]
        assert_that(found.annotated | beam.Map(with_time), equal_to(expected))


@pytest.mark.parametrize("make", [beam.Create, lambda rows: beam.Create([rows_block(rows)])])
def test_a_column_that_is_there_already_is_refused_by_name(
    new_pipeline: NewPipeline, make: Callable[[list[dict]], beam.PTransform]
) -> None:
    message = "Deduplicate: a column 'cluster_size' is there already; name the added one by rename"
    rows = make([{"id": 1, "text": "a", "cluster_size": 3}])
    with pytest.raises(Exception, match=message), new_pipeline() as pipeline:
        _ = pipeline | rows | Deduplicate((DeduplicateExact(),), annotate=True)


def rows_block(rows: list[dict]) -> Block:
    return Block(pa.RecordBatch.from_pylist(rows))


def test_the_column_may_be_there_where_nothing_is_annotated(new_pipeline: NewPipeline) -> None:
    rows = [{"id": 1, "text": "a", "cluster_size": 3}]
    with new_pipeline() as pipeline:
        found = pipeline | beam.Create(rows) | Deduplicate((DeduplicateExact(),))
        assert found.annotated is None
        assert_that(found.kept, equal_to(rows))


def test_vectors_that_rows_came_with_stay(new_pipeline: NewPipeline) -> None:
    vectors = vectors_to_arrow(WordEncoder().encode(["a b", "a b c", "x y"]))
    block = Block.from_pydict({"id": [1, 2, 3], "embedding": vectors})
    with new_pipeline() as pipeline:
        rows = pipeline | beam.Create([block])
        found = rows | Deduplicate((DeduplicateSemantic(0.7),), annotate=True)

        def expect(blocks: list[Block]) -> None:
            rows = sorted(rows_in(blocks), key=lambda row: row["id"])
            assert [row["embedding"] for row in rows] == vectors.to_pylist()

        assert_that(found.annotated, expect)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(["a", "A", "b", "c ", " c", ""]), max_size=12))
def test_annotations_follow_from_what_is_kept_and_removed(texts: list[str]) -> None:
    frame = pl.DataFrame({"id": range(len(texts)), "text": pl.Series(texts, dtype=pl.String)})
    found = frame | Deduplicate((DeduplicateExact(keep="longest"),), annotate=True)
    expected = clusters_of(found.kept.to_dicts(), found.removed.to_dicts())
    assert annotations(found.annotated.to_dicts()) == expected
    assert found.annotated.columns[2:] == ["cluster_id", "cluster_size", "is_representative"]


def test_only_who_asks_pays_for_it() -> None:
    sizes = {}
    for annotate in (False, True):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        rows = pipeline | beam.Create([{"id": 1, "text": "a"}])
        _ = rows | Deduplicate((DeduplicateExact(), DeduplicateLexical()), annotate=annotate)
        sizes[annotate] = count(pipeline)
    assert sizes[True].group_by_keys == sizes[False].group_by_keys + 1


def test_a_stream_is_refused_as_by_every_deduplication_of_a_corpus() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    stream = pipeline | beam.Create([{"id": 1, "text": "a"}])
    stream.is_bounded = False
    message = "Deduplicate: a corpus is deduplicated as a whole; for a stream use Deduplicate"
    with pytest.raises(InputError, match=message):
        _ = stream | Deduplicate((DeduplicateExact(),), annotate=True)
