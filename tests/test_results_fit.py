"""Every output of every transform goes into both sinks, whatever kind of rows came in."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

import beam_gpte as bg
from beam_gpte.dedup.report import report_rows
from tests.examples import WordEncoder

NewPipeline = Callable[..., beam.Pipeline]
Inputs = Callable[..., beam.PCollection]  # of a name, to make a collection

TEXTS = [
    "the cat sat on the mat",
    "the cat sat on the mat",
    "a dog ran across a field",
    "a dog ran across the field",
    "stocks fell on Monday",
    "",  # a bad row: it has neither an id nor a text nor a vector
]
NUMBERS = range(len(TEXTS))
ID_TYPES = (pa.int32(), pa.int64(), pa.string())
NAMES_OF_IDS = {
    *("representative", "duplicate_of", "cluster_id", "first_id", "second_id"),
    *("source_id", "target_id", "parent_id"),
    *("query_id", "document_id", "positive_id", "negative_id"),
}


def rows(kind: pa.DataType, ids: range = NUMBERS, shift: float = 0.0) -> pa.Table:
    vectors = WordEncoder().encode(TEXTS)
    vectors[:-1] += np.float32(shift)
    named: list = [str(i) if kind == pa.string() else i for i in ids]
    return pa.table(
        {
            "id": pa.array([*named[:-1], None], kind),
            "text": TEXTS,
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), 8)),
            "page": ["p"] * len(TEXTS),
            "place": list(range(len(TEXTS))),
        }
    )


def table_of(name: str, kind: pa.DataType) -> pa.Table:
    """Make the rows of an input: pairs of ids, a reference, or the rows of a side."""
    if name == "reference":
        return rows(kind, range(10, 10 + len(TEXTS))).slice(4, 1)
    if name == "bitext":
        return pa.table(dict.fromkeys(("source_id", "target_id"), rows(kind)["id"][:5]))
    if name in ("pairs", "positives"):
        ids = rows(kind)["id"]
        return pa.table({"query_id": ids[:5], "document_id": ids[:5].take([0, 1, 2, 4, 3])})
    if name == "benchmarks":
        return rows(kind).slice(0, 2)
    return rows(kind, shift=0.05 if name in ("target", "documents") else 0.0)


KINDS: dict[str, Callable[[pa.Table], list[Any]]] = {
    "mappings": lambda table: table.to_pylist(),
    "Beam Rows": lambda table: [beam.Row(**row) for row in table.to_pylist()],
    "tables": lambda table: [table],
    "batches": lambda table: table.to_batches(),
    "blocks": lambda table: [bg.Block.from_table(table)],
    "strings": lambda table: table["text"].to_pylist(),
}


def mined(transform: Any, *names: str) -> Callable[[Inputs], Any]:
    def apply(given: Inputs) -> Any:
        inputs = {name.split()[0]: given(name.split()[-1]) for name in names}
        return inputs | dataclasses.replace(transform).with_exception_handling()

    return apply


def of_rows(transform: Any) -> Callable[[Inputs], Any]:
    return lambda given: given("rows") | transform.with_exception_handling()


def with_reference(step: Any) -> Callable[[Inputs], Any]:
    def apply(given: Inputs) -> Any:
        reference = dataclasses.replace(step, reference=given("reference"))
        return given("rows") | reference.with_exception_handling()

    return apply


SEMANTIC = bg.DeduplicateSemantic(0.8)
V = bg.Columns(embedding="v")
EMBEDDING = bg.DeduplicateSemantic(0.8, WordEncoder(), columns=V)  # which rows do not have
HEAD = bg.Head("classification", ("a", "b"), ((np.eye(8, 2), np.zeros(2)),), 1.0, 0.0, None, {})
MAP = bg.VectorMap(np.eye(8, dtype=np.float32), *np.zeros((2, 8), np.float32), None, None, {})
LEXICAL = bg.DeduplicateLexical(0.4)
TRANSFORMS: dict[str, Callable[[Inputs], Any]] = {
    "EmbedText": of_rows(bg.EmbedText(WordEncoder(), embedding_column="v")),
    "IdentifyLanguage": of_rows(bg.IdentifyLanguage()),
    "SplitSentences": of_rows(bg.SplitSentences("en")),
    "ChunkText": of_rows(bg.ChunkText("sentences", 40)),
    "QuantizeVectors": of_rows(bg.QuantizeVectors("int8")),
    "ClusterVectors": of_rows(bg.ClusterVectors(2, sample=3)),
    "ApplyHead": of_rows(bg.ApplyHead(HEAD, score_column="sure", probabilities_column="all")),
    "ApplyVectorMap": of_rows(bg.ApplyVectorMap(MAP)),
    "RejectDuplicateIds": of_rows(bg.RejectDuplicateIds()),
    "DeduplicateExact": of_rows(bg.DeduplicateExact()),
    "DeduplicateLexical": of_rows(LEXICAL),
    "DeduplicateLexical containment": of_rows(bg.DeduplicateLexical(0.6, similarity="containment")),
    "DeduplicateSemantic": of_rows(SEMANTIC),
    "Deduplicate": of_rows(bg.Deduplicate((bg.DeduplicateExact(), SEMANTIC), annotate=True)),
    "DeduplicateSemantic model": of_rows(EMBEDDING),
    "Deduplicate model": of_rows(bg.Deduplicate((bg.DeduplicateExact(columns=V), EMBEDDING))),
    "DeduplicateExact reference": with_reference(bg.DeduplicateExact()),
    "DeduplicateLexical reference": with_reference(LEXICAL),
    "DeduplicateSemantic reference": with_reference(SEMANTIC),
    "SignTexts": of_rows(bg.SignTexts()),
    "CutRepeatedSpans": of_rows(bg.CutRepeatedSpans()),
    "DeduplicateStream": of_rows(bg.DeduplicateStream(0.6)),
    "MineBitext": mined(bg.MineBitext(threshold=-2.0), "source", "target"),
    "ScoreBitext": mined(bg.ScoreBitext(), "pairs bitext", "source", "target"),
    "PairDocuments": mined(bg.PairDocuments("page"), "source", "target"),
    "AlignDocuments": mined(bg.AlignDocuments("page", ("place",)), "source", "target"),
    "NearestNeighbors": mined(bg.NearestNeighbors(k=2), "queries", "documents"),
    "MineHardNegatives": mined(bg.MineHardNegatives(), "queries", "documents", "positives"),
    "FilterPairs": mined(bg.FilterPairs(k=1), "queries", "documents", "pairs"),
    "Decontaminate": mined(
        bg.Decontaminate(WordEncoder(), 4, benchmark_column="page"), "corpus", "benchmarks"
    ),
}
OF_TEXTS = ("EmbedText", "IdentifyLanguage", "SplitSentences", "ChunkText")
EMPTY = {
    ("QuantizeVectors", "rejects"),  # a zero vector is one that it takes
    ("IdentifyLanguage", "rejects"),
    ("ApplyHead", "rejects"),
}
CASES = [
    (name, kind) for name in TRANSFORMS for kind in KINDS if kind != "strings" or name in OF_TEXTS
]


def inputs_of(p: beam.Pipeline, kind: str, id_type: pa.DataType) -> Inputs:
    """Give a function that makes a collection of a name."""
    return lambda name: p | name >> beam.Create(KINDS[kind](table_of(name, id_type)))


def outputs_of(result: Any) -> dict[str, beam.PCollection]:
    if isinstance(result, beam.PCollection):
        return {"good": result}
    names = getattr(result, "_fields", ("good", "rejects"))
    found = dict(zip(names, result, strict=True))
    found.pop("saved_index", None)  # bytes
    if {"report", "kept", "pairs"} <= set(found):  # of a deduplication
        found["report_rows"] = found["report"] | "Rows" >> beam.FlatMap(report_rows)
    return {name: part for name, part in found.items() if part is not None}


WITHOUT_IDS = (  # rows of their own, or rows with a null id
    *("IdentifyLanguage", "MineBitext", "ScoreBitext", "AlignDocuments", "MineHardNegatives"),
    *("FilterPairs", "PairDocuments", "QuantizeVectors", "ApplyHead", "NearestNeighbors"),
    "ApplyVectorMap",
)


@pytest.mark.sampled(16)
@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: str(value))
def test_every_output_goes_into_both_sinks(
    new_pipeline: NewPipeline, tmp_path: Path, name: str, kind: str
) -> None:
    number = [*TRANSFORMS].index(name) + [*KINDS].index(kind)
    id_type = ID_TYPES[number % len(ID_TYPES)]
    has_ids = kind != "strings" and name not in WITHOUT_IDS
    with new_pipeline() as p:
        outputs = outputs_of(TRANSFORMS[name](inputs_of(p, kind, id_type)))
        for output, part in outputs.items():
            named = ("good", "kept", "removed", "annotated", "emptied", "rows", "sample")
            with_ids = has_ids and output in named
            settings: dict[str, Any] = {} if with_ids else {"id_column": None, "mode": "insert"}
            database = str(tmp_path / f"{output}.duckdb")
            _ = part | f"{output} P" >> bg.WriteVectorsToParquet(str(tmp_path / output))
            _ = part | f"{output} D" >> bg.WriteVectorsToDuckDB(database, **settings)
            if not output.startswith("report"):
                assert_that(part, all_are(CAME_AS[kind]), f"{output} K")
    for output in outputs:
        if (name, output) in EMPTY:
            continue
        paths = sorted((tmp_path / output).glob("*.parquet"))
        table = pa.concat_tables(map(pq.read_table, paths))
        names, stored = stored_in(tmp_path / f"{output}.duckdb")
        assert len(stored) == table.num_rows > 0
        assert names == table.column_names
        expected = expected_type(id_type, kind)
        for column in NAMES_OF_IDS.intersection(names if kind != "strings" else ()):
            assert table.schema.field(column).type == expected, column


CAME_AS: dict[str, Any] = {
    "mappings": dict,
    "Beam Rows": beam.Row,
    "tables": pa.Table,
    "batches": pa.RecordBatch,
    "blocks": bg.Block,
    "strings": dict,
}


def all_are(expected: type) -> Callable[[list], None]:
    def check(found: list) -> None:
        if expected is beam.Row:  # one that has crossed a shuffle is a tuple with its fields
            assert all(isinstance(row, beam.Row) or hasattr(row, "_fields") for row in found)
        else:
            assert all(isinstance(element, expected) for element in found)

    return check


def stored_in(path: Path) -> tuple[list[str], list]:
    with duckdb.connect(str(path)) as connection:
        found = connection.sql("FROM vectors")
        return found.columns, found.fetchall()


def expected_type(id_type: pa.DataType, kind: str) -> pa.DataType:
    """The type of what names an id: Python has one type of integers."""
    if kind in ("mappings", "Beam Rows") and pa.types.is_integer(id_type):
        return pa.int64()
    return id_type
