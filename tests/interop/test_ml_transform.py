"""The interfaces of Beam's ml package: MLTransform, RAG sinks, RunInference with model updates.

Where Beam's own tests of such classes assert something (`huggingface_test.py` of
`ml/transforms/embeddings` and `ml/rag/embeddings`, `base_test.py` of `ml/transforms` and
`ml/rag/ingestion`), the same is asserted of ours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import (
    KeyedModelHandler,
    ModelHandler,
    ModelMetadata,
    RunInference,
)
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteTransform
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding
from apache_beam.ml.transforms import base
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    DuckDBVectorWriterConfig,
    EmbedText,
    EncoderConfig,
    GpteTextEmbeddings,
    InputError,
    ModelRuntime,
    ParquetVectorWriterConfig,
    Rerank,
    TextEmbeddingModelHandler,
    TextEncoder,
)
from tests.examples import LengthEncoder, Line

ITEMS = [
    EmbeddableItem(
        content=Content(text="This is a test sentence."),
        id="1",
        metadata={"source": "test.txt"},
        index=3,
    ),
    EmbeddableItem(
        content=Content(text="Another example."), id="2", metadata={"source": "test.txt"}
    ),
]


def test_columns_become_vectors_and_an_artifact_repeats_it(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    rows = [
        {"feature_1": "That is a happy person", "n": 1},
        {"feature_1": "That is a very happy person", "n": 2},
    ]
    expected = encoder.encode([row["feature_1"] for row in rows])
    manager = GpteTextEmbeddings(minilm, columns=["feature_1"])
    for artifacts in (
        {"write_artifact_location": str(tmp_path / "a")},
        {"read_artifact_location": str(tmp_path / "a")},
    ):
        with new_pipeline() as p:
            transform = MLTransform(**artifacts)
            if "write_artifact_location" in artifacts:
                transform = transform.with_transform(manager)
            embedded = p | beam.Create(rows) | transform
            found = embedded | beam.Map(
                lambda row: (row["n"], round(max(row["feature_1"]), 2), len(row["feature_1"]))
            )
            assert_that(
                found, equal_to([(i + 1, round(float(max(expected[i])), 2), 384) for i in range(2)])
            )


def test_items_are_filled_and_keep_the_rest(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    expected = encoder.encode([item.content.text for item in ITEMS]).tolist()
    with new_pipeline() as p:
        transform = MLTransform(write_artifact_location=str(tmp_path / "a")).with_transform(
            GpteTextEmbeddings(minilm)
        )
        items = p | beam.Create(ITEMS) | transform
        found = items | beam.Map(
            lambda item: (
                item.id,
                item.index,
                item.metadata,
                item.content.text,
                item.dense_embedding,
            )
        )
        assert_that(
            found,
            equal_to(
                [
                    (x.id, x.index, x.metadata, x.content.text, v)
                    for x, v in zip(ITEMS, expected, strict=True)
                ]
            ),
        )
    assert ITEMS[0].embedding is None  # the input is unchanged


def test_several_columns_of_dicts_and_rows(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    rows = [
        {"x": "Hello world", "y": "Beam", "z": "unchanged"},
        {"x": "a", "y": "bc", "z": "unchanged"},
    ]
    manager = GpteTextEmbeddings(LengthEncoder(), columns=["x", "y"], max_batch_size=1)
    with new_pipeline() as p:
        dicts = (
            p
            | beam.Create(rows)
            | MLTransform(write_artifact_location=str(tmp_path / "a")).with_transform(manager)
        )
        expected = [
            {"x": [1.0, 11.0], "y": [1.0, 4.0], "z": "unchanged"},
            {"x": [1.0, 1.0], "y": [1.0, 2.0], "z": "unchanged"},
        ]
        assert_that(dicts, equal_to(expected), "dicts")
        lines = p | "Lines" >> beam.Create([Line(7, "abc")])
        text_manager = GpteTextEmbeddings(LengthEncoder(), columns=["text"])
        made = lines | "ML" >> MLTransform(
            write_artifact_location=str(tmp_path / "b")
        ).with_transform(text_manager)
        assert_that(
            made | beam.Map(lambda row: row.as_dict()),
            equal_to([{"id": 7, "text": [1.0, 3.0]}]),
            "rows",
        )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1}], "Embeddings can only be generated"),
        ([{"x": ["Hello world", "Apache Beam"]}], "Embeddings can only be generated"),
        # Beam's own check reads only the first row of a batch
        ([{"x": "fine"}, {"x": 1}], "1 is not a text"),
        ([{"x": "fine"}, {"x": " "}], "a text is ' '"),
        ([{"y": "no x"}], "no column 'x' among y"),
        (
            [{"x": "fine"}, {"x": "fine", "__gpte_row": b""}],
            "GpteTextEmbeddings: a column is named '__gpte_row'",
        ),
    ],
)
def test_a_row_without_a_text_fails_with_what_it_has(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, rows: list[dict], message: str
) -> None:
    manager = GpteTextEmbeddings(LengthEncoder(), columns=["x"])
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        (
            p
            | beam.Create(rows)
            | MLTransform(write_artifact_location=str(tmp_path / "a")).with_transform(manager)
        )


def test_bad_batches_of_items_are_collected(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    items = [*ITEMS, EmbeddableItem(content=Content(), id="3")]
    manager = GpteTextEmbeddings(LengthEncoder(), max_batch_size=1)
    with new_pipeline() as p:
        transform = MLTransform(write_artifact_location=str(tmp_path / "a")).with_transform(manager)
        good, bad = p | beam.Create(items) | transform.with_exception_handling()
        assert_that(
            good | beam.Map(lambda item: item.dense_embedding),
            equal_to([[1.0, 24.0], [1.0, 16.0]]),
            "good",
        )
        why = bad | beam.Map(
            lambda row: ([item.id for item in row.element], "Expected text content" in row.msg)
        )
        assert_that(why, equal_to([(["3"], True)]), "bad")


def test_metadata_of_items_with_a_hidden_name_are_refused(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    items = [ITEMS[0], EmbeddableItem(Content(text="a"), id="3", metadata={"__gpte_order": 1})]
    manager = GpteTextEmbeddings(LengthEncoder())
    transform = MLTransform(write_artifact_location=str(tmp_path / "a")).with_transform(manager)
    refusal = "GpteTextEmbeddings: a column is named '__gpte_order'"
    with pytest.raises(InputError, match=refusal), new_pipeline() as p:
        p | beam.Create(items) | transform


def test_an_artifact_holds_what_those_of_beam_hold(tmp_path: Path) -> None:
    managers = [
        GpteTextEmbeddings("m", columns=["x"], runtime=ModelRuntime(threads=2, large_model=True)),
        GpteTextEmbeddings("m", columns=["y", "z"]),
    ]
    mapper = base._MLTransformToPTransformMapper(managers, str(tmp_path / "a"), None)
    loaded = base._MLTransformToPTransformMapper.load_transforms_from_artifact_location
    for made in (mapper.create_and_save_ptransform_list(), loaded(str(tmp_path / "a"))):
        assert [type(transform) for transform in made] == [RunInference, RunInference]
        handlers = [transform._model_handler for transform in made]
        assert all(isinstance(handler, base._TextEmbeddingHandler) for handler in handlers)
        assert [handler.columns for handler in handlers] == [["x"], ["y", "z"]]
        assert [handler.embedding_config.model for handler in handlers] == [
            EncoderConfig("m"),
            EncoderConfig("m"),
        ]
        assert [handler.embedding_config.runtime.threads for handler in handlers] == [2, 1]
        # which Beam's own managers ignore
        assert [handler.share_model_across_processes() for handler in handlers] == [True, False]
        assert handlers[0].batch_elements_kwargs() == {"min_batch_size": 64, "max_batch_size": 256}


def test_wrong_arguments_are_refused_before_anything_runs() -> None:
    for arguments, message in [
        ({"columns": "x"}, "columns is 'x'"),
        ({"columns": []}, r"columns is \[\]"),
        ({"columns": ["__gpte_row"]}, "GpteTextEmbeddings: a column is named '__gpte_row'"),
        ({"min_batch_size": 9, "max_batch_size": 8}, "min_batch_size 9 and max_batch_size 8"),
        ({"max_batch_size": -1}, "use 1 or more"),
        ({"runtime": ModelRuntime(watch_model_pattern="m/*")}, "MLTransform does not watch files"),
    ]:
        with pytest.raises(InputError, match=message):
            GpteTextEmbeddings("m", **arguments)
    for config in (ParquetVectorWriterConfig, DuckDBVectorWriterConfig):
        with pytest.raises(ValueError, match="path is empty"):
            config("")
    with pytest.raises(TypeError):
        VectorDatabaseWriteTransform(None)


def embedded(item: EmbeddableItem, vector: list[float], **changed: Any) -> EmbeddableItem:
    return EmbeddableItem(
        **{**vars(item), "embedding": Embedding(dense_embedding=vector), **changed}
    )


def test_items_are_written_with_all_that_they_hold(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    sparse = Embedding(dense_embedding=[0.3, 0.4], sparse_embedding=([5, 9], [0.5, 0.25]))
    items = [embedded(ITEMS[0], [0.1, 0.2]), embedded(ITEMS[1], [], embedding=sparse)]
    parquet, database = (
        ParquetVectorWriterConfig(f"{tmp_path}/v"),
        DuckDBVectorWriterConfig(f"{tmp_path}/v.duckdb", "chunks"),
    )
    assert VectorDatabaseWriteTransform(parquet).database_config == parquet
    for _ in range(2):  # again changes nothing
        with new_pipeline() as p:
            written = p | beam.Create(items)
            files = written | "Parquet" >> VectorDatabaseWriteTransform(parquet)
            assert_that(files | beam.Map(lambda file: file.rows), equal_to([2]))
            written | "DuckDB" >> VectorDatabaseWriteTransform(database)
    table = pq.read_table(next((tmp_path / "v").glob("*.parquet"))).sort_by("id")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[2]"
    names = ["id", "text", "index", "source", "sparse_indices", "sparse_values"]
    assert [tuple(row.values()) for row in table.select(names).to_pylist()] == [
        ("1", "This is a test sentence.", 3, "test.txt", None, None),
        ("2", "Another example.", 0, "test.txt", [5, 9], [0.5, 0.25]),
    ]
    with duckdb.connect(f"{tmp_path}/v.duckdb", read_only=True) as connection:
        similarity = "array_cosine_similarity(embedding, [0.3, 0.4]::FLOAT[2])"
        nearest = f"SELECT id FROM chunks ORDER BY {similarity} DESC"
        assert connection.execute(nearest).fetchall() == [("2",), ("1",)]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (ITEMS[0], "item '1' has no embedding; embed all items"),
        (
            embedded(ITEMS[0], [1.0], metadata={"text": "other"}),
            "metadata named text, columns of every item; rename it",
        ),
        (
            embedded(EmbeddableItem(content=Content()), [1.0]),
            "has neither text nor image; leave it out",
        ),
    ],
)
def test_an_item_that_would_lose_something_is_refused(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path, item: EmbeddableItem, message: str
) -> None:
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        (
            p
            | beam.Create([item])
            | VectorDatabaseWriteTransform(ParquetVectorWriterConfig(f"{tmp_path}/v"))
        )


def test_items_of_images_are_written_with_these(
    new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    items = [
        EmbeddableItem.from_image("gs://bucket/a.jpg", id="uri"),
        EmbeddableItem.from_image(b"content", id="bytes"),
        EmbeddableItem(Content(text="a cat", image=b"other"), id="both"),
    ]
    with new_pipeline() as p:
        made = p | beam.Create([embedded(item, [0.5, 1.0]) for item in items])
        made | VectorDatabaseWriteTransform(ParquetVectorWriterConfig(f"{tmp_path}/v"))
    table = pq.read_table(next((tmp_path / "v").glob("*.parquet"))).sort_by("id")
    rows = [tuple(row.values()) for row in table.select(["id", "text", "image"]).to_pylist()]
    assert rows == [
        ("both", "a cat", b"other"),
        ("bytes", None, b"content"),
        ("uri", "gs://bucket/a.jpg", None),
    ]


@pytest.mark.parametrize("config", [ParquetVectorWriterConfig, DuckDBVectorWriterConfig])
def test_an_item_with_hidden_metadata_is_not_written(
    config: Any, new_pipeline: Callable[..., beam.Pipeline], tmp_path: Path
) -> None:
    hidden = embedded(ITEMS[1], [1.0], metadata={"__gpte_row": b"", "source": "test.txt"})
    out = tmp_path / "out"
    refusal = "WriteVectorsTo.*: a column is named '__gpte_row'"
    with pytest.raises(InputError, match=refusal), new_pipeline() as p:
        (
            p
            | beam.Create([embedded(ITEMS[0], [1.0]), hidden])
            | VectorDatabaseWriteTransform(config(str(out)))
        )
    assert not out.is_file()
    assert not list(tmp_path.glob("out/*.parquet"))


@pytest.mark.parametrize("keyed", [False, True])
def test_the_folder_of_a_watched_file_becomes_the_model(
    new_pipeline: Callable[..., beam.Pipeline],
    minilm: str,
    encoder: TextEncoder,
    tmp_path: Path,
    keyed: bool,
) -> None:
    """Test the side input that `watch_model_pattern` makes of the newest match.

    The watcher itself needs a streaming runner.
    """
    (tmp_path / "models" / "v2").mkdir(parents=True)
    for part in Path(minilm).iterdir():
        (tmp_path / "models" / "v2" / part.name).symlink_to(part)
    pattern = f"{tmp_path}/models/*/modules.json"
    (newest,) = FileSystems.match([pattern])[0].metadata_list
    expected = encoder.encode(["one"])[0]
    handler: ModelHandler = TextEmbeddingModelHandler("no/such-model")
    handler = KeyedModelHandler(handler) if keyed else handler
    with new_pipeline() as p:
        updates = p | "Newest" >> beam.Create(
            [ModelMetadata(model_id=newest.path, model_name="v2")]
        )
        texts = p | beam.Create([("k", "one")] if keyed else ["one"])
        results = texts | RunInference(handler, model_metadata_pcoll=updates)
        vectors = results | beam.Map(lambda result: (result[1] if keyed else result).inference)
        assert_that(
            vectors | beam.Map(lambda vector: bool(np.abs(vector - expected).max() < 1e-6)),
            equal_to([True]),
        )
    built = new_pipeline() | beam.Create([("k", "one")] if keyed else ["one"])
    assert built | RunInference(handler, watch_model_pattern=pattern)


@pytest.mark.parametrize("transform", [EmbedText, Rerank])
def test_a_runtime_reaches_the_model_of_a_transform(transform: Any) -> None:
    runtime = ModelRuntime(threads=3, large_model=True, watch_model_pattern="/models/*/config.json")
    step = transform("some/model", runtime=runtime)
    handler = step._handler()
    assert (handler._threads, handler.share_model_across_processes()) == (3, True)
    handler.update_model_path("/models/new/config.json")
    updated = handler._model if transform is EmbedText else handler._config
    assert updated.model == "/models/new"
    pipeline = beam.Pipeline()
    pipeline | beam.Create([{"text": "a", "query": "a", "document": "b"}]) | step
    names = [one.unique_name for one in pipeline.to_runner_api().components.transforms.values()]
    assert any("WatchFilePattern" in name for name in names)
    with pytest.raises(InputError, match="a handler does not watch files; give the pattern to"):
        TextEmbeddingModelHandler("m", runtime=runtime)
