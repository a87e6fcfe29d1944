"""Deduplicate rows that wait on a disk: the results are those of rows in memory."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    Deduplication,
    InputError,
)
from beam_gpte.files.scratch import ScratchFolder
from beam_gpte.shuffle.spill import SpillRows, is_light, read_rows, whole_rows
from tests.examples import LengthEncoder, keep, kept

NewPipeline = Callable[..., beam.Pipeline]


def corpus(seed: int, name: str = "row") -> list[Block]:
    """Families of near vectors and texts, some equal; a taken id, and a row without a vector."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(60, 16))
    vectors = (centers[random.integers(60, size=400)] + 0.1 * random.normal(size=(400, 16))).astype(
        np.float32
    )
    vectors[350:380] = vectors[100:130]
    words = np.array([f"word{i}" for i in range(12)])
    texts = [
        " ".join(words[(i % 40 + np.arange(9)) % 12]) + (" end" if i % 3 else "")
        for i in range(400)
    ]
    ids = [f"{name} {i:03}" for i in range(400)]
    ids[17] = ids[16]
    kind = pa.list_(pa.float32(), 16)
    listed: list[Any] = [None if i == 33 else row for i, row in enumerate(vectors.tolist())]
    whole = Block.from_pydict(
        {
            "id": pa.array(ids),
            "text": pa.array(texts),
            "language": pa.array([["de", "en"][i % 2] for i in range(400)]),
            "stars": pa.array(random.integers(0, 3, 400)),
            "note": pa.array([f"note {i}" for i in range(400)]),
            "embedding": pa.array(listed, kind),
        }
    )
    order = random.permutation(400)
    return [Block(whole.batch.take(pa.array(part))) for part in np.array_split(order, 9)]


def rows_of(result: Deduplication) -> beam.PCollection:
    """(collection, row) of all results of a deduplication, as text that compares."""
    names = ("kept", "removed", "pairs", "rejects")
    parts = [
        getattr(result, name)
        | name
        >> beam.FlatMap(lambda block, name=name: [(name, r) for r in block.batch.to_pylist()])
        for name in names
    ]
    report = result.report | "report" >> beam.Map(lambda report: ("report", report))
    return (
        (*parts, report)
        | beam.Flatten()
        | "Show" >> beam.Map(lambda pair: f"{pair[0]} {pair[1]!r}")
    )


def semantic(**settings: Any) -> Deduplicate:
    return Deduplicate((DeduplicateSemantic(0.9, **settings),))


CASES: dict[str, Callable[[], Deduplicate]] = {
    "vectors in many cells": semantic,
    "a sample measures how far to search": lambda: semantic(mode="recall=0.95"),
    "an order and a scope": lambda: semantic(keep="stars desc", scope="language"),
    "three steps": lambda: Deduplicate(
        (
            DeduplicateExact(keep="longest"),
            DeduplicateLexical(0.9),
            DeduplicateSemantic(0.9, keep="stars asc"),
        )
    ),
}


def found_by(
    pipeline: beam.Pipeline, deduplicate: Deduplicate, with_reference: bool, folder: Path
) -> list[str]:
    folder.mkdir()
    with pipeline:
        blocks = pipeline | beam.Create(corpus(0)).with_output_types(Block) | beam.Reshuffle()
        if with_reference:
            previous = [
                block
                for block in corpus(1, "previous")[:3]
                if not block.column("embedding").null_count
            ]
            deduplicate.reference = pipeline | "Reference" >> beam.Create(
                previous
            ).with_output_types(Block)
        rows_of(blocks | deduplicate.with_exception_handling()) | "Keep" >> beam.Map(
            keep, str(folder), "rows"
        )
    return sorted(kept(str(folder), "rows"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, "two processes" if case == "three steps" else "in memory") for case in CASES],
)
def test_rows_on_a_disk_are_decided_like_rows_in_memory(
    new_pipeline: NewPipeline,
    is_local: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    mode: str,
) -> None:
    if "cells" in case:
        monkeypatch.setattr("beam_gpte.core.dedup.space.CELL_ROWS", 20)
        monkeypatch.setattr("beam_gpte.dedup.search_plan.CELLS_TILE_ROWS", 30)
        monkeypatch.setattr("beam_gpte.dedup.search_plan.GROUP_ROWS", 100)
        monkeypatch.setattr("beam_gpte.shuffle.spill.BYTES_PER_FILE", 4096)
    scratch, several = tmp_path / "scratch", case == "three steps"
    spilled: list[Path] = []
    close = ScratchFolder.close

    def closing(folder: ScratchFolder) -> None:
        spilled.extend(folder.path.glob("*.arrow"))
        close(folder)

    monkeypatch.setattr(ScratchFolder, "close", closing)
    spilling = CASES[case]()
    spilling.scratch = str(scratch)
    found = found_by(new_pipeline(mode), spilling, several, tmp_path / "spilling")
    assert found == found_by(new_pipeline(), CASES[case](), several, tmp_path / "plain")
    assert sum(row.startswith("removed") for row in found) > 20
    assert sum(row.startswith("rejects") for row in found) == 2
    if not is_local:  # the client of an engine keeps the pipeline until the process ends
        assert list(scratch.rglob("*.arrow"))
        return
    del spilling  # its reference is a collection of the pipeline
    gc.collect()
    assert spilled
    assert not list(scratch.iterdir())  # it went with the pipeline


def test_a_model_embeds_rows_that_lie_on_a_disk(new_pipeline: NewPipeline, tmp_path: Path) -> None:
    """The vectors, (1, length), go to the disk as well; dictionaries come back whole."""
    rows = [{"id": i, "text": "x" * (i % 4 * 3 + 1), "note": [i]} for i in range(20)]
    with new_pipeline() as pipeline:
        steps = (DeduplicateSemantic(0.999, model=LengthEncoder()),)
        result = pipeline | beam.Create(rows) | Deduplicate(steps, scratch=str(tmp_path))
        left = result.kept | beam.Map(
            lambda row: (row["id"], row["note"], row["embedding"].tolist())
        )
        gone = result.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"], row["note"]))

        def kept_rows(found: list) -> None:
            assert sorted(found) == [
                (0, [0], [1, 1]),
                (1, [1], [1, 4]),
                (2, [2], [1, 7]),
            ]

        def removed_rows(found: list) -> None:
            assert (3, 2, [3]) in found
            assert (19, 2, [19]) in found
            assert len(found) == 17

        assert_that(left, kept_rows, label="kept")
        assert_that(gone, removed_rows, label="removed")


def test_rows_come_back_in_any_order_and_with_what_was_added(tmp_path: Path) -> None:
    whole = Block.concat(corpus(2))
    spill = SpillRows(str(tmp_path), ("id",))
    light: list[Block] = []
    with beam.Pipeline("FnApiRunner") as pipeline:
        blocks = pipeline | beam.Create(
            [whole.slice(i, 50) for i in range(0, 400, 50)]
        ).with_output_types(Block)
        (blocks | beam.Reshuffle() | spill) | beam.Map(keep, str(tmp_path), "light")
    light = kept(str(tmp_path), "light")
    assert all(is_light(block) and "text" not in block.schema.names for block in light)
    together = Block.concat(light)
    shuffled = together.take(np.random.default_rng(0).permutation(400))
    marked = shuffled.with_column(pa.field("mark", pa.int64()), pa.array(range(400)))
    back = whole_rows(marked)
    assert back.column("mark").to_pylist() == list(range(400))
    assert back.column("id").equals(shuffled.column("id"))
    of_id = {row["id"] + row["note"]: row for row in whole.batch.to_pylist()}
    for row in back.batch.to_pylist():
        del row["mark"]
        assert row == of_id[row["id"] + row["note"]]
    assert read_rows(shuffled.slice(0, 0), ["note"]).schema.names == ["note"]
    assert whole_rows(whole) is whole


def test_a_folder_that_workers_do_not_share_is_named(tmp_path: Path) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        blocks = pipeline | beam.Create(corpus(2)).with_output_types(Block)
        (blocks | SpillRows(str(tmp_path), ("id",))) | beam.Map(keep, str(tmp_path), "light")
    block = kept(str(tmp_path), "light")[0]
    for file in tmp_path.glob("*.arrow"):
        file.unlink()
    with pytest.raises(
        InputError, match="rows that were written there are gone; all workers have to share scratch"
    ):
        whole_rows(block)


def test_scratch_is_on_a_disk() -> None:
    rows, steps = [{"id": 1, "embedding": np.ones(2)}], (DeduplicateSemantic(),)
    message = r"scratch is 'gs://b/x'; rows are read .* name a folder on a disk"
    with pytest.raises(InputError, match=message):
        rows | Deduplicate(steps, scratch="gs://b/x")
