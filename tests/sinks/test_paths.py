"""A path that is too long for a file system is reported in one line, by every sink and source."""

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest

from beam_gpte import (
    Block,
    InputError,
    ReadCorpus,
    ReadVectors,
    WriteRejects,
    WriteSummary,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.files.folders import MAX_NAME, MAX_PATH

SINKS = [WriteVectorsToParquet, WriteVectorsToDuckDB, WriteRejects, WriteSummary]
LONG = {"name": "a" * 300, "path": "/".join(["b" * 100] * 50), "bytes": "字" * 100}


def write(p: beam.Pipeline, sink: Callable[[str], beam.PTransform], path: str) -> None:
    block = Block.from_pydict({"id": ["a"], "embedding": [[1.0, 2.0]]})
    rows = p | beam.Create([block]).with_output_types(Block)
    _ = (rows if sink is not WriteSummary else {"rows": rows}) | sink(path)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
def test_a_sink_refuses_it_while_the_pipeline_is_built(
    sink: Callable[[str], beam.PTransform], long: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{sink.__name__}: the output's path is too long"):
        write(beam.Pipeline("FnApiRunner"), sink, f"{tmp_path}/{long}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sink", SINKS)
def test_a_sink_takes_what_is_not_too_long(
    new_pipeline: Callable[..., beam.Pipeline],
    sink: Callable[[str], beam.PTransform],
    tmp_path: Path,
) -> None:
    deep = f"{tmp_path}/" + "c" * MAX_NAME
    while len(deep) + MAX_NAME < MAX_PATH:
        deep += "/" + "c" * MAX_NAME
    with new_pipeline() as p:
        write(p, sink, deep)
    assert Path(deep).exists()


@pytest.mark.parametrize("source", [ReadCorpus, ReadVectors])
@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
@pytest.mark.parametrize("end", ["", "/", "/*.jsonl", "/*.parquet"])
def test_a_source_reports_it(
    source: Callable[[str], beam.PTransform], long: str, end: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught, beam.Pipeline("FnApiRunner") as p:
        _ = p | source(f"{tmp_path}/{long}{end}")
    assert len(str(caught.value)) < 2000
