"""On every engine: a mistake ends the job at once, and what is run twice is written once."""

import time
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner

from beam_gpte import WriteVectorsToDuckDB, WriteVectorsToParquet
from tests.engines.engine import Engine
from tests.engines.flink import Flink
from tests.engines.programs import run_program
from tests.engines.spark import Spark
from tests.sinks.test_write_parquet import embedded

ROWS = 5
SPARK_SECONDS = 10


def test_a_mistake_ends_the_job_once_in_one_line(
    engine: Engine, texts: Path, tmp_path: Path, minilm: str
) -> None:
    flags = [*engine.flags(), "--max_rejects=0"]
    done, _ = run_program("embed", texts, tmp_path, minilm, flags)
    assert done.returncode == 3, done.stderr + engine.logs()
    assert done.stderr.splitlines()[-1].startswith(
        "embed_corpus.py: WriteRejects: 3 rows rejected, more than max_rejects 0; see"
    )
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["rejects"]
    assert {path.suffix for path in (tmp_path / "out").glob(".*/*")} <= {".vectors"}
    assert {path.suffix for path in (tmp_path / "out" / "rejects").iterdir()} == {".jsonl"}
    if isinstance(engine, Flink):  # ended before its ten tries are used up
        jobs = engine.ask("jobs/overview")["jobs"]
        (tried_again,) = [job for job in jobs if job["state"] in ("RUNNING", "RESTARTING")]
        engine.cancel(tried_again["jid"])
    if isinstance(engine, Spark):  # it has one context, which a canceled job keeps a little longer
        time.sleep(SPARK_SECONDS)


def insert(pipeline: beam.Pipeline, folder: Path, run: str | None) -> None:
    rows = pipeline | beam.Create([embedded(0, 3), embedded(3, ROWS)])
    rows | WriteVectorsToParquet(str(folder / "out"), mode="append", run=run)
    rows | WriteVectorsToDuckDB(str(folder / "vectors.duckdb"), mode="insert", run=run)


def written(folder: Path) -> list[int]:
    with duckdb.connect(str(folder / "vectors.duckdb"), read_only=True) as database:
        [(loaded,)] = database.execute("SELECT count(*) FROM vectors").fetchall()
    files = (folder / "out").glob("*.parquet")
    return [sum(pq.read_metadata(path).num_rows for path in files), loaded]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("run", [None, "monday"], ids=["unnamed", "named"])
def test_a_saved_job_that_is_submitted_twice_writes_its_rows_once(
    engine: Engine, tmp_path: Path, run: str | None
) -> None:
    options = PipelineOptions(engine.flags())
    pipeline = beam.Pipeline(options=options)
    insert(pipeline, tmp_path, run)
    saved = PortableRunner.get_proto_pipeline(pipeline, options).SerializeToString()
    for _ in range(2):
        job = beam_runner_api_pb2.Pipeline.FromString(saved)
        result = PortableRunner().run_portable_pipeline(job, PipelineOptions(engine.flags()))
        assert result.wait_until_finish() == "DONE", engine.logs()
        assert written(tmp_path) == [ROWS, ROWS]


def test_a_pipeline_that_is_run_twice_writes_the_rows_of_a_named_run_once(
    engine: Engine, tmp_path: Path
) -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(engine.flags()))
    insert(pipeline, tmp_path, "monday")
    for _ in range(2):
        assert pipeline.run().wait_until_finish() == "DONE", engine.logs()
        assert written(tmp_path) == [ROWS, ROWS]
