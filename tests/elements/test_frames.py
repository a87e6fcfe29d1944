"""Frames and tables left of `|`: each transform gives the same kind back, in order."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import beam_gpte as bg
from beam_gpte.elements.rejects import GoodAndRejects
from tests.examples import WordEncoder

TEXTS = ["the cat sat", "a dog ran", "the cat sat", "stocks fell"]
COLUMNS = {"id": [3, 2, 1, 0], "text": TEXTS, "year": [2021, 2022, 2023, 2024]}


def block(table: pa.Table) -> bg.Block:
    return bg.Block.from_table(table)


def batch(table: pa.Table) -> pa.RecordBatch:
    return block(table).batch


def as_pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()


KINDS: dict[str, Callable[[pa.Table], Any]] = {
    "pandas": as_pandas,
    "Polars": pl.DataFrame,
    "table": lambda table: table,
    "batch": batch,
    "block": block,
}
given_kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def rows_of(frame: Any) -> list[dict[str, Any]]:
    if isinstance(frame, pd.DataFrame):
        return frame.to_dict("records")
    if isinstance(frame, pl.DataFrame):
        return frame.to_dicts()
    return pa.table(frame).to_pylist()


def names_of(frame: Any) -> list[str]:
    return list(frame.columns if hasattr(frame, "iloc") else pa.table(frame).column_names)


@given_kinds
def test_a_frame_of_texts_comes_back_with_vectors(make: Callable[[pa.Table], Any]) -> None:
    given = make(pa.table(COLUMNS))
    found = given | bg.EmbedText(WordEncoder())
    assert type(found) is type(given)
    assert names_of(found) == ["id", "text", "year", "embedding"]
    vectors = [row.pop("embedding") for row in rows_of(found)]
    np.testing.assert_allclose(np.array(vectors), WordEncoder().encode(TEXTS), rtol=1e-6)
    assert [row["id"] for row in rows_of(found)] == [3, 2, 1, 0]
    assert [row["text"] for row in rows_of(found)] == TEXTS


@given_kinds
def test_the_outputs_of_a_deduplication_are_frames(make: Callable[[pa.Table], Any]) -> None:
    given = make(pa.table(COLUMNS))
    found = given | bg.DeduplicateExact()
    assert isinstance(found, bg.Deduplication)
    for part in (found.kept, found.removed, found.pairs, found.rejects):
        assert type(part) is type(given)
    assert [row["id"] for row in rows_of(found.kept)] == [2, 1, 0]  # the order of the frame
    (removed,) = rows_of(found.removed)
    assert removed == {
        "id": 3,
        "text": "the cat sat",
        "year": 2021,
        "duplicate_of": 1,
        "score": 1.0,
        "found_by": "exact",
    }
    assert rows_of(found.pairs) == [
        {"first_id": 1, "second_id": 3, "score": 1.0, "found_by": "exact"}
    ]
    assert rows_of(found.rejects) == []
    assert names_of(found.rejects) == ["id", "text", "year", "reject_step", "reject_reason"]
    assert [report["rows"] for report in found.report] == [4]
    assert found.saved_index is None


@given_kinds
def test_outputs_without_rows_have_their_columns(make: Callable[[pa.Table], Any]) -> None:
    found = make(pa.table(COLUMNS).slice(0, 2)) | bg.DeduplicateExact(rename={"score": "s"})
    added = ["duplicate_of", "s", "found_by"]
    assert (rows_of(found.removed), rows_of(found.pairs)) == ([], [])
    assert names_of(found.removed) == ["id", "text", "year", *added]
    assert names_of(found.pairs) == ["first_id", "second_id", "score", "found_by"]


@given_kinds
def test_bad_rows_are_a_frame_of_their_own(make: Callable[[pa.Table], Any]) -> None:
    given = make(pa.table({"id": ["a", "b"], "text": ["a text", ""]}))
    found = given | bg.EmbedText(WordEncoder()).with_exception_handling()
    assert isinstance(found, GoodAndRejects)
    assert [row["id"] for row in rows_of(found.good)] == ["a"]
    (reject,) = rows_of(found.rejects)
    assert reject["reject_reason"].startswith("text is empty")
    assert type(found.good) is type(found.rejects) is type(given)


@given_kinds
def test_a_dict_of_frames_is_mined(make: Callable[[pa.Table], Any]) -> None:
    kind = pa.list_(pa.float32(), 4)
    rows, other = (
        pa.table({"id": ids, "text": TEXTS, "embedding": pa.array((np.eye(4) + of).tolist(), kind)})
        for ids, of in (([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0.01))
    )
    options = bg.Comparison(center=False, deduplicate=False)
    mine = bg.MineBitext(threshold=0.0, comparison=options)
    found = {"source": make(rows), "target": make(other)} | mine
    assert isinstance(found, bg.Bitext)
    assert type(found.pairs) is type(make(rows))
    pairs = {(row["source_id"], row["target_id"]) for row in rows_of(found.pairs)}
    assert pairs == {(0, 4), (1, 5), (2, 6), (3, 7)}
    assert not [name for name in names_of(found.pairs) if "__gpte" in name]
    assert found.report[0]["source_rows"] == 4


@given_kinds
def test_chunks_come_in_the_order_of_their_texts(make: Callable[[pa.Table], Any]) -> None:
    texts = ["One here. Two here.", "Three here."]
    given = make(pa.table({"id": [1, 0], "text": texts}))
    found = rows_of(given | bg.SplitSentences("en"))
    assert [row["text"].strip() for row in found] == ["One here.", "Two here.", "Three here."]
    assert [row["parent_id"] for row in found] == [1, 1, 0]


@given_kinds
def test_a_sink_takes_a_frame(make: Callable[[pa.Table], Any], tmp_path: Any) -> None:
    (written,) = make(pa.table(COLUMNS)) | bg.WriteVectorsToParquet(str(tmp_path / "out"))
    assert written.rows == 4
    assert sorted(pl.read_parquet(written.path)["id"]) == [0, 1, 2, 3]


@given_kinds
def test_a_thousand_rows_keep_their_order(make: Callable[[pa.Table], Any]) -> None:
    ids = np.random.default_rng(0).permutation(1000)
    given = make(pa.table({"id": ids, "text": [f"text {i}" for i in ids]}))
    kept = (given | bg.DeduplicateExact()).kept
    assert [row["id"] for row in rows_of(kept)] == ids.tolist()


def test_a_frame_of_pandas_keeps_labels_and_types() -> None:
    given = pd.DataFrame(
        {
            "id": pd.array([3, None, 1], "Int64").fillna(2),
            "text": ["same", "other", "same"],
            "kind": pd.Categorical(["a", "b", "a"]),
            "when": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
        },
        index=pd.Index(["x", "y", "z"], name="label"),
    )
    found = given | bg.DeduplicateExact()
    assert found.kept.index.tolist() == ["y", "z"]
    assert found.kept.index.name == "label"
    assert found.kept.dtypes.to_dict() == given.dtypes.to_dict()
    assert found.removed.index.tolist() == ["x"]
    assert found.removed["duplicate_of"].tolist() == [1]
    pd.testing.assert_frame_equal(found.kept, given.loc[["y", "z"]])


def test_a_frame_of_polars_keeps_its_types() -> None:
    given = pl.DataFrame(
        {"id": [1, 0], "text": ["a b", "c d"], "kind": ["x", "y"]},
        schema_overrides={"id": pl.UInt8, "kind": pl.Categorical},
    )
    found = given | bg.EmbedText(WordEncoder())
    assert found.drop("embedding").schema == given.schema
    assert found.schema["embedding"] == pl.Array(pl.Float32, 8)
    assert found.drop("embedding").equals(given)


def test_vectors_in_a_frame_are_used() -> None:
    embedded = pd.DataFrame(COLUMNS) | bg.EmbedText(WordEncoder())
    found = embedded | bg.DeduplicateSemantic(0.9)
    assert found.removed["id"].tolist() == [3]
    assert found.removed["duplicate_of"].tolist() == [1]


def test_an_arrow_table_keeps_what_made_its_vectors() -> None:
    found = pa.table(COLUMNS) | bg.EmbedText(WordEncoder())
    metadata = found.schema.field("embedding").metadata
    assert any(b"words-1" in value for value in metadata.values())


def test_a_label_may_stand_before_the_transform() -> None:
    for given in (pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS)):
        assert type(given | "Exact" >> bg.DeduplicateExact()).__name__ == "Deduplication"


def test_columns_that_are_not_strings_keep_their_names() -> None:
    found = pd.DataFrame({"text": ["a b"], 7: [1]}) | bg.EmbedText(WordEncoder())
    assert found.columns.tolist() == ["text", 7, "embedding"]


def test_a_frame_without_rows_gives_one() -> None:
    for given in (pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS)):
        empty = given[:0] if not isinstance(given, pa.Table) else given.slice(0, 0)
        found = empty | bg.DeduplicateExact()
        assert type(found.kept) is type(given)
        assert (rows_of(found.kept), names_of(found.kept)) == ([], ["id", "text", "year"])


def test_lists_and_collections_go_the_way_of_beam() -> None:
    found = TEXTS | bg.EmbedText(WordEncoder())
    assert [row["text"] for row in found] == TEXTS
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    result = rows | bg.DeduplicateExact().with_exception_handling()
    assert [row["id"] for row in result.removed] == [2]
    assert result.pairs == [{"first_id": 0, "second_id": 2, "score": 1.0, "found_by": "exact"}]
    assert result.rejects == []
    series = pd.Series(TEXTS) | bg.EmbedText(WordEncoder())
    assert [row["text"] for row in series] == TEXTS
    with beam.Pipeline() as p:
        assert isinstance(p | beam.Create(rows) | bg.EmbedText(WordEncoder()), beam.PCollection)


def test_what_is_not_a_frame_says_the_repair() -> None:
    with pytest.raises(bg.InputError, match=r"EmbedText: a LazyFrame has no rows yet; call .coll"):
        _ = pl.LazyFrame(COLUMNS) | bg.EmbedText(WordEncoder())
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(bg.InputError, match="EmbedText: column 'text' is there 2 times"):
        _ = twice | bg.EmbedText(WordEncoder())
    mixed = pd.DataFrame({"text": ["a", "b"], "odd": ["a", 1]})
    with pytest.raises(bg.InputError, match="column 'odd': its values have no common type"):
        _ = mixed | bg.EmbedText(WordEncoder())


def test_a_hidden_column_of_a_frame_is_refused() -> None:
    given = pl.DataFrame({"text": ["a"], "__gpte_position": [0]})
    with pytest.raises(bg.InputError, match="a column is named '__gpte_position'"):
        _ = given | bg.EmbedText(WordEncoder())
