"""Deduplicate in several steps: references, other thresholds, a requested recall, the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import (
    Block,
    Columns,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    DeduplicateStream,
    Deduplication,
    InputError,
    SemanticOptions,
    TextEncoder,
)
from beam_gpte.core.metadata import METADATA_KEY
from beam_gpte.core.vectors.similarity import cosines, vectors_to_arrow
from beam_gpte.dedup.report import report_rows, report_text
from tests.examples import WordEncoder, keep, kept

NewPipeline = Callable[..., beam.Pipeline]


def check(result: Deduplication, expect: Callable[[dict[str, list[dict]]], None]) -> None:
    """Let `expect` check the rows of each collection of the result, by its name."""
    names = ("kept", "removed", "pairs", "rejects", "report")
    parts = [getattr(result, name) | name >> beam.FlatMap(_named, name) for name in names]

    def gathered(found: list[tuple[str, dict]]) -> None:
        expect({name: [row for other, row in found if other == name] for name in names})

    assert_that(tuple(parts) | "All" >> beam.Flatten(), gathered)


def _named(element: Any, name: str) -> list[tuple[str, dict]]:
    return [
        (name, row)
        for row in (element.batch.to_pylist() if isinstance(element, Block) else [element])
    ]


def directions(*degrees: float) -> pa.FixedSizeListArray:
    angles = np.radians(degrees)
    return vectors_to_arrow(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def blocks(pipeline: beam.Pipeline, label: str = "Rows", **columns: Any) -> beam.PCollection:
    """One block per row, so that nothing depends on rows that come together."""
    whole = Block.from_pydict(columns)
    return pipeline | label >> beam.Create(
        [whole.slice(i, 1) for i in range(len(whole))]
    ).with_output_types(Block)


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_after_three_steps_every_removed_row_names_one_that_is_kept(
    new_pipeline: NewPipeline, mode: str
) -> None:
    long = "the quick brown fox jumps over the lazy dog and runs away into the deep dark wood"
    texts = ["a canine is overleapt", long, long + "s", long.upper() + "S", "something else"]
    with new_pipeline(mode) as pipeline:
        corpus = blocks(
            pipeline, id=[1, 2, 3, 4, 5], text=texts, embedding=directions(0, 10, 20, 21, 90)
        )
        steps = (DeduplicateExact(), DeduplicateLexical(0.8), DeduplicateSemantic(0.95))

        def expect(found: dict) -> None:
            assert sorted(row["id"] for row in found["kept"]) == [1, 5]
            removed = {
                row["id"]: (row["duplicate_of"], row["found_by"]) for row in found["removed"]
            }
            # 4 equals 3, which is worded like 2, which means the same as 1
            assert removed == {4: (1, "exact"), 3: (1, "lexical"), 2: (1, "semantic")}
            scores = {row["id"]: row["score"] for row in found["removed"]}
            assert scores[4] is None
            assert scores[3] is None
            assert scores[2] == pytest.approx(np.cos(np.radians(10)), abs=1e-6)
            assert {row["found_by"]: row["first_id"] for row in found["pairs"]} == {
                "exact": 3,
                "lexical": 2,
                "semantic": 1,
            }
            assert sorted((report["step"], report["rows"]) for report in found["report"]) == [
                ("exact", 5),
                ("lexical", 4),
                ("semantic", 3),
            ]

        check(corpus | Deduplicate(steps), expect)


def test_a_row_that_a_later_step_rejects_is_rejected_before_the_first(
    new_pipeline: NewPipeline,
) -> None:
    vectors = pa.array([None, [1.0, 0.0]], pa.list_(pa.float32(), 2))
    with new_pipeline() as pipeline:
        corpus = blocks(pipeline, id=["a", "b"], text=["same", "same"], embedding=vectors)
        result = (
            corpus
            | Deduplicate((DeduplicateExact(), DeduplicateSemantic())).with_exception_handling()
        )

        def expect(found: dict) -> None:
            assert [row["id"] for row in found["kept"]] == ["b"]
            assert not found["removed"]
            (reject,) = found["rejects"]
            assert (reject["reject_step"], reject["reject_reason"]) == (
                "DeduplicateSemantic",
                "embedding is null",
            )

        check(result, expect)


def test_texts_are_embedded_on_the_way_if_a_model_is_given(
    new_pipeline: NewPipeline, minilm: str
) -> None:
    texts = [
        "How do I open a file?",
        "how do I open a  file?",
        "How can I open a file?",
        "Stock prices fell.",
        " ",
    ]
    with new_pipeline() as pipeline:
        corpus = blocks(pipeline, id=[1, 2, 3, 4, 5], text=texts)
        steps = (DeduplicateExact(), DeduplicateSemantic(0.9, model=minilm))

        def expect(found: dict) -> None:
            assert sorted(row["id"] for row in found["kept"]) == [1, 4]
            assert {(row["id"], row["duplicate_of"]) for row in found["removed"]} == {
                (2, 1),
                (3, 1),
            }
            assert [row["reject_reason"] for row in found["rejects"]] == ["text is blank"]
            assert all(len(row["embedding"]) == 384 for row in found["kept"])

        check(corpus | Deduplicate(steps).with_exception_handling(), expect)


@pytest.mark.parametrize("scratch", [False, True])
def test_removed_rows_have_the_vectors_they_came_with_and_no_others(
    new_pipeline: NewPipeline, tmp_path: Path, scratch: bool
) -> None:
    texts = ["a dog ran", "a dog ran", "a dog ran over"]
    vectors = pa.array(WordEncoder().encode(texts).tolist(), pa.list_(pa.float32(), 8))
    with_vectors = Block.from_pydict({"id": [0, 1, 2], "text": texts, "embedding": vectors})
    others = ["stocks fell on Monday", "stocks fell on Monday", "on Monday stocks fell"]
    without = Block.from_pydict({"id": [4, 5, 6], "text": others})
    steps = DeduplicateExact(), DeduplicateSemantic(0.8, WordEncoder())
    with new_pipeline() as pipeline:
        rows = pipeline | beam.Create([with_vectors, without])
        result = rows | Deduplicate(steps, scratch=str(tmp_path / "s") if scratch else None)
        result.kept | "Kept" >> beam.Map(keep, str(tmp_path), "kept")
        result.removed | "Removed" >> beam.Map(keep, str(tmp_path), "removed")
    removed = [row for part in kept(str(tmp_path), "removed") for row in part.batch.to_pylist()]
    found = {row["id"]: (row["found_by"], "embedding" in row) for row in removed}
    assert found == {
        1: ("exact", True),
        2: ("semantic", True),
        5: ("exact", False),
        6: ("semantic", False),
    }
    for part in kept(str(tmp_path), "kept"):
        metadata = part.schema.field("embedding").metadata or {}
        assert set(metadata) <= {METADATA_KEY}


def test_every_step_compares_within_a_scope_alone(new_pipeline: NewPipeline) -> None:
    """By hand: 2 equals 1, 4 is worded like 1, 6 means the same; 3, 5, 7 have other languages."""
    texts = ["the quick brown fox jumps", "The quick brown  fox jumps", "the quick brown fox jumps"]
    texts += [
        "the quick brown fox jumps!",
        "the quick brown fox jumps!",
        "a fast red animal leaps",
        "a fast red animal leaps",
    ]
    languages = ["en", "en", None, "en", "de", "en", "nl"]
    with new_pipeline() as pipeline:
        corpus = blocks(
            pipeline,
            id=[1, 2, 3, 4, 5, 6, 7],
            text=texts,
            language=languages,
            embedding=directions(0, 0, 0, 40, 40, 5, 5),
        )
        scope = {"scope": "language"}
        steps = (
            DeduplicateExact(**scope),
            DeduplicateLexical(0.8, **scope),
            DeduplicateSemantic(0.95, **scope),
        )

        def expect(found: dict) -> None:
            removed = {
                row["id"]: (row["duplicate_of"], row["found_by"]) for row in found["removed"]
            }
            assert removed == {2: (1, "exact"), 4: (1, "lexical"), 6: (1, "semantic")}
            assert sorted(row["id"] for row in found["kept"]) == [1, 3, 5, 7]

        check(corpus | Deduplicate(steps), expect)


@pytest.mark.parametrize("keep", ["first", "longest"])
def test_rows_in_the_reference_are_removed_and_the_reference_itself_is_in_no_result(
    new_pipeline: NewPipeline, keep: str
) -> None:
    with new_pipeline() as pipeline:
        corpus = blocks(
            pipeline,
            id=[1, 2, 3, 9],
            text=["long text", "other", "Known", "x"],
            embedding=directions(0, 50, 100, 150),
        )
        reference = blocks(
            pipeline,
            "Reference",
            id=[7, 8, 9],
            text=["k", "known", "y"],
            embedding=directions(2, 3, 200),
        )
        steps = (DeduplicateExact(keep=keep), DeduplicateSemantic(0.95, keep=keep))

        def expect(found: dict) -> None:
            # 9 is another row there
            assert sorted(row["id"] for row in found["kept"]) == [2, 9]
            # 7 and 8 are near to one another: both stay what they are
            assert {
                (row["id"], row["duplicate_of"], row["found_by"]) for row in found["removed"]
            } == {
                (3, 8, "exact"),
                (1, 7, "semantic"),
            }
            assert not found["rejects"]
            assert all(report["reference_rows"] == 3 for report in found["report"])

        check(corpus | Deduplicate(steps, reference=reference).with_exception_handling(), expect)


def test_a_lexical_reference_is_not_removed_either(new_pipeline: NewPipeline) -> None:
    text = "the quick brown fox jumps over the lazy dog and runs away into the deep dark wood"
    with new_pipeline() as pipeline:
        reference = blocks(pipeline, "Reference", id=["r", "s"], text=[text, text + "s"])
        result = blocks(pipeline, id=["a", "b"], text=[text + "!", "none"]) | DeduplicateLexical(
            0.8, reference=reference
        )

        def expect(found: dict) -> None:
            assert [row["id"] for row in found["kept"]] == ["b"]
            assert [(row["id"], row["duplicate_of"]) for row in found["removed"]] == [("a", "r")]
            assert {(row["first_id"], row["second_id"]) for row in found["pairs"]} == {
                ("r", "a"),
                ("s", "a"),
            }

        check(result, expect)


@pytest.fixture(scope="module")
def titles(data: Path) -> list[str]:
    return (
        pq.read_table(data / "debian_descriptions_50k.parquet").column("title").to_pylist()[:1500]
    )


@pytest.fixture(scope="module")
def vectors(titles: list[str], encoder: TextEncoder) -> np.ndarray:
    return encoder.encode(titles)


@pytest.fixture(scope="module")
def some_titles(titles: list[str]) -> list[str]:
    return titles[:600]


@pytest.fixture(scope="module")
def some_vectors(vectors: np.ndarray) -> np.ndarray:
    return vectors[:600]


def corpus_of(pipeline: beam.Pipeline, titles: list[str], vectors: np.ndarray) -> beam.PCollection:
    whole = Block.from_pydict(
        {"id": list(range(len(titles))), "text": titles, "embedding": vectors_to_arrow(vectors)}
    )
    parts = [whole.slice(start, 100) for start in range(0, len(whole), 100)]
    return pipeline | beam.Create(parts).with_output_types(Block)


def near_pairs(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    a, b = np.nonzero(np.triu(units @ units.T >= threshold - 1e-4, 1))
    near = cosines(units[a], units[b]) >= np.float32(threshold)
    return set(zip(a[near].tolist(), b[near].tolist(), strict=True))


CHAIN = (DeduplicateExact(), DeduplicateLexical(0.6), DeduplicateSemantic(0.7))
IDS = {
    "uint64": lambda i: 2**64 - 1 - i,
    "int64": lambda i: i - 2**63,
    "strings": lambda i: f"0s{i}é",
}
RESULTS = {
    "kept": ("id",),
    "removed": ("id", "duplicate_of", "score", "found_by"),
    "pairs": ("first_id", "second_id", "score", "found_by"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        *((CHAIN, kind) for kind in IDS),
        ((DeduplicateExact(),), "uint64"),
        ((DeduplicateLexical(0.5, keep="longest"),), "int64"),
        ((DeduplicateSemantic(0.7, grouping="components", keep="longest"),), "int64"),
        ((DeduplicateSemantic(0.7, grouping="semdedup"),), "strings"),
    ],
)
def test_ids_of_a_reference_may_be_those_of_the_corpus(
    new_pipeline: NewPipeline,
    tmp_path: Path,
    titles: list[str],
    vectors: np.ndarray,
    steps: tuple,
    kind: str,
) -> None:
    """The result is that of a reference with other ids: no row is taken for another one."""
    make_id, n = IDS[kind], 250

    def part(pipeline: beam.Pipeline, label: str, rows: slice, first: int) -> beam.PCollection:
        ids = [make_id(i) for i in range(first, first + n)]
        whole = Block.from_pydict(
            {
                "id": pa.array(ids, pa.string() if kind == "strings" else getattr(pa, kind)()),
                "text": titles[rows],
                "embedding": vectors_to_arrow(vectors[rows]),
            }
        )
        slices = [whole.slice(at, 25) for at in range(0, n, 25)]
        return pipeline | label >> beam.Create(slices).with_output_types(Block)

    def run(first: int, scratch: str | None) -> dict[str, list]:
        with new_pipeline() as pipeline:
            reference = part(pipeline, "Reference", slice(n - 20, 2 * n - 20), first)
            rows = part(pipeline, "Own", slice(n), 0)
            result = rows | Deduplicate(steps, reference, scratch).with_exception_handling()
            for name in (*RESULTS, "report", "rejects"):
                rows = getattr(result, name) | name >> beam.FlatMap(_named, name)
                rows | f"Keep {name}" >> beam.Map(keep, str(tmp_path), f"{name} {first}")
        return {
            name: [row for _, row in kept(str(tmp_path), f"{name} {first}")]
            for name in (*RESULTS, "report", "rejects")
        }

    same, apart = run(0, str(tmp_path / "scratch")), run(n, None)
    numbers = {make_id(i): i for i in range(2 * n)}
    of_reference = [numbers[row["duplicate_of"]] >= n for row in apart["removed"]]
    assert any(of_reference)
    assert steps is not CHAIN or not all(of_reference)
    assert not same["rejects"]
    names = {make_id(i): make_id(i % n) for i in range(2 * n)}
    for name, columns in RESULTS.items():
        expected = [[names.get(row[c], row[c]) for c in columns] for row in apart[name]]
        found = [[row[c] for c in columns] for row in same[name]]
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
    counts = ("rows", "reference_rows", "kept", "removed", "pairs", "scores", "group_sizes")
    for one, other in zip(same["report"], apart["report"], strict=True):
        assert [one[c] for c in counts] == [other[c] for c in counts]
        shown = (
            pair["second_text"] == titles[numbers[pair["second_id"]]] for pair in one["borderline"]
        )
        assert all(shown)


def test_a_requested_recall_is_reached_and_its_interval_contains_the_true_one(
    new_pipeline: NewPipeline,
    monkeypatch: pytest.MonkeyPatch,
    titles: list[str],
    vectors: np.ndarray,
) -> None:
    monkeypatch.setattr("beam_gpte.core.dedup.space.CELL_ROWS", 30)
    monkeypatch.setattr("beam_gpte.dedup.search_plan.AUDITED", 400)
    wanted = near_pairs(vectors, 0.7)
    with new_pipeline() as pipeline:

        def expect(found: dict) -> None:
            pairs = {(row["first_id"], row["second_id"]) for row in found["pairs"]}
            recall = found["report"][0]["recall"]
            assert pairs <= wanted
            assert 0.9 <= len(pairs) / len(wanted) < 1
            assert recall["low"] <= len(pairs) / len(wanted) <= recall["high"]
            assert recall["low"] < recall["estimate"] < 1

        check(
            corpus_of(pipeline, titles, vectors) | DeduplicateSemantic(0.7, mode="recall=0.9"),
            expect,
        )


def test_counts_at_other_thresholds_are_those_of_runs_at_them(
    new_pipeline: NewPipeline, some_titles: list[str], some_vectors: np.ndarray
) -> None:
    with new_pipeline() as pipeline:
        corpus = corpus_of(pipeline, some_titles, some_vectors)
        larger = SemanticOptions(report_thresholds=(0.8, 0.9))
        low = corpus | "Low" >> DeduplicateSemantic(0.7, options=larger)
        none = SemanticOptions(report_thresholds=())
        runs = [corpus | str(t) >> DeduplicateSemantic(t, options=none) for t in (0.7, 0.8, 0.9)]

        def expect(found: list[dict]) -> None:
            alone = {
                report["threshold"]: report["removed"]
                for report in found
                if "by_threshold" not in report
            }
            (counted,) = (report["by_threshold"] for report in found if "by_threshold" in report)
            assert {entry["threshold"]: entry["removed"] for entry in counted} == alone
            assert alone[0.7] > alone[0.8] > alone[0.9] > 0

        reports = [low.report, *(run.report for run in runs)]
        assert_that(tuple(reports) | beam.Flatten(), expect)


def test_a_saved_index_changes_nothing_but_the_fitting(
    new_pipeline: NewPipeline, tmp_path: Path, some_titles: list[str], some_vectors: np.ndarray
) -> None:
    file = tmp_path / "index"
    with new_pipeline() as pipeline:
        result = corpus_of(pipeline, some_titles, some_vectors) | DeduplicateSemantic(0.9)
        assert result.saved_index is not None
        result.saved_index | beam.Map(file.write_bytes)
    removed = len({second for _, second in near_pairs(some_vectors, 0.9)})
    with new_pipeline() as pipeline:
        options = SemanticOptions(saved_index=file.read_bytes())
        step = DeduplicateSemantic(0.9, grouping="semdedup", options=options)
        result = corpus_of(pipeline, some_titles, some_vectors) | step

        def expect(found: dict) -> None:
            assert found["report"][0]["removed"] == removed

        check(result, expect)


def test_the_report_has_texts_and_can_be_read(
    new_pipeline: NewPipeline, some_titles: list[str], some_vectors: np.ndarray
) -> None:
    with new_pipeline() as pipeline:

        def expect(found: dict) -> None:
            (report,) = found["report"]
            text_of = dict(enumerate(some_titles))
            assert report["recall"]["estimate"] == 1.0
            assert report["recall"]["pairs"] > 0
            assert report["comparisons"] > 0
            assert report["candidates"] >= report["pairs"] > 0
            assert report["rows"] == report["kept"] + report["removed"] == len(some_titles)
            for pair in report["borderline"]:
                assert pair["first_text"] == text_of[pair["first_id"]][:200]
                assert pair["second_text"] == text_of[pair["second_id"]][:200]
            largest = report["largest_groups"][0]
            assert largest["text"] == text_of[largest["id"]][:200]
            assert largest["removed"] >= report["largest_groups"][1]["removed"]
            shown = report_text(report)
            assert f"{len(some_titles):,} rows" in shown
            assert text_of[largest["id"]][:60] in shown
            figures = {row["figure"]: row["value"] for row in report_rows(report)}
            assert figures["removed"] == report["removed"]
            assert figures["recall estimate"] == 1.0

        check(corpus_of(pipeline, some_titles, some_vectors) | DeduplicateSemantic(0.8), expect)


def test_vectors_of_two_models_are_not_compared(new_pipeline: NewPipeline) -> None:
    from beam_gpte import VectorMetadata

    parts = []
    for i, fingerprint in enumerate(("aaaa", "bbbb")):
        metadata = VectorMetadata("m", fingerprint, "mean", "", 2, normalized=True)
        array = directions(i)
        parts.append(
            Block.from_pydict({"id": [i]}).with_column(
                metadata.field("embedding").with_type(array.type), array
            )
        )
    with pytest.raises(Exception, match="vectors of two models"), new_pipeline() as pipeline:
        pipeline | beam.Create(parts).with_output_types(Block) | DeduplicateSemantic()


def test_steps_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="steps with id columns 'a' and 'b'; use one"):
        Deduplicate(
            (DeduplicateExact(columns=Columns("a")), DeduplicateLexical(columns=Columns("b")))
        )
    with pytest.raises(InputError, match="no steps"):
        Deduplicate(())


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (DeduplicateExact(), "DeduplicateExact"),
        (DeduplicateLexical(), "DeduplicateLexical"),
        (DeduplicateSemantic(), "DeduplicateSemantic"),
        (Deduplicate((DeduplicateExact(), DeduplicateLexical())), "Deduplicate"),
        (DeduplicateStream(), "DeduplicateStream"),
    ],
)
def test_errors_name_the_transform_that_the_user_wrote(
    new_pipeline: NewPipeline, transform: beam.PTransform, named: str
) -> None:
    message = f"{named}: no column 'id' among text, embedding"
    with pytest.raises(Exception, match=message) as caught, new_pipeline() as pipeline:
        blocks(pipeline, text=["a"], embedding=directions(0)) | transform
    assert "RejectDuplicateIds:" not in str(caught.value)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("step", [DeduplicateExact(), DeduplicateLexical(), DeduplicateSemantic()])
def test_a_taken_id_is_rejected_by_the_transform_that_the_user_wrote(
    new_pipeline: NewPipeline, step: beam.PTransform
) -> None:
    with new_pipeline() as pipeline:
        rows = blocks(pipeline, id=[1, 1], text=["a", "b"], embedding=directions(0, 90))

        def expect(found: dict) -> None:
            (reject,) = found["rejects"]
            assert reject["reject_step"] == type(step).__name__
            assert reject["reject_reason"] == "duplicate id"

        check(rows | step.with_exception_handling(), expect)


def test_a_missing_text_column_is_named_with_its_transform(new_pipeline: NewPipeline) -> None:
    with (
        pytest.raises(Exception, match="DeduplicateLexical: no column 'text' among id"),
        new_pipeline() as pipeline,
    ):
        blocks(pipeline, id=[1]) | Deduplicate((DeduplicateLexical(),))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kinds", [("strings", "int64"), ("int64", "strings")])
@pytest.mark.parametrize("text", ["the same text", "nearly the same text as that"])
def test_ids_of_two_kinds_are_refused_where_they_meet(
    new_pipeline: NewPipeline, kinds: tuple[str, str], text: str
) -> None:
    """A row is named by an id in a column of the type of ids, so there is one kind."""
    pipeline = new_pipeline()
    parts = []
    for label, kind, first in zip(("Own", "Reference"), kinds, (text, text[-20:]), strict=True):
        rows = {"id": [IDS[kind](3), IDS[kind](4)], "text": [first, f"a text of {label} alone"]}
        blocks = beam.Create([Block.from_pydict(rows)]).with_output_types(Block)
        parts.append(pipeline | label >> blocks)
    _ = parts[0] | Deduplicate((DeduplicateExact(), DeduplicateLexical(0.5)), parts[1])
    with pytest.raises(Exception, match=r"Deduplicate\w*: one corpus has strings as ids and the"):
        pipeline.run()
