"""Keep one row per id, and always the same one."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, Sessions, TimestampedValue
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte import Block, InputError, RejectDuplicateIds
from beam_gpte.shuffle.packing import Packer, Piece, Place
from beam_gpte.shuffle.unique_ids import duplicate_rows, id_hashes, split_by_id
from tests.conftest import MODES


def block(ids: list[Any], texts: list[str] | pa.Array | None = None) -> Block:
    return Block.from_pydict({"id": ids, "text": texts or [f"text of {i}" for i in ids]})


def pairs(block: Block) -> list[tuple[Any, str]]:
    return [(row["id"], row["text"]) for row in block.batch.to_pylist()]


def timed_pairs(
    block: Block, time: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
) -> list[tuple[Any, str, int, int]]:
    return [(id_, text, int(time), int(window.end)) for id_, text in pairs(block)]


def survivors(pieces: list[Piece]) -> list[tuple[tuple[Any, str], int]]:
    """Keep the rows that `duplicate_rows` does not mark, without a pipeline."""
    gone = iter(duplicate_rows(pieces, "id"))
    return sorted((pair, time) for piece, time in pieces for pair in pairs(piece) if not next(gone))


@pytest.mark.parametrize(("mode", "kind"), [("in memory", int), *((mode, str) for mode in MODES)])
def test_duplicates_and_null_ids_are_collected_with_their_columns(
    new_pipeline: Callable[..., beam.Pipeline], mode: str, kind: type
) -> None:
    one = block([kind(1), kind(2), None], ["a", "b", "c"])
    two = block([kind(2), kind(3), kind(2)], ["b", "d", "b"])
    with new_pipeline(mode) as p:
        blocks = p | beam.Create([one, two]).with_output_types(Block) | beam.Reshuffle()
        good, bad = blocks | RejectDuplicateIds().with_exception_handling()
        assert_that(
            good | beam.FlatMap(pairs), equal_to([(kind(1), "a"), (kind(2), "b"), (kind(3), "d")])
        )
        step = {"reject_step": "RejectDuplicateIds"}
        duplicate = {"id": kind(2), "text": "b", **step, "reject_reason": "duplicate id"}
        expected = [
            duplicate,
            duplicate,
            {"id": None, "text": "c", **step, "reject_reason": "id is null"},
        ]
        assert_that(
            bad | "Bad" >> beam.FlatMap(lambda block: block.batch.to_pylist()),
            equal_to(expected),
            "Rejects",
        )
        assert good.element_type is Block
        assert bad.element_type is Block


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["a", "b", "a"],
            "RejectDuplicateIds: row with id 'a': duplicate id; fix the row, or collect such rows",
        ),
        (["a", None], "RejectDuplicateIds: row with id None: id is null; fix the row"),
    ],
)
def test_without_exception_handling_the_job_fails_by_name(
    new_pipeline: Callable[..., beam.Pipeline], ids: list[str | None], message: str
) -> None:
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        _ = p | beam.Create([block(ids)]).with_output_types(Block) | RejectDuplicateIds()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (block(["a", "a"]), "MineBitext: row with id 'a': duplicate id; fix the row"),
        (block(["a", None]), "MineBitext: row with id None: id is null; fix the row"),
        (Block.from_pydict({"key": ["a"]}), "MineBitext: no column 'id' among key; name one of"),
        (block([0.5]), "MineBitext: column 'id' is double; convert the ids"),
    ],
)
def test_errors_name_the_transform_that_the_user_wrote(
    new_pipeline: Callable[..., beam.Pipeline], rows: Block, message: str
) -> None:
    p = new_pipeline()
    blocks = p | beam.Create([rows]).with_output_types(Block)
    blocks | RejectDuplicateIds().as_part_of("MineBitext")
    with pytest.raises(Exception, match=message):
        p.run()


def test_rejects_name_the_transform_that_the_user_wrote(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    check = RejectDuplicateIds().as_part_of("MineBitext").with_exception_handling()
    with new_pipeline() as p:
        result = p | beam.Create([block([1, 1, None])]).with_output_types(Block) | check
        steps = result.rejects | beam.FlatMap(lambda b: b.column("reject_step").to_pylist())
        assert_that(steps, equal_to(["MineBitext", "MineBitext"]))
    assert RejectDuplicateIds().step == "RejectDuplicateIds"


def test_the_same_row_is_kept_in_every_order_of_arrival() -> None:
    rows = [("x", "first"), ("x", "second"), ("y", "only"), ("x", "third")]
    left = set()
    for order in itertools.permutations(rows):
        for cut in range(1, 4):
            pieces = [
                (block([i for i, _ in part], [t for _, t in part]), 0)
                for part in (order[:cut], order[cut:])
            ]
            left.add(str(survivors(pieces)))
    assert len(left) == 1
    assert "only" in left.pop()


def test_of_identical_rows_the_earliest_is_kept() -> None:
    assert survivors([(block([1], ["a"]), 7), (block([1], ["a"]), 5)]) == [((1, "a"), 5)]


def test_narrow_and_wide_integers_are_the_same_id_but_strings_are_not() -> None:
    narrow, wide = (
        Block.from_pydict({"id": pa.array([7], kind), "text": ["a"]})
        for kind in (pa.int8(), pa.uint64())
    )
    assert survivors([(narrow, 0), (wide, 0)]) == [((7, "a"), 0)]
    with pytest.raises(
        InputError, match="strings in some blocks and integers in others; convert these"
    ):
        survivors([(narrow, 0), (block(["7"]), 0)])


def test_ids_may_be_hashes_of_64_bits() -> None:
    hashes = Block.from_pydict(
        {"id": pa.array([2**64 - 1, 2**64 - 1, 2**63, 1], pa.uint64()), "text": ["a"] * 4}
    )
    assert [id_ for (id_, _), _ in survivors([(hashes, 0)])] == [1, 2**63, 2**64 - 1]


def test_an_id_has_its_partition_in_every_process() -> None:
    ids = ["a", "ü", "07", *map(str, range(100))]
    code = (
        "from beam_gpte.elements.block import Block\n"
        "from beam_gpte.shuffle.unique_ids import split_by_id\n"
        f"block = Block.from_pydict({{'id': {ids!r}}})\n"
        "print({k: piece.column('id').to_pylist() for k, piece in split_by_id(block, 'id', 8)})"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    here = {
        k: piece.column("id").to_pylist()
        for k, piece in split_by_id(Block.from_pydict({"id": ids}), "id", 8)
    }
    assert elsewhere.strip() == str(here)
    assert sorted(itertools.chain(*here.values())) == sorted(ids)


@given(st.lists(st.one_of(st.text(), st.none()), max_size=40), st.integers(0, 5))
def test_hashes_of_ids_are_those_of_a_loop_over_bytes(ids: list[str | None], start: int) -> None:
    column = pa.array(ids, pa.large_string()).slice(start)
    assert id_hashes(column).tolist() == [looped_hash(id_ or "") for id_ in ids[start:]]


def test_an_integer_has_the_hash_of_its_digits_and_hashes_spread() -> None:
    numbers = id_hashes(pa.array(range(9000)))
    assert numbers.tolist() == id_hashes(pa.array(map(str, range(9000)))).tolist()
    assert len(set(numbers.tolist())) == 9000
    assert min(np.bincount((numbers % np.uint64(16)).astype(np.int64))) > 450


def looped_hash(id_: str) -> int:
    hashed, power = len(id_.encode()), 1
    for byte in id_.encode():
        power = power * 0x9E3779B97F4A7C15 % 2**64
        hashed = (hashed + (byte + 1) * power) % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashed = (hashed ^ hashed >> 33) * factor % 2**64
    return hashed ^ hashed >> 33


def packed(pieces: Iterable[tuple[Place, Block]], rows_per_block: int) -> list[tuple[Place, Block]]:
    packer = Packer(rows_per_block)
    return [done for place, piece in pieces for done in packer.add(place, piece)] + list(
        packer.flush()
    )


def test_pieces_are_packed_to_full_blocks_of_one_place() -> None:
    here, later = ("w", 0), ("w", 9)
    pieces = [
        (here, block([1, 2])),
        (here, block([3, 4, 5, 6, 7])),
        (later, block([8])),
        (here, block([9])),
    ]
    full = [(place, piece.column("id").to_pylist()) for place, piece in packed(pieces, 3)]
    assert full == [(here, [1, 2, 3]), (here, [4, 5, 6]), (here, [7, 9]), (later, [8])]


def test_blocks_of_two_schemas_are_not_mixed() -> None:
    other = Block.from_pydict({"id": [2], "body": ["b"]})
    both = packed([(("w", 0), block([1])), (("w", 0), other)], 10)
    assert [piece.schema.names for _, piece in both] == [["id", "text"], ["id", "body"]]


def test_rows_of_many_times_are_not_all_kept_in_memory() -> None:
    packer = Packer(10)
    assert sum(1 for time in range(1000) for _ in packer.add(("w", time), block([time]))) > 900


def test_dictionaries_of_several_blocks_are_packed_together() -> None:
    pieces = [
        (("w", 0), block([i], pa.array([text]).dictionary_encode())) for i, text in enumerate("aba")
    ]
    ((_, whole),) = packed(pieces, 10)
    assert pairs(whole) == [(0, "a"), (1, "b"), (2, "a")]


def test_a_small_corpus_is_one_block_again(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        blocks = p | beam.Create([block(list(range(1000)))]).with_output_types(Block)
        assert_that(
            blocks | RejectDuplicateIds(rows_per_block=1000) | beam.Map(len), equal_to([1000])
        )


def test_rows_of_any_kind_are_checked(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    rows = [
        {"id": 1, "text": "a"},
        {"id": None, "text": "b"},
        {"id": 1, "text": "a"},
        {"id": "2", "text": 5},
    ]
    with new_pipeline() as p:
        good, bad = p | beam.Create(rows) | RejectDuplicateIds().with_exception_handling()
        assert_that(good, equal_to([rows[0], rows[3]]), "Good")
        reasons = bad | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(reasons, equal_to([(1, "duplicate id"), (None, "id is null")]), "Bad")


def test_an_empty_block_gives_nothing(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        blocks = p | beam.Create([block([1]).slice(0, 0)]).with_output_types(Block)
        good, bad = blocks | RejectDuplicateIds().with_exception_handling()
        assert_that(good, equal_to([]), "Good")
        assert_that(bad, equal_to([]), "Bad")


def test_windows_are_separate_and_rows_keep_their_times(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    """Windows of 10 seconds: id 1 comes at 1, 4 and 11 seconds."""
    rows = [
        TimestampedValue(block([1], ["a"]), 4),
        TimestampedValue(block([1, 2]), 1),
        TimestampedValue(block([1]), 11),
    ]
    with new_pipeline() as p:
        blocks = p | beam.Create(rows).with_output_types(Block) | beam.WindowInto(FixedWindows(10))
        good, bad = blocks | RejectDuplicateIds().with_exception_handling()
        kept = good | beam.FlatMap(timed_pairs)
        gone = bad | "Gone" >> beam.FlatMap(timed_pairs)
        # SHA-256 of [('id', 1), ('text', 'a')] begins with c6, that of the other row with 53
        first, second, later = (
            (1, "text of 1", 1, 10),
            (2, "text of 2", 1, 10),
            (1, "text of 1", 11, 20),
        )
        assert_that(kept, equal_to([first, second, later]), "Kept")
        assert_that(gone, equal_to([(1, "a", 4, 10)]), "Bad")


def test_a_session_keeps_its_window(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    """With a gap of 10 seconds, 1 and 8 seconds are one session that ends at 18."""
    rows = [TimestampedValue(block([1]), 1), TimestampedValue(block([2]), 8)]
    with new_pipeline() as p:
        blocks = p | beam.Create(rows).with_output_types(Block) | beam.WindowInto(Sessions(10))
        kept = blocks | RejectDuplicateIds(partitions=1) | beam.FlatMap(timed_pairs)
        assert_that(kept, equal_to([(1, "text of 1", 1, 18), (2, "text of 2", 8, 18)]))


def test_a_stream_without_windows_is_refused_when_the_pipeline_is_built(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    p = new_pipeline()
    stream = (
        p
        | test_stream.TestStream(
            coder=beam.coders.registry.get_coder(Block)
        ).advance_watermark_to_infinity()
    )
    with pytest.raises(
        InputError, match=r"RejectDuplicateIds: a stream without windows; put beam\.WindowInto"
    ):
        _ = stream | RejectDuplicateIds()


@pytest.mark.parametrize("settings", [{"partitions": 0}, {"rows_per_block": 0}])
def test_wrong_arguments_raise_at_construction(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is 0; use 1 or more"):
        RejectDuplicateIds(**settings)


def test_a_missing_or_unusable_id_column_is_named() -> None:
    with pytest.raises(InputError, match="no column 'key' among id, text; name one of these"):
        list(split_by_id(block([1]), "key", 4))
    with pytest.raises(
        InputError, match="column 'id' is double; convert the ids to strings or integers"
    ):
        list(split_by_id(block([0.5]), "id", 4))
