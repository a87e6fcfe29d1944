"""An error names the transform that the user wrote, whatever is wrong and wherever it shows."""

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.transforms.base import MLTransform

import beam_gpte
from beam_gpte import (
    AlignDocuments,
    ApplyHead,
    ApplyPostprocess,
    ApplyVectorMap,
    ChunkText,
    ClusterVectors,
    Decontaminate,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    EmbedImages,
    EmbedSparse,
    EmbedText,
    EmbedTokens,
    FilterPairs,
    FitHead,
    FitPostprocess,
    FitVectorMap,
    IdentifyLanguage,
    MineBitext,
    MineHardNegatives,
    NearestNeighbors,
    QuantizeVectors,
    ReadCorpus,
    ReadVectors,
    RejectDuplicateIds,
    Rerank,
    RerankTokens,
    ScoreBitext,
    ScoreTranslations,
    SemanticOptions,
    SplitSentences,
    VectorMetadata,
    WriteRejects,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from tests import programs
from tests.examples import LengthEncoder
from tests.test_public_names import a_map, fitted, linear_head

NewPipeline = Callable[..., beam.Pipeline]
Tables = list[pa.Table]
Faults = dict[str, Tables]

N = 4
SIDES, QUERIES = ("source", "target"), ("queries", "documents")
VECTORS = pa.list_(pa.float32())


def vectors(shift: float = 0.1, dim: int = 3) -> list:
    return (np.eye(N, dim) + shift).astype(np.float32).tolist()


BASE = {
    "id": pa.array(range(N)),
    "text": pa.array([f"This is sentence {i} of one text." for i in range(N)]),
    "embedding": pa.array(vectors(), pa.list_(pa.float32(), 3)),
    "lang": pa.array(["x"] * N),
}


def table(**columns: Any) -> pa.Table:
    """Four good rows, with other values in the given columns; without those that are None."""
    return pa.table({k: v for k, v in {**BASE, **columns}.items() if v is not None})


def more(**columns: Any) -> pa.Table:
    """Four other rows."""
    texts = [f"Another sentence, number {i}." for i in range(N)]
    others = {"id": list(range(N, 2 * N)), "text": texts, "embedding": column(vectors(0.3))}
    return table(**{**others, **columns})


def column(values: list) -> pa.Array:
    return pa.array(values, pa.list_(pa.float32(), len(values[0])))


def of_model(name: str, rows: pa.Table, **settings: Any) -> pa.Table:
    """The rows, with vectors that say which model made them."""
    place = rows.schema.get_field_index("embedding")
    field = VectorMetadata(name, name, "mean", "", 3, True, **settings).field("embedding")
    values = pa.array(rows["embedding"].to_pylist(), field.type)
    return rows.set_column(place, field, values)


IDS: Faults = {
    "no id column": [table(id=None)],
    "ids of floats": [table(id=[0.5, 1.5, 2.5, 3.5])],
    "ids of two types": [table(), more(id=["a", "b", "c", "d"])],
    "a null id": [table(id=[None, 1, 2, 3])],
    "an id twice": [table(id=[1, 1, 2, 3])],
}
TEXTS: Faults = {
    "no text column": [table(text=None)],
    "texts of integers": [table(text=[1, 2, 3, 4])],
    "a null text": [table(text=[None, "a", "b", "c"])],
}
NO_VECTORS: Faults = {"no vector column": [table(embedding=None)]}
EMBEDDINGS: Faults = {
    **NO_VECTORS,
    "vectors of integers": [table(embedding=pa.array([[1, 2, 3]] * N))],
    "a null vector": [table(embedding=pa.array([None, *[[1.0, 2, 3]] * 3], VECTORS))],
    "a vector with NaN": [table(embedding=pa.array([[1.0, np.nan, 0], *[[1.0, 2, 3]] * 3]))],
    "vectors of two lengths": [table(embedding=pa.array([[1.0], *[[1.0, 2]] * 3], VECTORS))],
    "codes": [of_model("m", table(embedding=[[1, 2, 3]] * N), quantization="int8")],
}
BAD_VECTOR = ("a null vector", "a vector with NaN")
SAME: Faults = {
    "two lengths in two tables": [table(), more(embedding=column(vectors(0.3, 2)))],
    "two models": [of_model("a", table()), of_model("b", more())],
}
ZERO: Faults = {"a zero vector": [table(embedding=pa.array([[0.0, 0], *[[1.0, 2]] * 3]))]}
SCOPES: Faults = {"no scope column": [table(lang=None)]}
ORDERS: Faults = {
    "no order column": [table()],
    "an order of lists": [table(stars=[[1]] * N)],
    "numbers and words in one table": [table(stars=["1", "2", "many", "3"])],
}
TAKEN: Faults = {"a column that is added": [table(score=[1.0] * N)]}
NOT_LABELED: Faults = {"one label": [table()], "labels of floats": [table(lang=[0.5] * N)]}
TAKEN_BY_HEAD: Faults = {"a column that is added": [table(prediction=[1.0] * N)]}
GOOD: Faults = {"nothing but the settings": [table()]}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One bad input of one transform.

    Attributes:
      transform: that the user writes.
      what: is wrong.
      inputs: tables, or tables by name.
      steps: the names that the user wrote.
    """

    transform: Any
    what: str
    inputs: Tables | dict[str, Tables]
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'+'.join(self.steps)}-{self.what}".replace(" ", "_")


def of(transform: Any, *kinds: Faults, drop: tuple[str, ...] = ()) -> list[Fault]:
    steps: tuple[str, ...] = (type(transform).__name__,)
    if isinstance(transform, Deduplicate):
        steps += tuple(type(step).__name__ for step in transform.steps)
    faults = [(what, tables) for kind in kinds for what, tables in kind.items()]
    return [Fault(transform, what, tables, steps) for what, tables in faults if what not in drop]


def of_sides(
    transform: Any,
    names: tuple[str, str],
    pairs: dict[str, Tables],
    *kinds: Faults,
    drop: tuple[str, ...] = (),
) -> list[Fault]:
    """Each fault on one side, in turn."""
    good = dict(zip(names, ([table()], [more(id=BASE["id"])]), strict=True))
    found = []
    for number, fault in enumerate(of(transform, *kinds, drop=drop)):
        name = names[number % 2]
        inputs = {**good, **pairs, name: fault.inputs}
        found.append(dataclasses.replace(fault, what=f"{name}: {fault.what}", inputs=inputs))
    return found


def of_pairs(transform: Any, names: tuple[str, str], pairs: str, ids: tuple) -> list[Fault]:
    """Pairs that name their rows wrongly."""
    columns: dict[str, Any] = {
        "no id of a row": None,
        "ids of floats": [0.5, 1.5],
        "ids of another type": ["0", "1"],
        "a null id": [None, 1],
        "an id of no row": [77, 1],
    }
    sides = {names[0]: [table()], names[1]: [more(id=BASE["id"])]}
    return [
        Fault(transform, f"{pairs}: {what}", {**sides, pairs: [rows]}, (type(transform).__name__,))
        for what, values in columns.items()
        for rows in [
            pa.table({k: v for k, v in {ids[0]: values, ids[1]: [0, 1]}.items() if v is not None})
        ]
    ]


def as_pairs(*tables: pa.Table) -> Tables:
    """Pairs with texts and vectors on both sides, and the ids of the tables."""
    made = []
    for rows in tables:
        names = [f"{side}_{name}" for side in SIDES for name in ("text", "embedding")]
        columns = {name: rows[name.split("_")[1]] for name in names}
        made.append(
            pa.table({**columns, **{k: rows[k] for k in ("id",) if k in rows.schema.names}})
        )
    return made


ENCODER = LengthEncoder()
PAIRS = {"pairs": [pa.table({"source_id": [0, 1], "target_id": [0, 1]})]}
NAMED = pa.table({"query_id": [0, 1], "document_id": [0, 1]})
WITHOUT_VECTORS = {
    what: [rows.drop(["embedding"]) for rows in tables] for what, tables in TEXTS.items()
}

CASES = [
    *of(DeduplicateExact(scope="lang"), IDS, TEXTS, SCOPES, TAKEN),
    *of(DeduplicateExact(keep="stars desc"), ORDERS),
    *of(DeduplicateExact(key_columns=("stars",)), {"no key column": [table()]}),
    *of(DeduplicateLexical(scope="lang"), IDS, TEXTS, SCOPES),
    *of(DeduplicateLexical(keep="stars desc"), ORDERS),
    *of(DeduplicateSemantic(), IDS, EMBEDDINGS, SAME, ZERO),
    *of(DeduplicateSemantic(keep="stars desc", mode="recall=0.99"), ORDERS, SAME),
    *of(DeduplicateSemantic(model=ENCODER), WITHOUT_VECTORS),
    *of(DeduplicateSemantic(model="some/model"), NO_VECTORS),
    *of(DeduplicateSemantic(options=SemanticOptions(saved_index=b"no")), GOOD),
    *of(Deduplicate((DeduplicateExact(), DeduplicateSemantic())), IDS, TEXTS, EMBEDDINGS, SAME),
    *of(Deduplicate((DeduplicateLexical(), DeduplicateExact(keep="stars desc"))), ORDERS, TAKEN),
    *of(ClusterVectors(2), IDS, EMBEDDINGS, SAME, ZERO, drop=("an id twice",)),
    *of(ClusterVectors(2, sample=2, model=ENCODER), WITHOUT_VECTORS),
    *of(EmbedText(ENCODER, embedding_column="vector"), TEXTS),
    *of(EmbedText(ENCODER, embedding_column="vector"), {"a null id": IDS["a null id"]}),
    *of(EmbedText("some/model"), NO_VECTORS),
    *of(EmbedImages("some/model"), GOOD),
    *of(EmbedImages("some/model", "text", embedding_column="vector"), GOOD),
    *of(EmbedSparse("some/model"), GOOD),
    *of(ChunkText("sentences", 40), TEXTS, {"a null id": IDS["a null id"]}),
    *of(SplitSentences("en"), TEXTS),
    *of(IdentifyLanguage(), TEXTS, drop=("a null text",)),
    *of(RejectDuplicateIds(), IDS),
    *of(QuantizeVectors("int8"), EMBEDDINGS),
    *of(QuantizeVectors("int8", int8_limit="fit"), EMBEDDINGS),
    *of(FitHead("lang"), NOT_LABELED, EMBEDDINGS, SAME, drop=BAD_VECTOR),
    *of(FitHead("id", "regression"), {"no id column": IDS["no id column"]}, SAME),
    *of(FitHead("lang", model=ENCODER), {"no label column": SCOPES["no scope column"]}),
    *of(ApplyHead(linear_head()), EMBEDDINGS, TAKEN_BY_HEAD),
    *of(ApplyVectorMap(a_map()), EMBEDDINGS),
    *of_sides(FitVectorMap(), ("source", "target"), {}, IDS, EMBEDDINGS, SAME, drop=BAD_VECTOR),
    *of(FitPostprocess("center"), EMBEDDINGS, SAME, drop=(*BAD_VECTOR, "two models")),
    *of(FitPostprocess("center", group_column="g"), GOOD),
    *of(FitPostprocess("whiten", 9), GOOD),
    *of(ApplyPostprocess(fitted()), EMBEDDINGS, SAME, drop=("two models",)),
    *of(ApplyPostprocess(fitted(), group_column="lang"), GOOD),
    *of(Rerank("some/model"), GOOD),
    *of(EmbedTokens("some/model"), {"a null id": IDS["a null id"]}),
    *of(RerankTokens("text", "lang"), GOOD),
    *of(ScoreTranslations("some/model"), GOOD),
    *of(ScoreTranslations("some/model", "text", "lang"), GOOD),
    *of(Rerank("some/model", "text", "lang"), GOOD),
    *of_sides(MineBitext(scope="lang"), SIDES, {}, IDS, TEXTS, EMBEDDINGS, SAME, ZERO, SCOPES),
    *of_sides(MineBitext(threshold="posterior"), SIDES, {}, GOOD, SAME),
    *of_sides(ScoreBitext(), SIDES, PAIRS, IDS, EMBEDDINGS, SAME),
    *of_pairs(ScoreBitext(), SIDES, "pairs", ("source_id", "target_id")),
    *of(ScoreBitext(), {what: as_pairs(*tables) for what, tables in IDS.items()}, GOOD),
    *of_sides(NearestNeighbors(), QUERIES, {}, IDS, EMBEDDINGS, SAME, ZERO),
    *of_sides(
        Decontaminate(benchmark_column="lang", scope="lang"),
        ("corpus", "benchmarks"),
        {},
        {**IDS, **TEXTS, "no scope column": SCOPES["no scope column"]},
        drop=("an id twice",),
    ),
    *of_sides(MineHardNegatives(), QUERIES, {"positives": [NAMED]}, IDS, TEXTS, EMBEDDINGS, SAME),
    *of_pairs(MineHardNegatives(), QUERIES, "positives", ("query_id", "document_id")),
    *of_sides(FilterPairs(), QUERIES, {"pairs": [NAMED]}, IDS, EMBEDDINGS, SAME),
    *of_pairs(FilterPairs(), QUERIES, "pairs", ("query_id", "document_id")),
    *of_sides(
        AlignDocuments("lang", ("id",)),
        SIDES,
        {},
        {**IDS, **TEXTS, **EMBEDDINGS, **SAME, "no document column": SCOPES["no scope column"]},
        drop=("an id twice",),
    ),
]


def message(run: Callable[[], Any]) -> str:
    """Return the first line of the error that ends a run."""
    try:
        run()
    except Exception as error:
        return next(line for line in str(error).splitlines() if line)
    raise AssertionError("no error")


def applied(fault: Fault, pipeline: beam.Pipeline) -> None:
    inputs: Any
    if isinstance(fault.inputs, dict):
        inputs = {name: pipeline | name >> beam.Create(fault.inputs[name]) for name in fault.inputs}
    else:
        inputs = pipeline | beam.Create(fault.inputs)
    inputs | copy.copy(fault.transform)
    pipeline.run().wait_until_finish()


@pytest.mark.sampled(30)
@pytest.mark.parametrize("fault", CASES, ids=str)
def test_an_error_names_the_transform_that_the_user_wrote(
    new_pipeline: NewPipeline, fault: Fault
) -> None:
    said = message(lambda: applied(fault, new_pipeline()))
    if "with_exception_handling()" in said:
        assert hasattr(fault.transform, "with_exception_handling")
    names = "|".join(fault.steps)
    inputs = "|".join(fault.inputs) if isinstance(fault.inputs, dict) else ""
    assert re.match(rf"(InputError: )?({names})( ({inputs}))?: ", said), said


def read_and_fail(read: Any) -> str:
    def run() -> None:
        with beam.Pipeline(runner="FnApiRunner") as p:
            p | read

    return message(run)


def write_and_fail(write: Any, *tables: pa.Table) -> str:
    def run() -> None:
        with beam.Pipeline(runner="FnApiRunner") as p:
            p | beam.Create(tables) | write

    return message(run)


def test_sources_and_sinks_name_themselves(tmp_path: Path) -> None:
    for number, kind in enumerate((pa.int64(), pa.list_(pa.int64()))):
        values = pa.array([1] * N if number == 0 else [[1]] * N, kind)
        pq.write_table(table(stars=values), tmp_path / f"{number}.parquet")
    read = str(tmp_path / "*.parquet")
    assert read_and_fail(ReadCorpus(read)).startswith("ReadCorpus: ")
    assert read_and_fail(ReadCorpus(read, text_column="x")).startswith("ReadCorpus: ")
    assert read_and_fail(ReadCorpus(str(tmp_path / "none*"))).startswith("ReadCorpus: ")
    assert read_and_fail(ReadVectors(read)).startswith("ReadVectors: ")
    assert read_and_fail(ReadVectors(str(tmp_path / "no.duckdb"))).startswith("ReadVectors: ")

    to_files, to_table = (
        WriteVectorsToParquet(str(tmp_path / "out"), partition_by="page"),
        WriteVectorsToDuckDB(str(tmp_path / "out.duckdb")),
    )
    mixed = of_model("a", table()), of_model("b", more())
    assert write_and_fail(to_files, table()).startswith("WriteVectorsToParquet: ")
    assert write_and_fail(to_table, *mixed).startswith("WriteVectorsToDuckDB: ")
    assert write_and_fail(to_table, table(id=None)).startswith("WriteVectorsToDuckDB: ")
    to_rejects = WriteRejects(str(tmp_path / "rejects"), max_rejects=1)
    assert write_and_fail(to_rejects, table()).startswith("WriteRejects: ")


def test_a_program_prints_one_line_that_names_the_transform(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.csv"
    pyarrow.csv.write_csv(table(embedding=None, stars=["1", "2", "many", "3"]), corpus)
    output = "--output", tmp_path / "out", "--id_column", "id"
    arguments = ("--input", corpus, *output, "--by", "exact", "--keep", "stars desc")
    done = programs.run("deduplicate_corpus.py", *arguments, expect=2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("deduplicate_corpus.py: DeduplicateExact: column 'stars' has ")


def test_ml_transform_says_what_it_can_do_itself(tmp_path: Path) -> None:
    def run() -> None:
        embed = beam_gpte.GpteTextEmbeddings(ENCODER, columns=["text"])
        with beam.Pipeline(runner="FnApiRunner") as p:
            rows = p | beam.Create([{"text": " "}])
            rows | MLTransform(write_artifact_location=str(tmp_path)).with_transform(embed)

    said = message(run)
    assert "a text is ' '; leave such rows out, or use EmbedText, which can collect them" in said
