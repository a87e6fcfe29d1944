"""Test that pyarrow, Polars, DuckDB, pandas, datasets and LanceDB read the same vectors."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from beam_gpte.core.metadata import VectorMetadata, vector_fields
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from tests.sinks.test_write_parquet import write

DIM, ROWS = 24, 50
METADATA = {
    kind: VectorMetadata("minilm", f"f-{kind}", "mean", "", DIM, True, kind)
    for kind in ("float32", "float16", "int8", "binary")
}


def codes(kind: str) -> np.ndarray:
    vectors = np.random.default_rng(7).standard_normal((ROWS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors if kind == "float32" else quantize(vectors, kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two files with four columns of vectors, and one of text with nulls."""
    path = tmp_path_factory.mktemp("vectors")
    fields, arrays = [pa.field("id", pa.int64()), pa.field("text", pa.string())], []
    arrays += [
        pa.array(range(ROWS)),
        pa.array([None if i % 7 == 0 else f"text {i}" for i in range(ROWS)]),
    ]
    for kind, metadata in METADATA.items():
        values = codes(kind)
        fields.append(metadata.field(kind))
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]))
    block = Block(pa.record_batch(arrays, schema=pa.schema(fields)))
    write([block.slice(0, 20), block.slice(20)], WriteVectorsToParquet(str(path), num_shards=2))
    assert len(list(path.glob("*.parquet"))) == 2
    return path


Columns = tuple[list, list, dict[str, np.ndarray]]  # ids, texts, vectors by column


def by_pyarrow(folder: Path) -> Columns:
    table = ds.dataset(folder).to_table()
    assert vector_fields(table.schema) == METADATA
    columns = {
        kind: np.stack(table[kind].combine_chunks().to_numpy(zero_copy_only=False))
        for kind in METADATA
    }
    return table["id"].to_pylist(), table["text"].to_pylist(), columns


def by_polars(folder: Path) -> Columns:
    frame = pl.read_parquet(folder / "*.parquet")
    assert all(isinstance(frame.schema[kind], pl.Array) for kind in METADATA)
    return (
        frame["id"].to_list(),
        frame["text"].to_list(),
        {kind: frame[kind].to_numpy() for kind in METADATA},
    )


def by_duckdb(folder: Path) -> Columns:
    rows = duckdb.sql(
        f"""SELECT id, text, "{'", "'.join(METADATA)}" FROM '{folder}/*.parquet'"""
    ).fetchall()
    similarity = f"array_cosine_similarity(float32::FLOAT[{DIM}], float16::FLOAT[{DIM}])"
    [(cosine,)] = duckdb.sql(f"SELECT max({similarity}) FROM '{folder}/*.parquet'").fetchall()
    assert cosine == pytest.approx(1, abs=1e-4)
    columns = {kind: np.array([row[2 + i] for row in rows]) for i, kind in enumerate(METADATA)}
    return [row[0] for row in rows], [row[1] for row in rows], columns


def by_pandas(folder: Path) -> Columns:
    frame = pd.read_parquet(folder)
    texts = [None if pd.isna(text) else text for text in frame["text"]]
    return frame["id"].tolist(), texts, {kind: np.stack(frame[kind].to_list()) for kind in METADATA}


def by_datasets(folder: Path) -> Columns:
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "parquet",
        data_files=f"{folder}/*.parquet",
        split="train",
        cache_dir=str(folder / ".cache"),
        verification_mode="no_checks",
    )
    assert all(rows.features[kind].length == codes(kind).shape[1] for kind in METADATA)
    plain = rows.with_format("numpy")
    return rows["id"][:], rows["text"][:], {kind: np.stack(plain[kind][:]) for kind in METADATA}


def by_lancedb(folder: Path) -> Columns:
    lancedb = pytest.importorskip("lancedb")
    table = lancedb.connect(folder / ".lance").create_table(
        "vectors", data=ds.dataset(folder).to_table()
    )
    [nearest] = table.search(codes("float32")[31], vector_column_name="float32").limit(1).to_list()
    assert nearest["id"] == 31
    found = table.to_arrow()
    columns = {
        kind: np.stack(found[kind].combine_chunks().to_numpy(zero_copy_only=False))
        for kind in METADATA
    }
    return found["id"].to_pylist(), found["text"].to_pylist(), columns


@pytest.mark.parametrize(
    "read", [by_pyarrow, by_polars, by_duckdb, by_pandas, by_datasets, by_lancedb]
)
def test_a_reader_finds_the_same_vectors(folder: Path, read: Callable[[Path], Columns]) -> None:
    ids, texts, columns = read(folder)
    order = np.argsort(ids)
    assert [ids[i] for i in order] == list(range(ROWS))
    assert [texts[i] for i in order] == [None if i % 7 == 0 else f"text {i}" for i in range(ROWS)]
    for kind, found in columns.items():
        assert np.array_equal(
            np.asarray(found, np.float64)[order], np.asarray(codes(kind), np.float64)
        ), kind


def test_the_metadata_is_in_the_file_for_readers_that_drop_column_metadata(folder: Path) -> None:
    found = duckdb.sql(
        f"SELECT value FROM parquet_kv_metadata('{folder}/*.parquet') WHERE key = 'beam_gpte'"
    ).fetchall()
    assert [json.loads(value) for (value,) in found] == [
        {k: dataclasses.asdict(m) for k, m in METADATA.items()}
    ] * 2
