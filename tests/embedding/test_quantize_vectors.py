"""QuantizeVectors: codes depend on their vectors alone, and are searched with plain SQL."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beam_gpte import (
    Block,
    EmbedText,
    InputError,
    TextEncoder,
    VectorMetadata,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.metadata import vector_fields, vector_metadata
from beam_gpte.core.vectors.quantize import dequantize, quantize, quantized
from beam_gpte.embedding.quantize_vectors import QuantizeVectors
from tests.conftest import MODES
from tests.examples import LengthEncoder

UNIT = VectorMetadata("some model", "aaaa", "mean", "", dim=3, normalized=True)
VECTORS = np.array([[0.6, -0.8, 0.0], [0.0, 0.0, 1.0], [-0.48, 0.6, 0.64]], np.float32)


def vector_block(vectors: np.ndarray, metadata: VectorMetadata = UNIT, start: int = 0) -> Block:
    field = dataclasses.replace(metadata, dim=vectors.shape[1]).field("embedding")
    ids = pa.array(range(start, start + len(vectors)))
    return Block(
        pa.record_batch(
            [ids, pa.array(list(vectors), field.type)], pa.schema([("id", pa.int64()), field])
        )
    )


def codes_of(block: Block) -> list:
    return block.column("embedding").to_pylist()


def unit_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_codes_worked_out_by_hand() -> None:
    # with its largest value, 0.8, as the limit: 0.6 is 95.25 / 127
    # with 0.5 as the limit: 0.6 is clipped, 0.48 is 121.92 / 127
    assert quantize(VECTORS, "int8").tolist() == [[95, -127, 0], [0, 0, 127], [-95, 119, 127]]
    assert quantize(VECTORS, "int8", 0.5).tolist() == [
        [127, -127, 0],
        [0, 0, 127],
        [-122, 127, 127],
    ]
    assert quantize(VECTORS, "binary").tolist() == [[0b10000000], [0b00100000], [0b01100000]]
    nine = np.ones((1, 9), np.float32)
    assert quantize(nine, "binary").tolist() == [[255, 128]]
    assert quantize(VECTORS, "float16").dtype == np.float16
    assert quantize(np.zeros((1, 3), np.float32), "int8").tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("to", ["float16", "int8", "binary"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_has_no_code(to: str, value: float) -> None:
    with pytest.raises(InputError, match="vector 1 has a value that is not finite"):
        quantize(np.array([[1.0, 0.0], [0.5, value]], np.float32), to)


def test_codes_are_converted_back_to_vectors() -> None:
    vectors = unit_vectors(50, 37)
    assert np.abs(dequantize(quantize(vectors, "float16")) - vectors).max() < 2**-11
    assert (dequantize(quantize(vectors, "int8")) * vectors).sum(axis=1).min() > 0.9995
    long = 5 * vectors
    limit = float(np.abs(long).max())
    assert (
        np.abs(dequantize(quantize(long, "int8", limit), int8_limit=limit) - long).max()
        <= limit / 254 + 1e-6
    )
    signs = dequantize(quantize(vectors, "binary"), dim=37)
    assert np.array_equal(np.sign(signs), np.sign(vectors))
    assert np.linalg.norm(signs, axis=1) == pytest.approx(np.ones(50))
    assert dequantize(np.zeros((1, 3), np.int8)).tolist() == [[0, 0, 0]]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)


@given(data=st.data(), to=st.sampled_from(["float16", "int8", "binary"]), dim=st.integers(1, 20))
def test_vectors_converted_back_give_the_same_codes_again(
    data: st.DataObject, to: str, dim: int
) -> None:
    values = data.draw(st.sampled_from([FLOATS, st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5])]))
    values = HALVES if to == "float16" else values
    limit = None
    if to == "int8":
        limit = data.draw(st.none() | st.floats(2.0**-100, 2.0**100))
    codes = quantize(data.draw(arrays(np.float32, (3, dim), elements=values)), to, limit)
    again = quantize(dequantize(codes, dim, limit), to, limit)
    assert again.tobytes() == codes.tobytes()


@pytest.mark.parametrize("limit", [None, 0.21, 1.0, 3e-5, 77.7])
def test_every_int8_code_comes_back(limit: float | None) -> None:
    codes = np.arange(-127, 128, dtype=np.int8).reshape(1, -1)
    several = np.concatenate([codes, codes[:, ::-1], 0 * codes])
    assert np.array_equal(quantize(dequantize(several, None, limit), "int8", limit), several)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{"to": "binary"}, {"to": "int8", "int8_limit": "fit"}])
def test_codes_do_not_depend_on_blocks(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, mode: str, settings: dict
) -> None:
    vectors = unit_vectors(60, 16)
    limit = float(np.abs(vectors).max()) if "int8_limit" in settings else None
    with new_pipeline(mode) as p:
        blocks = (
            p
            | beam.Create([vector_block(vectors[i : i + 7], start=i) for i in range(0, 60, 7)])
            | beam.Reshuffle()
        )
        blocks | QuantizeVectors(**settings) | WriteVectorsToParquet(str(tmp_path))
    table = pa.concat_tables([pq.read_table(path) for path in tmp_path.glob("*.parquet")]).sort_by(
        "id"
    )
    assert (
        table.column("embedding").to_pylist() == quantize(vectors, settings["to"], limit).tolist()
    )
    metadata = vector_metadata(table.schema.field("embedding"))
    assert (metadata.quantization, metadata.dim, metadata.int8_limit) == (settings["to"], 16, limit)
    assert metadata.fingerprint == quantized(UNIT, settings["to"], limit).fingerprint


def test_every_setting_has_another_fingerprint() -> None:
    settings = [("float16", None), ("int8", None), ("int8", 0.5), ("int8", 0.6), ("binary", None)]
    assert len({UNIT.fingerprint, *(quantized(UNIT, *each).fingerprint for each in settings)}) == 6


def test_sinks_refuse_to_mix_quantizations(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    def write(to: str) -> None:
        with new_pipeline() as p:
            (
                p
                | beam.Create([vector_block(VECTORS)])
                | QuantizeVectors(to)
                | WriteVectorsToDuckDB(f"{tmp_path}/v.duckdb")
            )

    write("int8")
    with pytest.raises(Exception, match="quantization 'float16' and 'int8'"):
        write("float16")
    write("int8")


def test_sql_finds_the_nearest_by_every_kind_of_code(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    vectors = unit_vectors(300, 20)
    queries = {
        "float16": ("FLOAT[20]", "array_cosine_similarity(v.embedding, q.embedding)"),
        "int8": (
            "TINYINT[20]",
            "array_cosine_similarity(v.embedding::FLOAT[20], q.embedding::FLOAT[20])",
        ),
        "binary": ("BIT", "-bit_count(xor(v.embedding, q.embedding))"),
    }
    for to, (kind, score) in queries.items():
        path = tmp_path / f"{to}.duckdb"
        with new_pipeline() as p:
            (
                p
                | beam.Create([vector_block(vectors)])
                | QuantizeVectors(to)
                | WriteVectorsToDuckDB(str(path))
            )
        with duckdb.connect(str(path)) as connection:
            assert connection.execute("DESCRIBE vectors").fetchall()[1][1] == kind
            found = connection.execute(
                "SELECT v.id FROM vectors v, vectors q WHERE q.id = 5 "
                f"ORDER BY {score} DESC, v.id LIMIT 10"
            ).fetchall()
            codes = quantize(vectors, to)
            expected = dequantize(codes, dim=20) @ dequantize(codes, dim=20)[5]
            assert [i for (i,) in found] == np.lexsort((np.arange(300), -expected.round(6)))[
                :10
            ].tolist()
            [[comment]] = connection.execute(
                "SELECT comment FROM duckdb_columns() WHERE column_name = 'embedding'"
            ).fetchall()
            assert json.loads(comment)["quantization"] == to
            if (
                to == "binary"
            ):  # 20 bits take three bytes, and a query as floats can be written in SQL
                assert connection.execute(
                    "SELECT DISTINCT bit_length(embedding) FROM vectors"
                ).fetchall() == [(24,)]
                distance = "bit_count(xor(embedding, ?::BLOB::BIT))"
                nearest = f"SELECT id FROM vectors ORDER BY {distance} LIMIT 1"
                assert connection.execute(nearest, [codes[5].tobytes()]).fetchall() == [(5,)]


@pytest.mark.parametrize("to", ["float16", "int8", "binary"])
def test_parquet_of_codes_is_read_by_others(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, to: str
) -> None:
    with new_pipeline() as p:
        (
            p
            | beam.Create([vector_block(VECTORS)])
            | QuantizeVectors(to)
            | WriteVectorsToParquet(str(tmp_path))
        )
    expected = quantize(VECTORS, to).tolist()
    assert pl.read_parquet(f"{tmp_path}/*.parquet")["embedding"].to_list() == expected
    assert duckdb.sql(f"SELECT embedding FROM '{tmp_path}/*.parquet'").fetchall() == [
        (code,) for code in expected
    ]


def test_a_bad_vector_costs_one_row_and_keeps_its_value(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    field = UNIT.field("embedding")
    values = [[1.0, 0.0, 0.0], None, [float("nan"), 0.0, 0.0], [1e6, 0.0, 0.0]]
    block = Block(
        pa.record_batch(
            [pa.array(list("abcd")), pa.array(values, field.type)],
            pa.schema([("id", pa.string()), field]),
        )
    )
    with new_pipeline() as p:
        good, bad = p | beam.Create([block]) | QuantizeVectors("float16").with_exception_handling()
        assert_that(
            good | beam.Map(lambda b: b.column("id").to_pylist()), equal_to([["a"]]), "good"
        )
        rows = bad | beam.FlatMap(
            lambda b: [
                (r["id"], r["reject_reason"], str(r["embedding"])) for r in b.batch.to_pylist()
            ]
        )
        expected = [
            ("b", "embedding is null", "None"),
            ("c", "embedding has a value that is not finite", "[nan, 0.0, 0.0]"),
            ("d", "embedding is too large for float16", "[1000000.0, 0.0, 0.0]"),
        ]
        assert_that(rows, equal_to(expected), "bad")
    with pytest.raises(Exception, match="row with id 'b': embedding is null"), new_pipeline() as p:
        p | beam.Create([block]) | QuantizeVectors("int8")


def test_rows_of_every_kind_come_back_with_codes(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    item = EmbeddableItem(
        Content("x"), "i", embedding=Embedding([0.6, -0.8, 0.0]), metadata={"n": 1}
    )
    rows = [
        {"id": 1, "embedding": VECTORS[0], "more": {1}},
        beam.Row(id=2, embedding=[0.6, -0.8, 0.0]),
        item,
        pa.table({"embedding": pa.array([VECTORS[0]])}),
    ]

    def plain(row: Any) -> Any:
        if isinstance(row, dict):
            return [row["embedding"].dtype.name, row["embedding"].tolist(), row["more"]]
        if isinstance(row, EmbeddableItem):
            return [row.embedding.dense_embedding, row.metadata]
        return row.column("embedding").to_pylist() if isinstance(row, pa.Table) else row.embedding

    with new_pipeline() as p:
        codes = p | beam.Create(rows) | QuantizeVectors("int8") | beam.Map(plain)
        expected = [
            ["int8", [95, -127, 0], {1}],
            [95, -127, 0],
            [[95, -127, 0], {"n": 1}],
            [[95, -127, 0]],
        ]
        assert_that(codes, equal_to(expected))


def test_rejected_rows_keep_their_vectors(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    rows = [
        {"id": 1, "embedding": None},
        {"id": 2, "embedding": [float("inf"), 0.0]},
        {"id": None, "embedding": [1.0, 0.0]},
    ]
    with new_pipeline() as p:
        good, bad = p | beam.Create(rows) | QuantizeVectors("binary").with_exception_handling()
        assert_that(good, equal_to([]), "good")
        reasons = ["embedding is null", "embedding has a value that is not finite", "id is null"]
        step = {"reject_step": "QuantizeVectors"}
        expected = [
            {**row, **step, "reject_reason": why} for row, why in zip(rows, reasons, strict=True)
        ]
        assert_that(bad, equal_to(expected), "bad")


def test_quantized_rows_reach_a_sink_as_codes(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create([{"id": 1, "embedding": VECTORS[0]}])
        rows | QuantizeVectors("int8") | WriteVectorsToParquet(str(tmp_path))
    assert pl.read_parquet(f"{tmp_path}/*.parquet").schema["embedding"] == pl.Array(pl.Int8, 3)


def test_values_beyond_a_given_limit_are_counted(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    p = new_pipeline()
    p | beam.Create([vector_block(VECTORS)]) | QuantizeVectors("int8", int8_limit=0.7)
    assert counters(p.run())["vectors_clipped"] == 2


def test_a_stream_has_no_corpus_to_fit(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    stream = new_pipeline() | test_stream.TestStream()
    with pytest.raises(InputError, match="give the limit of a previous run"):
        stream | QuantizeVectors("int8", int8_limit="fit")


def test_wrong_settings_are_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="to 'int4': choose float16, int8 or binary"):
        QuantizeVectors("int4")
    with pytest.raises(InputError, match="int8_limit with to 'binary'"):
        QuantizeVectors("binary", int8_limit="fit")
    with pytest.raises(InputError, match="int8_limit -1: give a number above 0"):
        QuantizeVectors("int8", int8_limit=-1)


def test_vectors_that_cannot_be_quantized_so_are_refused(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    refused = {
        "keeps directions only; give int8_limit": vector_block(
            VECTORS, dataclasses.replace(UNIT, normalized=False)
        ),
        "column 'embedding' is int8; use the vectors before quantization": Block.from_pydict(
            {"embedding": pa.array([[1, 2, 3]], pa.list_(pa.int8(), 3))},
            pa.schema([quantized(UNIT, "int8").field("embedding")]),
        ),
        "no column 'embedding' among id": Block.from_pydict({"id": [1]}),
        "holds string, not vectors": Block.from_pydict({"embedding": ["x"]}),
        "vectors of 2 and 3 dimensions": Block.from_pydict(
            {"embedding": [[1.0, 2.0], [1.0, 2.0, 3.0]]}
        ),
    }
    for words, block in refused.items():
        with pytest.raises(Exception, match=words), new_pipeline() as p:
            p | beam.Create([block]) | QuantizeVectors("int8")


def test_an_empty_corpus_is_fitted_to_nothing(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        nothing = p | beam.Create([]).with_output_types(Block)
        assert_that(nothing | QuantizeVectors("int8", int8_limit="fit"), equal_to([]))


def test_zeros_are_zeros(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    metadata = dataclasses.replace(UNIT, normalized=False)
    with new_pipeline() as p:
        codes = (
            p
            | beam.Create([vector_block(VECTORS * 0, metadata)])
            | QuantizeVectors("int8", int8_limit="fit")
        )
        assert_that(codes | beam.Map(codes_of), equal_to([[[0, 0, 0]] * 3]))


def test_embedding_and_quantizing_in_one_pipeline(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        rows = (
            p
            | beam.Create([Block.from_pydict({"text": ["abcd", "ab"]})])
            | EmbedText(LengthEncoder())
        )
        codes = rows | QuantizeVectors("int8", int8_limit="fit")  # (1, 4) and (1, 2)
        assert_that(codes | beam.Map(codes_of), equal_to([[[32, 127], [32, 64]]]))


def test_recall_on_real_vectors(encoder: TextEncoder, stsb: list[tuple[str, str, float]]) -> None:
    """Ten nearest of 500 sentences for 100 others, compared by codes on both sides."""
    texts = list(dict.fromkeys(text for a, b, _ in stsb[:400] for text in (a, b)))[:600]
    vectors = encoder.encode(texts)

    def nearest(vectors: np.ndarray) -> np.ndarray:
        return np.argsort(-(vectors[:100] @ vectors[100:].T), axis=1)[:, :10]

    true = nearest(vectors)
    for to, min_recall in {"float16": 0.998, "int8": 0.98, "binary": 0.5}.items():
        found = nearest(dequantize(quantize(vectors, to)))
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true, found, strict=True)])
        assert recall >= min_recall, (to, recall)
    assert (
        vector_fields(pa.schema([encoder.metadata.field("embedding")]))["embedding"].quantization
        == "float32"
    )
