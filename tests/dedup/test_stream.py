"""Deduplicate streams: the first of near rows is new for a horizon, and all rows come back."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, Columns, DeduplicateStream, InputError, StreamCells
from beam_gpte.core.canaries import sketch
from beam_gpte.core.columns import TIMESTAMP
from beam_gpte.dedup.stream import cells_of
from beam_gpte.dedup.stream_state import (
    STORED_PIECES,
    DecideRows,
    StreamSettings,
    decide,
    describe,
)
from tests.sinks.test_write_parquet import MINILM

SECOND = 1_000_000
# direction in steps of 20 degrees, second of event time
ROW = st.tuples(st.integers(0, 17), st.integers(0, 9))


def block(ids: list, degrees: list[float]) -> Block:
    """Rows with vectors of two dimensions, of all lengths."""
    vectors = [
        [(2 + i) * math.cos(math.radians(d)), (2 + i) * math.sin(math.radians(d))]
        for i, d in enumerate(degrees)
    ]
    return Block.from_pydict({"id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32(), 2))})


def decisions(block: Block) -> list[tuple[Any, Any]]:
    return [(row["id"], row["duplicate_of"]) for row in block.batch.to_pylist()]


def sequential(rows: list, threshold: float, horizon: int) -> list[tuple[Any, Any]]:
    """The rule, row by row: rows are (id, unit vector, second)."""
    new, decided = [], []
    for id_, vector, second in rows:
        products = [
            (np.float32(float(u[0]) * float(vector[0]) + float(u[1]) * float(vector[1])), s, i)
            for i, u, s in new
        ]
        near = [
            (-min(p, 1), s, i)
            for p, s, i in products
            if p >= threshold and abs(s - second) < horizon
        ]
        score, _, match = min(near, default=(None, None, None))
        decided.append((match, None if score is None else -score))
        if match is None:
            new.append((id_, vector, second))
    return decided


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 10),
    st.sampled_from([0.7, 0.9, 0.99]),
)
def test_decisions_are_those_of_the_rule_row_by_row_however_rows_are_cut_into_blocks(
    rows: list[tuple[int, int]], cut: int, horizon: int, threshold: float
) -> None:
    seen, decided, unit = [], [], []
    for start in range(0, len(rows), cut):
        part = rows[start : start + cut]
        arrived = Block.concat(
            describe(block([start + i], [20 * step]), Columns(), second * SECOND)
            for i, (step, second) in enumerate(part)
        )
        new, duplicate_of, scores = decide(arrived, seen, threshold, horizon * SECOND)
        decided += zip(duplicate_of.to_pylist(), scores.to_pylist(), strict=True)
        unit += [np.array(v.as_py(), np.float32) for v in arrived.column("__gpte_vector")]
        seen.append(arrived.filter(pa.array(new)))
    assert decided == sequential(
        [(i, unit[i], second) for i, (_, second) in enumerate(rows)], threshold, horizon
    )


def streamed(events: list, transform: beam.PTransform) -> Callable[[list], None]:
    """Run a stream of (ids, degrees, second) and watermarks."""
    source = test_stream.TestStream(coder=beam.coders.registry.get_coder(Block))
    for event in events:
        if isinstance(event, tuple):
            ids, degrees, second = event
            source.add_elements([TimestampedValue(block(ids, degrees), second)])
        else:
            source.advance_watermark_to(event)
    source.advance_watermark_to_infinity()
    # the runner that runs TestStream
    p = beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(["--streaming"]))

    def check(expected: list) -> None:
        assert_that(p | source | transform | beam.FlatMap(decisions), equal_to(expected))
        p.run().wait_until_finish()

    return check


def test_a_row_is_new_again_once_the_horizon_has_passed() -> None:
    """Horizon of 10 seconds: a of second 0 counts before second 10.

    Its duplicates do not prolong it.
    """
    events = [
        (["a"], [0], 0), 5, (["b"], [5], 5), (["b9"], [0], 9), 10,
        (["c"], [0], 10), (["d"], [5], 12), 19,
        (["e"], [90], 19), (["f"], [5], 19.5), 25, (["g"], [0], 25),
    ]  # fmt: skip
    check = streamed(events, DeduplicateStream(threshold=0.95, horizon=10))
    expected = [
        ("a", None),
        ("b", "a"),
        ("b9", "a"),
        ("c", None),
        ("d", "c"),
        ("e", None),
        ("f", "c"),
        ("g", None),
    ]
    check(expected)


def test_without_a_watermark_the_times_alone_decide() -> None:
    """Rows out of order: 9 and 0 seconds are within ten of each other, 10 and 0 are not."""
    events = [(["late"], [0], 9), (["early"], [0], 0), (["apart"], [0], 19), (["both"], [0], 10)]
    check = streamed(events, DeduplicateStream(threshold=0.95, horizon=10))
    # both is within ten seconds of late and apart, with the same score; it names the earlier one
    check([("late", None), ("early", "late"), ("apart", None), ("both", "late")])


def test_a_late_row_is_new_if_what_it_repeats_is_forgotten() -> None:
    events = [(["a"], [0], 0), 9, (["b"], [0], 3), 11, (["c"], [0], 3)]
    check = streamed(events, DeduplicateStream(threshold=0.95, horizon=10))
    check([("a", None), ("b", "a"), ("c", None)])


class Bag(list):
    """A bag of state that counts the rows written to it."""

    written = 0

    def read(self) -> Iterator[Block]:
        return iter(self)

    def add(self, piece: Block) -> None:
        self.written += len(piece)
        self.append(piece)


class Timer:
    due = None

    def set(self, timestamp: Any) -> None:
        self.due = timestamp


def test_state_is_packed_forgotten_and_seldom_rewritten() -> None:
    """A new row each second, 400 of them, horizon 100 seconds: at most 125 are held."""
    settings = StreamSettings("DeduplicateStream", Columns(), 1.0, 100 * SECOND, False)
    fn, bag, timer = DecideRows(settings), Bag(), Timer()
    held = 0
    for second in range(400):
        if timer.due is not None and timer.due <= second:
            due, timer.due = timer.due, None
            fn.forget(due, bag, timer)
        element = (0, block([second], [second * 0.9]))
        (out,) = fn.process(element, beam.utils.timestamp.Timestamp(second), bag, timer)
        assert decisions(out) == [(second, None)]
        assert timer.due is not None
        held = max(held, sum(map(len, bag)))
        assert len(bag) <= STORED_PIECES + 1
    assert 100 <= held <= 126
    assert bag.written < 8 * 400  # itself once, 4 sweeps a horizon, and packing
    for _ in range(10):
        if timer.due is not None:
            due, timer.due = timer.due, None
            fn.forget(due, bag, timer)
    assert bag == []
    assert timer.due is None


@pytest.mark.parametrize("time", [MIN_TIMESTAMP, MAX_TIMESTAMP])
def test_bounds_of_beams_time_are_times_like_others(time: Timestamp) -> None:
    rows = describe(block([1, 2], [0, 0]), Columns(), time.micros)
    assert decide(rows, [], 0.9, SECOND)[1].to_pylist() == [None, 1]
    now = describe(block([3], [0]), Columns(), 1_700_000_000 * SECOND)
    assert decide(now, [rows], 0.9, SECOND)[1].to_pylist() == [None]


@pytest.fixture(scope="module")
def groups() -> np.ndarray:
    """100 vectors, and three near ones (cosines around 0.93) of each, mixed."""
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((100, 32))
    vectors = (
        (centers[:, None] + 0.27 * rng.standard_normal((100, 4, 32)))
        .reshape(-1, 32)
        .astype(np.float32)
    )
    return vectors[rng.permutation(400)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("mode", "cells", "probes", "floor"),
    [
        ("in memory", 1, 0, 1.0),
        ("in memory", 16, 0, 0.4),
        ("in memory", 16, 5, 0.9),
        ("two processes", 16, 5, 0.9),
    ],
)
def test_no_group_is_lost_and_recall_grows_with_probes(
    new_pipeline: Callable[..., beam.Pipeline],
    groups: np.ndarray,
    mode: str,
    cells: int,
    probes: int,
    floor: float,
) -> None:
    kind = pa.list_(pa.float32(), 32)
    columns = {
        "id": pa.array(range(400), pa.int32()),
        "embedding": pa.FixedSizeListArray.from_arrays(groups.ravel(), 32),
    }
    whole = Block.from_pydict(columns, pa.schema([("id", pa.int32()), ("embedding", kind)]))
    unit = groups / np.linalg.norm(groups, axis=1, keepdims=True)
    near = np.triu(unit @ unit.T >= 0.85, 1)
    exact = decide(describe(whole, Columns(), 0), [], 0.85, 100 * SECOND)[0]
    assert 100 <= exact.sum() < 150

    def check(found: list[Block]) -> None:
        decided = {id_: match for part in found for id_, match in decisions(part)}
        assert sorted(decided) == list(range(400))
        assert all(part.schema.field("duplicate_of").type == pa.int32() for part in found)
        new = [id_ for id_, match in decided.items() if match is None]
        for id_, match in decided.items():
            if match is None:
                continue
            assert unit[id_] @ unit[match] >= 0.85 - 1e-6
            if cells == 1:
                assert decided[match] is None
            for _ in range(400):  # leads to a new row
                match = decided[match] if decided[match] is not None else match
            assert decided[match] is None
        if cells == 1:
            assert not near[np.ix_(sorted(new), sorted(new))].any()
        # another order, other leaders
        assert (400 - len(new)) / (400 - exact.sum()) >= floor - 0.01

    with new_pipeline(mode) as p:
        times = [
            TimestampedValue(whole.slice(start, 100), start // 100) for start in range(0, 400, 100)
        ]
        blocks = p | beam.Create(times, reshuffle=False).with_output_types(Block)
        out = blocks | DeduplicateStream(0.85, 100, cells=StreamCells(cells, probes))
        assert out.element_type is Block
        if mode == "in memory":
            assert_that(out, check)
        else:  # a check in another process would drag this module along
            total = out | beam.FlatMap(
                lambda part: part.column("duplicate_of").is_null().to_pylist()
            )
            new = total | beam.Map(int) | beam.CombineGlobally(sum)
            assert_that(new | beam.Map(lambda n: 100 <= n <= 180), equal_to([True]))
    if mode == "in memory" and cells == 1:
        counters = {c.key.metric.name: c.committed for c in p.result.metrics().query()["counters"]}
        assert counters["new"] == counters["forgotten"] == 400 - counters["duplicates"]


def test_more_probes_are_the_nearest_cells_and_as_many_as_cells_are_all_of_them() -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    cells = cells_of(vectors, 8, 7, 0)
    assert (np.sort(cells, axis=1) == np.arange(8)).all()
    assert (cells[:, :3] == cells_of(vectors, 8, 2, 0)).all()
    assert (cells_of(-vectors, 8, 0, 0)[:, 0] == 7 - cells[:, 0]).all()


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_rows_come_back_as_they_were_with_the_two_columns_and_bad_ones_are_collected(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    good = [
        {"id": 1, "note": "first", "embedding": [3.0, 4.0]},
        {"id": 2, "note": "same", "embedding": [0.6, 0.8]},
        {"id": 3, "note": None, "embedding": [-1.0, 0.0]},
    ]
    bad = [
        {"id": 4, "embedding": None},
        {"id": 5, "embedding": [0.0, 0.0]},
        {"id": 6, "embedding": [math.nan, 1.0]},
        {"id": None, "embedding": [1.0, 0.0]},
        {"id": 8, "embedding": [1.0, 0.0, 0.0]},
    ]
    reasons = [
        (4, "embedding is null"),
        (5, "embedding is zero and has no direction"),
        (6, "embedding has a value that is not finite"),
        (None, "id is null"),
        (8, "embedding is of another dimension: the rows before have 2 dimensions"),
    ]
    with new_pipeline(mode) as p:
        # one bundle: the length of the first row decides
        rows = p | beam.Create([good + bad]) | beam.FlatMap(lambda rows: rows)
        decided, rejects = (
            rows | DeduplicateStream(threshold=0.99, horizon=60).with_exception_handling()
        )
        added = [
            {"duplicate_of": None, "score": None},
            {"duplicate_of": 1, "score": 1.0},
            {"duplicate_of": None, "score": None},
        ]
        rounded = decided | beam.Map(
            lambda row: row if row["score"] is None else {**row, "score": round(row["score"], 6)}
        )
        assert_that(
            rounded,
            equal_to([{**row, **new} for row, new in zip(good, added, strict=True)]),
            "Good",
        )
        why = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(why, equal_to(reasons), "Bad")


def test_a_bad_row_fails_the_job_by_name(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    message = (
        "DeduplicateStream: row with id 'x': embedding is zero and has no direction; "
        "fix the row, or collect such rows"
    )
    with pytest.raises(Exception, match=re.escape(message)), new_pipeline() as p:
        _ = p | beam.Create([{"id": "x", "embedding": [0.0, 0.0]}]) | DeduplicateStream()


def test_equal_vectors_match_at_a_threshold_of_one() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 384)).astype(np.float32)
    twice = np.concatenate([vectors, 3 * vectors])
    rows = Block.from_pydict(
        {"id": range(600), "embedding": pa.FixedSizeListArray.from_arrays(twice.ravel(), 384)}
    )
    _, duplicate_of, _ = decide(describe(rows, Columns(), 0), [], 1.0, SECOND)
    assert duplicate_of.to_pylist() == [None] * 300 + list(range(300))


def test_ids_of_two_kinds_and_windows_are_refused(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with pytest.raises(
        InputError,
        match="column 'id' has strings in some blocks and integers in others; convert them",
    ):
        decide(
            describe(block(["1"], [0]), Columns(), 0),
            [describe(block([1], [0]), Columns(), 0)],
            0.9,
            9,
        )
    blocks = (
        new_pipeline()
        | beam.Create([block([1], [0])]).with_output_types(Block)
        | beam.WindowInto(FixedWindows(9))
    )
    with pytest.raises(
        InputError,
        match=r"windows would cut the horizon; put beam\.WindowInto\(GlobalWindows\(\)\)",
    ):
        _ = blocks | DeduplicateStream()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, "threshold is 0; use a cosine above 0"),
        ({"horizon": 0}, "horizon is 0; use seconds, above 0"),
        ({"horizon": math.inf}, "horizon is inf; use seconds"),
    ],
)
def test_wrong_arguments_raise_at_construction(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeduplicateStream(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 12}, "cells is 12; use a power of two"),
        ({"cells": 2}, "probes is 3; use 0 to 1, fewer than the cells"),
    ],
)
def test_wrong_cells_raise_at_construction(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamCells(**arguments)


def of_model(id_: str, fingerprint: str | None, canaries: str = "") -> Block:
    """A row with the vector (1, 0), of a model; None if it does not tell its model."""
    about = dataclasses.replace(MINILM, dim=2, fingerprint=fingerprint or "", canaries=canaries)
    field = about.field("embedding") if fingerprint else pa.field("embedding", about.field("").type)
    vector = pa.array([[1.0, 0.0]], field.type)
    return Block(pa.record_batch([[id_], vector], schema=pa.schema([("id", pa.string()), field])))


CANARIES = [sketch(np.eye(4, 8, shift), "fp32") for shift in (0, 1)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (of_model("d", "bbbb"), "fingerprints aaaa and bbbb"),
        (
            of_model("d", "aaaa", CANARIES[1]),
            "both of fingerprint aaaa, which differ on the same text",
        ),
    ],
)
@pytest.mark.parametrize("is_history", [False, True])
def test_rows_of_two_models_are_not_compared(
    new_pipeline: Callable[..., beam.Pipeline], other: Block, difference: str, is_history: bool
) -> None:
    rows = [of_model("a", "aaaa", CANARIES[0]), of_model("b", None), of_model("c", "aaaa"), other]
    history = History((rows[1], rows[0])) if is_history else None
    stream = DeduplicateStream(horizon=60, history=history)

    def run(stream: DeduplicateStream, expect: Callable) -> None:
        with new_pipeline() as p:
            given = rows[2:] if is_history else rows
            expect(p | beam.Create([given]) | beam.FlatMap(lambda blocks: blocks) | stream)

    reason = f"embedding is of another model than the rows before: {difference}"

    def collected(parts: Any) -> None:
        good, bad = parts
        known = [("c", "a")] if is_history else [("a", None), ("b", "a"), ("c", "a")]
        assert_that(good | "G" >> beam.FlatMap(decisions), equal_to(known), "good")
        why = bad | beam.FlatMap(
            lambda block: [(row["id"], row["reject_reason"]) for row in block.batch.to_pylist()]
        )
        assert_that(why, equal_to([("d", reason)]), "bad")

    run(stream.with_exception_handling(), collected)
    with pytest.raises(InputError, match=f"DeduplicateStream: row with id 'd': {reason}"):
        run(stream, lambda rows: None)


def test_a_history_of_two_models_is_refused(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    history = History((of_model("a", "aaaa"), of_model("b", "bbbb")))
    with pytest.raises(InputError, match="in history, embedding is of another model than the rows"):
        with new_pipeline() as p:
            _ = p | beam.Create([of_model("c", "aaaa")]) | DeduplicateStream(history=history)


class History:
    """Give blocks as those of a previous run; their event times are those of the stream."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        self.blocks = blocks

    def __call__(self) -> Iterator[Block]:
        times = pa.array([MIN_TIMESTAMP.micros])
        return (block.with_column(pa.field(TIMESTAMP, times.type), times) for block in self.blocks)

    def __hash__(self) -> int:
        return hash(tuple(block.to_ipc() for block in self.blocks))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.blocks == other.blocks
