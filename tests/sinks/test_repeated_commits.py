"""A commit that an engine repeats with newly staged files writes nothing, and reports the same."""

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.runners.portability.portable_runner import PortableRunner

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Destination, Pane
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB, commit_duckdb
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import JsonLinesWriter, commit_jsonl
from tests.sinks.test_write_duckdb import query
from tests.sinks.test_write_parquet import commit, embedded, ids, parts, stage

ROWS = [embedded(0, 3)]
OTHERWISE = [embedded(0, 1)], [embedded(1, 3)]  # the same rows in other files
RUNS = pytest.mark.parametrize("run", [None, "monday"], ids=["unnamed", "named"])


@RUNS
@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("pane", [WHOLE, Pane("w", 0)], ids=["whole", "pane"])
def test_parquet_files(tmp_path: Path, run: str | None, mode: str, pane: Pane) -> None:
    staged, destination = stage(tmp_path, "parquet", [ROWS], run=run)
    first = commit(staged, destination, pane, mode)
    again, _ = stage(tmp_path, "parquet", list(OTHERWISE), run=run)
    assert commit(again, destination, pane, mode) == first
    assert [file.rows for file in first] == [3]
    assert len(parts(tmp_path)) == 1


@RUNS
@pytest.mark.parametrize("mode", ["upsert", "insert", "replace"])
def test_a_database(tmp_path: Path, run: str | None, mode: str) -> None:
    table = Table(str(tmp_path / "c.duckdb"), "vectors", "id", mode)
    staged, destination = stage(tmp_path, "duckdb-test", [ROWS], run=run)
    first = commit_duckdb(staged, WHOLE, destination, table)
    again, _ = stage(tmp_path, "duckdb-test", list(OTHERWISE), run=run)
    assert commit_duckdb(again, WHOLE, destination, table) == first
    assert [file.rows for file in first] == [3]


def test_rejects_are_too_many_at_every_attempt(tmp_path: Path) -> None:
    rows = Block.from_pydict({"id": ["a", "b"], "reject_reason": pa.array(["x", "x"])})
    destination: Destination | None = None
    for bundles in ([[rows]], [[rows.slice(0, 1)], [rows.slice(1, 1)]]):
        staged, other = stage(tmp_path, "rejects", bundles, writer=JsonLinesWriter)
        destination = destination or other
        with pytest.raises(InputError, match="2 rows rejected, more than max_rejects 1"):
            commit_jsonl(staged, WHOLE, destination, max_rejects=1)


@pytest.mark.parametrize("sink", ["parquet", "duckdb"])
def test_another_launch_of_a_named_run_reports_nothing_since_it_wrote_nothing(
    tmp_path: Path, sink: str
) -> None:
    table = Table(str(tmp_path / "c.duckdb"), "vectors", "id", "insert")
    written = []
    for _ in range(2):
        staged, destination = stage(tmp_path, sink, [ROWS], run="monday")
        if sink == "parquet":
            written.append(commit(staged, destination, mode="append"))
        else:
            written.append(commit_duckdb(staged, WHOLE, destination, table))
    assert [len(files) for files in written] == [1, 0]


def test_a_saved_job_that_is_submitted_twice_is_one_launch(tmp_path: Path) -> None:
    """Its workers pickle their steps again, and each would be a launch of its own."""
    servicer = LocalJobServicer(str(tmp_path / "staged"))
    port = servicer.start_grpc_server(0)
    flags = ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]
    options = PipelineOptions([*flags, "--environment_type=LOOPBACK"])
    pipeline = beam.Pipeline(options=options)
    rows = pipeline | beam.Create(ROWS)
    rows | WriteVectorsToParquet(str(tmp_path / "out"), mode="append")
    rows | WriteVectorsToDuckDB(str(tmp_path / "c.duckdb"), mode="insert")
    saved = PortableRunner.get_proto_pipeline(pipeline, options).SerializeToString()
    for _ in range(2):
        job = beam_runner_api_pb2.Pipeline.FromString(saved)
        assert PortableRunner().run_portable_pipeline(job, options).wait_until_finish() == "DONE"
        assert ids(tmp_path / "out") == ["n0", "n1", "n2"]
        assert query(tmp_path / "c.duckdb", "SELECT count(*) FROM vectors") == [(3,)]
    servicer.stop()
