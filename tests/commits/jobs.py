"""Run the jobs of a cell, and read what they wrote."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import executor
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.trigger import AccumulationMode
from apache_beam.transforms.window import TimestampedValue

from beam_gpte import Block, InputError, WriteRejects, WriteVectorsToDuckDB, WriteVectorsToParquet
from beam_gpte.sinks import commit
from beam_gpte.sinks.runs.folder_state import current_sets
from beam_gpte.sinks.staging import StageFiles
from tests.commits import cells
from tests.commits.cells import ROWS, TRIGGERS, WHOLE, WINDOWS, Cell

SECONDS_APART = 10
ORDER = (0, 1, 5, 6, 2, 7, 3, 4)  # of arrival in a stream: some are late


class BundleFailsError(RuntimeError):
    """Fail a bundle that has done its work."""


def run_cell(cell: Cell, folder: Path) -> tuple[str, str]:
    """Run the jobs of a cell; give what was refused, "build" or "commit", and the message."""
    # By default the runner waits five seconds, idle, at its end.
    executor._ExecutorService._ExecutorServiceWorker.TIMEOUT = 0.1
    jobs = {cells.SEVERAL: ["ab"], cells.TWO_JOBS: ["a", "b"], cells.RERUN: ["a", "a"]}
    source = folder / "source"
    with _failing(cell.jobs) as failed:
        for job in jobs.get(cell.jobs, ["a"]):
            source.write_text(job[0])
            try:
                pipeline = _build(cell, folder, job)
            except InputError as error:
                return "build", str(error)
            for rows in {cells.TWICE: "aa", cells.TWICE_OTHER: "ab"}.get(cell.jobs, job[:1]):
                source.write_text(rows)
                try:
                    pipeline.run().wait_until_finish()
                except Exception as error:
                    if "InputError" not in f"{type(error).__mro__} {error}":
                        raise
                    return "commit", str(error)
        assert bool(failed) == (cell.jobs in (cells.STAGE_RETRIED, cells.COMMIT_RETRIED))
    return "", ""


def _build(cell: Cell, folder: Path, job: str) -> beam.Pipeline:
    options = ["--allow_unsafe_triggers", *(["--streaming"] if cell.stream else [])]
    retries = cell.jobs in (cells.STAGE_RETRIED, cells.COMMIT_RETRIED)
    runner = "BundleBasedDirectRunner" if cell.stream or retries else "FnApiRunner"
    pipeline = beam.Pipeline(runner, options=PipelineOptions(options))
    rows = pipeline | "Rows" >> _source(cell, folder / "source", job)
    for name in job:
        blocks = rows
        if len(job) > 1:
            blocks = rows | f"Only {name}" >> beam.Filter(_is_of, name).with_output_types(Block)
        if cell.window != WHOLE:
            blocks = blocks | f"Windows {name}" >> beam.WindowInto(
                WINDOWS[cell.window],
                trigger=TRIGGERS[cell.trigger],
                accumulation_mode=AccumulationMode.ACCUMULATING,
            )
        blocks | f"Write {name}" >> _sink(cell, folder)
    return pipeline


def _source(cell: Cell, path: Path, job: str) -> beam.PTransform:
    if not cell.stream:
        return _Batch(str(path), job)
    source: Any = TestStream(coder=beam.coders.registry.get_coder(Block))
    for arrived, i in enumerate(ORDER):
        source.add_elements([_event(name, i) for name in job])
        if arrived % 3 == 2:
            source.advance_watermark_to(SECONDS_APART * max(ORDER[: arrived + 1]) - 20)
        source.advance_processing_time(1)
    return source.advance_watermark_to_infinity()


class _Batch(beam.PTransform):
    """Make the rows of several jobs, or of the one that a file names when the pipeline runs."""

    def __init__(self, path: str, job: str) -> None:
        super().__init__()
        self._path, self._job = path, job

    def expand(self, root: Any) -> beam.PCollection:
        events = beam.FlatMap(_events, self._path, self._job).with_output_types(Block)
        return root | beam.Impulse() | events


def _events(_: bytes, path: str, job: str) -> Iterator[TimestampedValue]:
    for name in job if len(job) > 1 else Path(path).read_text():
        for i in range(ROWS):
            yield _event(name, i)


def _is_of(block: Block, name: str) -> bool:
    return block.column("id")[0].as_py().startswith(name)


def _event(name: str, i: int) -> TimestampedValue:
    return TimestampedValue(Block.from_pydict({"id": [f"{name}{i}"]}), SECONDS_APART * i)


def _sink(cell: Cell, folder: Path) -> beam.PTransform:
    if cell.sink == "rejects":
        return WriteRejects(str(folder / "out"))
    options: dict[str, Any] = {"mode": cell.mode, "run": "monday" if cell.named else None}
    if cell.sink == "duckdb":
        return WriteVectorsToDuckDB(str(folder / "out" / "x.duckdb"), **options)
    return WriteVectorsToParquet(str(folder / "out"), **options)


@contextlib.contextmanager
def _failing(jobs: str) -> Iterator[list[bool]]:
    """Let the first bundle that stages, or that commits, fail after it has done so."""
    patches = {
        cells.STAGE_RETRIED: [(StageFiles, "finish_bundle")],
        cells.COMMIT_RETRIED: [(commit._CommitWhole, "process"), (commit._CommitPanes, "process")],
    }.get(jobs, [])
    failed: list[bool] = []
    known = [(owner, name, getattr(owner, name)) for owner, name in patches]
    for owner, name, method in known:
        setattr(owner, name, _fail_once(method, failed))
    try:
        yield failed
    finally:
        for owner, name, method in known:
            setattr(owner, name, method)


def _fail_once(method: Any, failed: list[bool]) -> Any:
    def fail_or_give(*arguments: Any) -> Any:
        found = list(method(*arguments))
        if not failed:
            failed.append(True)
            raise BundleFailsError("this worker fails")
        return found

    return fail_or_give


def rows_in(sink: str, out: Path) -> Counter[str]:
    """Read the ids that are committed, as readers of this package see them."""
    if sink == "duckdb":
        path = out / "x.duckdb"
        if not path.exists():
            return Counter()
        with duckdb.connect(str(path)) as connection:
            found = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            if ("vectors",) not in found:
                return Counter()
            return Counter(
                row for (row,) in connection.execute("SELECT id FROM vectors").fetchall()
            )
    kind = ("part", ".parquet") if sink == "parquet" else ("rejects", ".jsonl")
    ids: Counter[str] = Counter()
    for files in current_sets(str(out), *kind).values():
        for name in files:
            ids.update(_ids(out / name))
    return ids


def _ids(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return pq.read_table(path)["id"].to_pylist()
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def leftovers(out: Path) -> list[str]:
    """List what no run may leave."""
    return sorted(path.name for path in out.glob(".*")) if out.is_dir() else []


def problem(cell: Cell, folder: Path) -> str:
    """Run a cell; say what is wrong, or nothing."""
    wanted = cells.expected(cell)
    try:
        refused, message = run_cell(cell, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    found = rows_in(cell.sink, folder / "out")
    if (refused, bool(re.search(wanted.words, message))) != (wanted.refused, True):
        return f"{refused or 'nothing'} refused, not {wanted.refused or 'nothing'}: {message}"
    if wanted.refused == "commit" and cell.window != WHOLE:
        lost = wanted.rows - found if "are not the same" in message else Counter()
        return f"lost {dict(lost)}" if lost else ""
    if found != wanted.rows:
        return f"lost {dict(wanted.rows - found)}, doubled {dict(found - wanted.rows)}"
    # of a bundle of a stream that fails when all is staged, files stay until the process ends
    tidy = not refused and (cell.jobs != cells.STAGE_RETRIED or cell.window == WHOLE)
    left = leftovers(folder / "out") if tidy else []
    return f"left {left}" if left else ""
