"""Vectors that do not fit their destination are refused before a text is embedded."""

import contextlib
from pathlib import Path

import apache_beam as beam
import pytest

from beam_gpte import (
    Block,
    EmbedText,
    EncoderConfig,
    InputError,
    QuantizeVectors,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.destinations import check_destination, int8_limit

KINDS = ("float32", "float16", "int8", "binary")


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """A folder of a DuckDB file per kind, each with one vector of 16 dimensions."""
    folder = tmp_path_factory.mktemp("databases")
    with beam.Pipeline("FnApiRunner") as p:
        rows = p | beam.Create([Block.from_pydict({"id": ["a"], "text": ["one text"]})])
        vectors = rows | EmbedText(EncoderConfig(minilm, truncate_dim=16))
        for kind in KINDS:
            codes = vectors
            if kind != "float32":
                codes = vectors | kind >> QuantizeVectors(kind, "fit" if kind == "int8" else None)
            codes | f"Write_{kind}" >> WriteVectorsToDuckDB(f"{folder}/{kind}.duckdb")
        own = vectors | "Own" >> QuantizeVectors("int8")
        own | "WriteOwn" >> WriteVectorsToParquet(f"{folder}/own")
    return folder


@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
def test_vectors_may_join_those_of_the_same_quantization_alone(
    databases: Path, minilm: str, here: str, there: str
) -> None:
    config, to = EncoderConfig(minilm, truncate_dim=16), None if here == "float32" else here
    place = f"{there}.duckdb, table 'vectors': .*quantization '{here}' and '{there}'"
    fits = contextlib.nullcontext()
    with fits if here == there else pytest.raises(InputError, match=place):
        database = str(databases / f"{there}.duckdb")
        assert check_destination(config, "embedding", database, quantize=to) is not None


@pytest.mark.parametrize("kind", KINDS[1:])
def test_quantized_vectors_of_another_model_are_refused(
    databases: Path, minilm: str, kind: str
) -> None:
    config, database = EncoderConfig(minilm, truncate_dim=8), str(databases / f"{kind}.duckdb")
    with pytest.raises(InputError, match="vectors of 8 and 16 dimensions"):
        check_destination(config, "embedding", database, quantize=kind)
    config = EncoderConfig(minilm, truncate_dim=16, prompt="query: ")
    with pytest.raises(InputError, match=r"\(prompt 'query: ' and ''\)"):
        check_destination(config, "embedding", database, quantize=kind)


def test_int8_has_the_limit_of_the_table_then_of_the_previous_run_of_this_model(
    databases: Path, minilm: str
) -> None:
    config, own = EncoderConfig(minilm, truncate_dim=16), str(databases / "own")
    places = [str(databases / f"{kind}.duckdb") for kind in KINDS]
    fitted, model = int8_limit(config, "embedding", str(databases / "int8.duckdb"), own)
    assert isinstance(fitted, float)
    assert model is not None
    assert int8_limit(config, "embedding", None, own)[0] is None
    assert int8_limit(config, "embedding", str(databases / "new.duckdb"), own)[0] is None
    assert int8_limit(config, "embedding", places[1], None) == ("fit", None)
    other = EncoderConfig(minilm, truncate_dim=16, prompt="query: ")
    assert int8_limit(other, "embedding", None, own)[0] == "fit"
    # elsewhere the model is not loaded, and its name decides
    assert int8_limit(config, "embedding", None, own, local=False) == (None, None)
    named = EncoderConfig("another/model")
    assert int8_limit(named, "embedding", None, own, local=False) == ("fit", None)
