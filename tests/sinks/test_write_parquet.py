"""Test that published files are complete, of one kind, and exactly the last finished run."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, vector_fields
from beam_gpte.elements.block import Block
from beam_gpte.files.folders import check_writable
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.folders.parquet_folder import check_folder, existing_schemas
from beam_gpte.sinks.parquet_files import ParquetFileWriter, conform_files, unify_staged_schemas
from beam_gpte.sinks.staging import StagedFile, StageFiles
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet, commit_parquet

MINILM = VectorMetadata(
    model="minilm", fingerprint="aaaa", pooling="mean", prompt="", dim=3, normalized=True
)
REPOSITORY = Path(__file__).resolve().parents[2]


def embedded(
    first: int, last: int, metadata: VectorMetadata = MINILM, **columns: pa.Array
) -> Block:
    """Make rows n<first> .. n<last - 1>; the vector of n<i> is (i, i + 0.5, i + 0.5, ...)."""
    n = range(first, last)
    vectors = np.array([[i] + [i + 0.5] * (metadata.dim - 1) for i in n], dtype=np.float32)
    fields = [pa.field("id", pa.string()), metadata.field("embedding")]
    arrays = [
        pa.array([f"n{i}" for i in n]),
        pa.FixedSizeListArray.from_arrays(vectors.ravel(), metadata.dim),
    ]
    for name, values in columns.items():
        fields.append(pa.field(name, values.type))
        arrays.append(values)
    return Block(pa.record_batch(arrays, schema=pa.schema(fields)))


def write(blocks: list[Block], transform: beam.PTransform, *options: str) -> None:
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options])) as pipeline:
        _ = pipeline | beam.Create(blocks, reshuffle=False).with_output_types(Block) | transform


def run(pipeline: beam.Pipeline) -> None:
    pipeline.run().wait_until_finish()


def stage(
    folder: Path | str,
    sink: str,
    bundles: list[list[Block]],
    run: str | None = None,
    writer: Any = ParquetFileWriter,
    **options: Any,
) -> tuple[list, Destination]:
    """Do what workers do before the commit: each bundle stages its blocks."""
    destination = Destination.new(str(folder), sink, run)
    staged: list[StagedFile] = []
    for blocks in bundles:
        worker = StageFiles("WriteVectorsToParquet", destination.temporary, writer, **options)
        worker.start_bundle()
        for block in blocks:
            staged += [
                value.value for value in worker.process(block, GlobalWindow(), MIN_TIMESTAMP)
            ]
        staged += [value.value for value in worker.finish_bundle()]
    return sorted(staged, key=lambda file: file.path), destination


def commit(
    staged: list[StagedFile], destination: Destination, pane: Pane = WHOLE, mode: str = "replace"
) -> list[WrittenFile]:
    return commit_parquet(staged, pane, destination, mode)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def ids(folder: Path) -> list[str]:
    return sorted(pl.read_parquet(folder / "*.parquet")["id"].to_list())


def test_encodings_are_those_that_the_benchmark_chose(tmp_path: Path) -> None:
    half = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float16)), 3)
    codes = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.int8)), 3)
    write(
        [embedded(0, 2, tags=pa.array([["x"], []]), half=half, codes=codes)],
        WriteVectorsToParquet(str(tmp_path)),
    )
    [path] = tmp_path.glob("*.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["embedding.list.element"].encodings
    # DuckDB reads byte-stream-split in float32 only
    assert set(columns["half.list.element"].encodings) == {"PLAIN", "RLE"}
    for name in ("id", "tags.list.element", "codes.list.element"):
        assert "RLE_DICTIONARY" in columns[name].encodings
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_one_bundle_becomes_as_many_files_as_asked_for(tmp_path: Path) -> None:
    blocks = [embedded(i, i + 1) for i in range(20)]
    for shards in (4, 1):
        write(blocks, WriteVectorsToParquet(str(tmp_path), num_shards=shards))
        rows = [pq.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet")]
        assert rows == [20 // shards] * shards
        assert ids(tmp_path) == sorted(f"n{i}" for i in range(20))


def test_partitions_are_folders_that_all_readers_know(tmp_path: Path) -> None:
    languages = ["de", "en", "de", None, "en", "a/b =ü"]
    blocks = [
        embedded(
            0, 6, language=pa.array(languages), year=pa.array([2025, 2025, 2026, 2026, 2025, 2025])
        )
    ]
    write(blocks, WriteVectorsToParquet(str(tmp_path), partition_by=("language", "year")))
    assert len(list(tmp_path.glob("language=de/year=*/part-*-of-00005.parquet"))) == 2
    wanted = {(f"n{i}", language) for i, language in enumerate(languages)}
    table = ds.dataset(tmp_path, partitioning="hive").to_table()
    assert set(zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True)) == wanted
    assert sorted(table["year"].to_pylist()) == [2025] * 4 + [2026] * 2
    assert vector_fields(table.schema) == {"embedding": MINILM}
    frame = pl.read_parquet(f"{tmp_path}/**/*.parquet", hive_partitioning=True)
    assert set(zip(frame["id"], frame["language"], strict=True)) == wanted
    rows = duckdb.sql(
        f"SELECT id, language FROM read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true)"
    ).fetchall()
    assert set(rows) == wanted

    write(
        [embedded(7, 8, language=pa.array(["de"]))],
        WriteVectorsToParquet(str(tmp_path), partition_by="language"),
    )
    assert parts(tmp_path) == ["language=de"]  # the previous partitions are gone
    # pandas cannot read a partition of nulls
    assert pd.read_parquet(tmp_path)["language"].tolist() == ["de"]
    for columns, words in (
        ("color", "no column 'color'"),
        ("embedding", "'embedding' is fixed_size_list"),
    ):
        with pytest.raises(Exception, match=f"partition_by: (column )?{words}"):
            write(blocks, WriteVectorsToParquet(str(tmp_path), partition_by=columns))


def test_rows_can_be_appended_to_a_folder_and_a_named_run_only_once(tmp_path: Path) -> None:
    write([embedded(0, 2, note=pa.array(["a", "b"]))], WriteVectorsToParquet(str(tmp_path)))
    for _ in range(2):
        write(
            [embedded(2, 4, note=pa.nulls(2))],
            WriteVectorsToParquet(str(tmp_path), mode="append", run="tuesday"),
        )
    assert ids(tmp_path) == ["n0", "n1", "n2", "n3"]
    for _ in range(2):
        write(
            [embedded(4, 5, note=pa.array(["c"]))],
            WriteVectorsToParquet(str(tmp_path), mode="append"),
        )
    assert ids(tmp_path) == ["n0", "n1", "n2", "n3", "n4", "n4"]
    schemas = [pq.read_schema(path) for path in tmp_path.glob("*.parquet")]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)


def test_rows_that_differ_from_the_folder_are_not_appended_and_the_difference_is_named(
    tmp_path: Path,
) -> None:
    write([embedded(0, 2, year=pa.array([1, 2]))], WriteVectorsToParquet(str(tmp_path)))
    years, plain = pa.array([1, 2]), pa.field("embedding", pa.list_(pa.float32(), 3))
    bare = embedded(2, 4, year=years)
    refused = {
        "vectors of 4 and 3 dimensions": embedded(
            2, 4, dataclasses.replace(MINILM, dim=4), year=years
        ),
        r"fingerprints bbbb and aaaa \(prompt 'q: ' and ''\)": embedded(
            2, 4, dataclasses.replace(MINILM, fingerprint="bbbb", prompt="q: "), year=years
        ),
        r"has columns \['year'\] that the new rows lack, and lacks their columns \['month'\]": (
            embedded(2, 4, month=years)
        ),
        r"column 'year' is int64 in .* and string in the new rows": embedded(
            2, 4, year=pa.array(["1", "2"])
        ),
        "column 'embedding' is an embedding in the files, not": bare.with_column(
            plain, bare.column("embedding")
        ),
    }
    for words, block in refused.items():
        with pytest.raises(InputError, match=words) as caught:
            commit(*stage(tmp_path, "parquet", [[block]]), mode="append")
        assert "\n" not in str(caught.value)
    parted = stage(tmp_path, "parquet", [[embedded(2, 4, year=years)]], partition_by=("year",))
    with pytest.raises(InputError, match=r"partitioned by no column, the new rows by \['year'\]"):
        commit_parquet(*parted[:1], WHOLE, parted[1], "append", ("year",))
    assert ids(tmp_path) == ["n0", "n1"]


def test_rows_without_vectors_and_of_many_types_are_written_too(tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2]),
        "color": pa.array(["red", "blue"]).dictionary_encode(),
        "when": pa.array([0, 1], pa.timestamp("us", "UTC")),
        "half": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4, dtype=np.float16)), 2),
    }
    other = {
        **columns,
        "color": pa.array(["green", "red"]).dictionary_encode(),  # another dictionary
    }
    write(
        [Block.from_pydict(columns), Block.from_pydict(other)], WriteVectorsToParquet(str(tmp_path))
    )
    [path] = tmp_path.glob("*.parquet")
    assert pl.read_parquet(path)["color"].to_list() == ["red", "blue", "green", "red"]
    assert duckdb.sql(f"SELECT half FROM '{path}'").fetchall()[1] == ([2.0, 3.0],)
    assert pq.read_schema(path).names == ["id", "color", "when", "half"]


def test_a_file_ends_before_its_limit_and_row_groups_are_bounded(tmp_path: Path) -> None:
    block = Block.from_pydict({"x": pa.array(np.zeros(1 << 20))})  # 8 MiB
    staged, destination = stage(tmp_path, "parquet", [[block] * 10], max_bytes_per_file=72 << 20)
    assert sorted(file.rows >> 20 for file in staged) == [1, 9]
    written = commit(staged, destination)
    groups = [pq.ParquetFile(file.path).metadata for file in written]
    sizes = sorted(
        m.row_group(i).num_rows * 8 >> 20 for m in groups for i in range(m.num_row_groups)
    )
    assert max(sizes) <= 64
    assert sum(sizes) == 80


def test_a_rerun_replaces_all_previous_parts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    not_ours = tmp_path / "part-00000.parquet"
    pq.write_table(pa.Table.from_batches([embedded(50, 51).batch]), not_ours)
    write(
        [embedded(i, i + 1) for i in range(4)],
        WriteVectorsToParquet(str(tmp_path), max_bytes_per_file=1),
    )
    assert sum("-of-00004" in name for name in parts(tmp_path)) == 4
    write([embedded(7, 9)], WriteVectorsToParquet(str(tmp_path)))
    assert ids(tmp_path) == ["n50", "n7", "n8"]
    assert [name for name in parts(tmp_path) if "-of-" not in name] == [
        "notes.txt",
        "part-00000.parquet",
    ]
    assert len(parts(tmp_path)) == 3
    write([], WriteVectorsToParquet(str(tmp_path), "mirror"))
    assert parts(tmp_path) == ["notes.txt", "part-00000.parquet"]


def test_a_folder_name_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "a [1] *b' é"
    for last in (3, 2):
        write([embedded(0, last)], WriteVectorsToParquet(str(folder)))
        assert len(parts(folder)) == 1


def test_vectors_of_two_kinds_are_refused_within_a_run(tmp_path: Path) -> None:
    long, tuned = (
        dataclasses.replace(MINILM, dim=4),
        dataclasses.replace(MINILM, fingerprint="bbbb", prompt="query: "),
    )
    write([embedded(0, 1)], WriteVectorsToParquet(str(tmp_path)))
    before = parts(tmp_path)
    for other, words in (
        (long, "vectors of 3 and 4 dimensions"),
        (tuned, "fingerprints aaaa and bbbb.*prompt"),
    ):
        with pytest.raises(Exception, match=words):
            write([embedded(0, 2), embedded(2, 3, other)], WriteVectorsToParquet(str(tmp_path)))
        assert [name for name in parts(tmp_path) if not name.startswith(".")] == before
    # a good run removes what the refused ones left
    write([embedded(5, 6)], WriteVectorsToParquet(str(tmp_path)))
    assert len(parts(tmp_path)) == 1
    assert ids(tmp_path) == ["n5"]


def test_vectors_of_another_kind_than_the_folder_holds_are_refused(tmp_path: Path) -> None:
    write([embedded(0, 2)], WriteVectorsToParquet(str(tmp_path)))
    [schema] = existing_schemas(str(tmp_path)).values()
    assert vector_fields(schema) == {"embedding": MINILM}
    tuned = dataclasses.replace(MINILM, fingerprint="bbbb")
    with pytest.raises(Exception, match=r"bbbb and aaaa.*or write to another place"):
        write([embedded(0, 9, tuned)], WriteVectorsToParquet(str(tmp_path)))
    assert ids(tmp_path) == ["n0", "n1"]
    # as a program checks before the work begins
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        check_folder(str(tmp_path), embedded(0, 1, dataclasses.replace(MINILM, dim=4)).schema)


def test_a_column_that_is_null_or_absent_or_an_integer_somewhere_is_promoted(
    tmp_path: Path,
) -> None:
    blocks = [
        embedded(0, 2, note=pa.array(["a", "b"]), price=pa.array([1.5, 2.5])),
        embedded(2, 3, note=pa.nulls(1), price=pa.array([3])),
        embedded(3, 4, price=pa.array([4])),
    ]
    write(blocks, WriteVectorsToParquet(str(tmp_path)))
    assert len(parts(tmp_path)) == 3
    frame = pl.read_parquet(tmp_path).sort("id")
    assert frame["note"].to_list() == ["a", "b", None, None]
    assert frame["price"].to_list() == [1.5, 2.5, 3.0, 4.0]
    schemas = [pq.read_schema(path) for path in tmp_path.glob("*")]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)


def test_columns_that_cannot_be_unified_are_refused_by_name_and_types(tmp_path: Path) -> None:
    def unify(*blocks: Block) -> pa.Schema:
        return unify_staged_schemas(stage(tmp_path, "parquet", [[block] for block in blocks])[0])

    with pytest.raises(
        InputError,
        match=r"column 'year' is (int64|string) in some rows and (int64|string) in others",
    ):
        unify(embedded(0, 1, year=pa.array([1999])), embedded(1, 2, year=pa.array(["1999"])))
    bare = Block.from_pydict({"id": pa.array(["n9"])})
    with pytest.raises(
        InputError, match="'embedding' is an embedding in some rows and not in others"
    ):
        unify(embedded(0, 2), bare)
    short, long = (
        Block.from_pydict({"v": pa.array([[0.0] * dim], pa.list_(pa.float32(), dim))})
        for dim in (2, 3)
    )  # Arrow would make variable-size lists of them
    with pytest.raises(InputError, match=r"column 'v' is fixed_size_list"):
        unify(short, long)


def test_a_value_that_does_not_fit_the_promoted_type_is_refused(tmp_path: Path) -> None:
    blocks = [
        Block.from_pydict({"n": pa.array([0.5, 1.5])}),
        Block.from_pydict({"n": pa.array([2**60 + 1])}),
    ]
    with pytest.raises(
        InputError,
        match="column 'n' is int64 in some rows and double in others, and a value does not",
    ):
        commit(*stage(tmp_path, "parquet", [blocks]))


def test_a_row_without_a_vector_is_refused_since_pyarrow_could_not_read_the_file(
    tmp_path: Path,
) -> None:
    vectors = pa.array([[1, 2, 3], None], pa.list_(pa.float32(), 3))
    with pytest.raises(InputError, match="column 'embedding': a row has no vector"):
        stage(tmp_path, "parquet", [[Block.from_pydict({"embedding": vectors})]])


def test_a_commit_that_stopped_halfway_is_completed_by_the_next_attempt(tmp_path: Path) -> None:
    bundles = [[embedded(0, 2)], [embedded(2, 3, note=pa.nulls(1))], [embedded(3, 5)]]
    commit(*stage(tmp_path, "parquet", [[embedded(90, 91)]]))
    staged, destination = stage(tmp_path, "parquet", bundles)
    conform_files(staged, unify_staged_schemas(staged))
    name = destination.set_name("part", WHOLE, [file.path for file in staged])
    Path(staged[0].path).rename(tmp_path / f"{name}-00000-of-00003.parquet")
    # the crash: one of three is moved, the previous file and the temporary folder are still there
    assert len(parts(tmp_path)) == 3

    written = commit(staged, destination)
    assert [file.rows for file in written] == [file.rows for file in staged]
    assert ids(tmp_path) == ["n0", "n1", "n2", "n3", "n4"]
    assert commit(staged, destination) == written  # and once more, after the end
    assert ids(tmp_path) == ["n0", "n1", "n2", "n3", "n4"]
    assert len(parts(tmp_path)) == 3


def test_a_commit_whose_staged_files_another_run_removed_is_refused(tmp_path: Path) -> None:
    staged, destination = stage(tmp_path, "parquet", [[embedded(0, 1)]])
    Path(staged[0].path).unlink()
    with pytest.raises(
        InputError, match="staged file is missing; let only one run at a time write"
    ):
        commit(staged, destination)


def fail(_: bytes) -> None:
    raise ValueError("too many rejects")


def test_nothing_is_committed_when_the_barrier_fails(tmp_path: Path) -> None:
    write([embedded(0, 1)], WriteVectorsToParquet(str(tmp_path)))
    failing = beam.Pipeline("FnApiRunner")
    barrier = failing | beam.Impulse() | beam.Map(fail)
    blocks = failing | "Blocks" >> beam.Create([embedded(1, 3)]).with_output_types(Block)
    _ = blocks | WriteVectorsToParquet(str(tmp_path), commit_after=barrier)
    with pytest.raises(Exception, match="too many rejects"):
        run(failing)
    assert ids(tmp_path) == ["n0"]
    with beam.Pipeline("FnApiRunner") as pipeline:
        barrier = pipeline | beam.Impulse() | beam.Filter(bool)  # empty is complete, too
        blocks = pipeline | "Blocks" >> beam.Create([embedded(1, 3)]).with_output_types(Block)
        windowed = blocks | beam.WindowInto(beam.window.FixedWindows(10))
        _ = windowed | WriteVectorsToParquet(str(tmp_path), mode="append", commit_after=barrier)
    assert ids(tmp_path) == ["n0", "n1", "n2"]


def test_rows_and_files_are_counted_once(tmp_path: Path) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    blocks = pipeline | beam.Create([embedded(0, 2), embedded(2, 5)]).with_output_types(Block)
    _ = blocks | WriteVectorsToParquet(str(tmp_path), max_bytes_per_file=1)
    result = pipeline.run()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["rows_written"] == 5
    assert counters["files_written"] == 2


@pytest.mark.parametrize("mode", ["multi_processing", "multi_threading"])
def test_two_workers_write_everything(tmp_path: Path, mode: str) -> None:
    blocks = [embedded(i, i + 1) for i in range(8)]
    with beam.Pipeline(
        options=PipelineOptions(
            ["--runner=FnApiRunner", f"--direct_running_mode={mode}", "--direct_num_workers=2"]
        )
    ) as pipeline:
        _ = (
            pipeline
            | beam.Create(blocks).with_output_types(Block)
            | beam.Reshuffle().with_output_types(Block)
            | WriteVectorsToParquet(str(tmp_path))
        )
    assert ids(tmp_path) == [f"n{i}" for i in range(8)]


SLOW_WRITER = """
import sys, time
import apache_beam as beam, pyarrow as pa
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB

def slow(_):
    for i in range(1000):
        yield Block.from_pydict({"id": pa.array([f"n{i}"]), "x": pa.array([1.0])})
        if i == 5:
            print("staged", flush=True)
            time.sleep(60)

sink, path = sys.argv[1:]
if sink == "parquet":
    write = WriteVectorsToParquet(path, max_bytes_per_file=50)
else:
    write = WriteVectorsToDuckDB(path)
with beam.Pipeline("FnApiRunner") as pipeline:
    _ = pipeline | beam.Impulse() | beam.FlatMap(slow).with_output_types(Block) | write
"""


def kill_while_writing(tmp_path: Path, sink: str, path: Path) -> None:
    """Run `SLOW_WRITER` in its own process and kill it (-9) when it has staged some rows."""
    script = tmp_path / "slow_writer.py"
    script.write_text(SLOW_WRITER)
    child = subprocess.Popen(
        [sys.executable, str(script), sink, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"staged\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_a_killed_run_leaves_the_previous_state_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    previous = Block.from_pydict({"id": pa.array(["old"]), "x": pa.array([0.0])})
    write([previous], WriteVectorsToParquet(str(out)))
    kill_while_writing(tmp_path, "parquet", out)
    assert any(name.startswith(".beam-gpte-tmp-parquet-") for name in parts(out))
    assert ids(out) == ["old"]
    # not the half-written files
    assert duckdb.sql(f"SELECT id FROM '{out}/**/*.parquet'").fetchall() == [("old",)]
    new = Block.from_pydict({"id": pa.array(["a", "b"]), "x": pa.array([1.0, 2.0])})
    write([new], WriteVectorsToParquet(str(out)))
    assert ids(out) == ["a", "b"]
    assert len(parts(out)) == 1


def test_wrong_arguments_are_refused_at_once() -> None:
    wrong = {
        "path is empty": {"path": ""},
        "max_bytes_per_file is 0": {"max_bytes_per_file": 0},
        "num_shards is 0; give a number of files": {"num_shards": 0},
        "mode 'add' is unknown; use replace, mirror, append or sync": {"mode": "add"},
        "run is empty": {"run": ""},
        r"partition_by is \('a', 'a'\); name different columns": {"partition_by": ("a", "a")},
    }
    for words, arguments in wrong.items():
        with pytest.raises(InputError, match=words):
            WriteVectorsToParquet(**{"path": "x", **arguments})


def test_a_program_can_ask_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "new" / "folder"))
    assert parts(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"file/out: cannot write to this folder \(.*\); choose another"
    ) as caught:
        check_writable(str(tmp_path / "file" / "out"))
    assert "\n" not in str(caught.value)
