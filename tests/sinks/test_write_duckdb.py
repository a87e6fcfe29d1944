"""Test that a table is unchanged or has all rows of the run, however often the run is tried."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.files.folders import check_writable
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_table import Table
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.staging import StagedFile
from beam_gpte.sinks.write_duckdb import (
    DuckDBOptions,
    WriteVectorsToDuckDB,
    check_database,
    commit_duckdb,
)
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import WriteRejects
from tests.sinks.test_write_parquet import (
    MINILM,
    REPOSITORY,
    embedded,
    kill_while_writing,
    parts,
    run,
    stage,
    write,
)


def query(path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def commit(
    path: Path, *blocks: Block, table: str = "vectors", id_column: str = "id", mode: str = "upsert"
) -> None:
    staged, destination = stage(path.parent, "duckdb-test", [[block] for block in blocks])
    commit_duckdb(staged, WHOLE, destination, Table(str(path), table, id_column, mode))


def commit_staged(
    staged: list[StagedFile], destination: Destination, path: Path, pane: Pane = WHOLE
) -> list[WrittenFile]:
    return commit_duckdb(staged, pane, destination, Table(str(path), "vectors", "id", "upsert"))


def test_vectors_become_arrays_that_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "new" / "corpus.duckdb"
    write(
        [embedded(0, 2, note=pa.array(["a", "b"])), embedded(2, 3, note=pa.nulls(1))],
        WriteVectorsToDuckDB(str(path)),
    )
    assert parts(path.parent) == ["corpus.duckdb"]
    described = query(path, "DESCRIBE vectors")
    assert [row[:2] for row in described] == [
        ("id", "VARCHAR"),
        ("embedding", "FLOAT[3]"),
        ("note", "VARCHAR"),
    ]
    # (0, .5, .5), (1, 1.5, 1.5), (2, 2.5, 2.5) by angle to (1, 0, 0): the larger i, the closer
    similarity = "array_cosine_similarity(embedding, [1, 0, 0]::FLOAT[3])"
    nearest = f"SELECT id FROM vectors ORDER BY {similarity} DESC"
    assert query(path, nearest) == [("n2",), ("n1",), ("n0",)]
    [[comment]] = query(
        path, "SELECT comment FROM duckdb_columns() WHERE column_name = 'embedding'"
    )
    assert json.loads(comment) == dataclasses.asdict(MINILM)


def test_rows_with_a_known_id_are_replaced_and_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 3, v=pa.array([1, 1, 1])))
    commit(path, embedded(2, 4, v=pa.array([2, 2])))
    commit(path)  # a run without rows changes nothing
    rows = [("n0", 1), ("n1", 1), ("n2", 2), ("n3", 2)]
    assert query(path, "SELECT id, v FROM vectors ORDER BY id") == rows
    commit(path, embedded(3, 4, v=pa.nulls(1)))  # a column of nulls fits any type
    assert query(path, "SELECT v FROM vectors WHERE id = 'n3'") == [(None,)]


def test_rows_are_replaced_in_a_table_with_a_primary_key_and_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE vectors (id VARCHAR PRIMARY KEY, embedding FLOAT[3])")
        connection.execute("COMMENT ON TABLE vectors IS 'my corpus'")
    commit(path, embedded(0, 2))
    commit(path, embedded(1, 3))
    assert query(path, "SELECT count(*) FROM vectors") == [(3,)]
    assert query(path, "SELECT comment FROM duckdb_tables() WHERE table_name = 'vectors'") == [
        ("my corpus",)
    ]


def test_a_commit_called_twice_gives_the_same_table(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    staged, destination = stage(tmp_path, "duckdb-test", [[embedded(0, 2)], [embedded(2, 3)]])
    kept = {file.path: Path(file.path).read_bytes() for file in staged}
    first = commit_staged(staged, destination, path)
    assert [file.rows for file in first] == [3]
    assert commit_staged(staged, destination, path) == first  # crashed after deleting the staging
    for name, content in kept.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    assert commit_staged(staged, destination, path) == first  # crashed before deleting it
    assert query(path, "SELECT id FROM vectors ORDER BY id") == [("n0",), ("n1",), ("n2",)]


def test_staged_files_that_another_run_removed_are_an_error_not_a_success(tmp_path: Path) -> None:
    staged, destination = stage(tmp_path, "duckdb-test", [[embedded(0, 2)]])
    Path(staged[0].path).unlink()
    with pytest.raises(InputError, match="staged files are missing"):
        commit_staged(staged, destination, tmp_path / "corpus.duckdb")


def test_bad_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    with pytest.raises(InputError, match=r"id 'n1' occurs 2 times.*RejectDuplicateIds"):
        commit(path, embedded(0, 3), embedded(1, 4))
    with pytest.raises(InputError, match="1 rows have no 'id'"):
        commit(path, Block.from_pydict({"id": pa.array([1, None])}))
    with pytest.raises(
        InputError, match="no column 'key'; the columns are id, embedding: set id_column"
    ):
        commit(path, embedded(0, 1), id_column="key")
    assert query(path, "SELECT count(*) FROM duckdb_tables()") == [(0,)]


def test_rows_that_differ_from_the_table_are_refused_and_the_table_is_unchanged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 2, year=pa.array([1, 2])))
    refused = {
        "vectors of 4 and 3 dimensions": embedded(
            0, 2, dataclasses.replace(MINILM, dim=4), year=pa.array([1, 2])
        ),
        "fingerprints bbbb and aaaa": embedded(
            0, 2, dataclasses.replace(MINILM, fingerprint="bbbb"), year=pa.array([1, 2])
        ),
        r"\['year'\] only in the table, \['month'\] only in the new": embedded(
            0, 2, month=pa.array([1, 2])
        ),
        "column 'year' is BIGINT in table 'vectors' and VARCHAR in the new rows": embedded(
            0, 2, year=pa.array(["1", "2"])
        ),
    }
    for words, block in refused.items():
        with pytest.raises(InputError, match=words):
            commit(path, block)
    with pytest.raises(Exception, match="4 and 3 dimensions"):
        write(
            [embedded(9, 10, dataclasses.replace(MINILM, dim=4))], WriteVectorsToDuckDB(str(path))
        )
    assert query(path, "SELECT id, year FROM vectors ORDER BY id") == [("n0", 1), ("n1", 2)]


def test_an_error_within_the_transaction_rolls_it_back(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE vectors (id VARCHAR, embedding FLOAT[3], x BIGINT CHECK (x < 5))"
        )
    commit(path, embedded(0, 1, x=pa.array([1])))
    with pytest.raises(duckdb.ConstraintException):
        commit(path, embedded(0, 2, x=pa.array([2, 9])))
    assert query(path, "SELECT id, x FROM vectors") == [("n0", 1)]


def test_names_and_folders_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "it's [a] *folder*" / "corpus.duckdb"
    path.parent.mkdir()
    odd = Block.from_pydict({'the "id"': pa.array([1]), "select": pa.array(["x"])})
    commit(path, odd, table='my "table"; drop', id_column='the "id"')
    commit(path, odd, table='my "table"; drop', id_column='the "id"')
    assert query(path, 'SELECT "select" FROM "my ""table""; drop"') == [("x",)]
    with pytest.raises(InputError, match="'ID' differs from another only in case"):
        commit(path, Block.from_pydict({"id": pa.array([1]), "ID": pa.array([1])}), table="t")


def test_a_file_that_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    junk = tmp_path / "junk.duckdb"
    junk.write_text("hello " * 1000)
    with pytest.raises(InputError, match=r"junk\.duckdb: this file is not a DuckDB database"):
        commit(junk, embedded(0, 1))
    with pytest.raises(InputError, match=r"junk\.duckdb: this file is not a DuckDB database"):
        check_database(str(junk))
    with pytest.raises(InputError, match="cannot write to this folder"):
        check_database(str(junk / "corpus.duckdb"))
    check_database(str(tmp_path / "later" / "corpus.duckdb"))


HOLD = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float) -> subprocess.Popen:
    """Start a process that has the database open."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    return child


def test_a_locked_database_is_named_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    child = hold(path, 60)
    words = rf"another process \(PID {child.pid}\) has this database open; close it"
    staged, destination = stage(tmp_path, "duckdb-test", [[embedded(0, 1)]])
    table = Table(str(path), "vectors", "id", "upsert")
    for attempt in (
        lambda: commit_duckdb(staged, WHOLE, destination, table, lock_timeout=0.3),
        lambda: check_database(str(path)),
    ):
        with pytest.raises(InputError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    child.kill()
    child.wait()
    # nothing was lost by the failure
    assert commit_staged(staged, destination, path) == [WrittenFile(str(path), 1)]


def test_a_commit_waits_for_a_process_that_has_the_database_open(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    child = hold(path, 0.5)
    commit(path, embedded(0, 1))
    assert child.poll() is not None
    assert query(path, "SELECT id FROM vectors") == [("n0",)]


def test_a_killed_run_leaves_the_table_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "out" / "corpus.duckdb"
    previous = Block.from_pydict({"id": pa.array(["old"]), "x": pa.array([0.0])})
    write([previous], WriteVectorsToDuckDB(str(path)))
    kill_while_writing(tmp_path, "duckdb", path)
    assert len(parts(path.parent)) == 2
    assert query(path, "SELECT id FROM vectors") == [("old",)]
    write(
        [Block.from_pydict({"id": pa.array(["a", "b"]), "x": pa.array([1.0, 2.0])})],
        WriteVectorsToDuckDB(str(path)),
    )
    assert query(path, "SELECT id FROM vectors ORDER BY id") == [("a",), ("b",), ("old",)]
    assert parts(path.parent) == ["corpus.duckdb"]


def test_writes_to_one_database_can_be_chained_and_share_a_folder(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = str(tmp_path / "corpus.duckdb")
    with new_pipeline("two processes") as pipeline:
        blocks = pipeline | beam.Create([embedded(i, i + 1) for i in range(6)]).with_output_types(
            Block
        )
        options = DuckDBOptions(staging=str(tmp_path / "staging"))
        first = blocks | "First" >> WriteVectorsToDuckDB(path, options=options)
        _ = blocks | "Second" >> WriteVectorsToDuckDB(path, table="second", commit_after=first)
    for table in ("vectors", "second"):
        assert query(Path(path), f"SELECT count(DISTINCT id) FROM {table}") == [(6,)]
    assert parts(tmp_path / "staging") == []


def test_a_failing_barrier_commits_nothing(
    tmp_path: Path, new_pipeline: Callable[..., beam.Pipeline]
) -> None:
    path = tmp_path / "corpus.duckdb"
    pipeline = new_pipeline()
    barrier = pipeline | beam.Impulse() | beam.Map(lambda _: 1 // 0)
    blocks = pipeline | beam.Create([embedded(0, 1)]).with_output_types(Block)
    _ = blocks | WriteVectorsToDuckDB(str(path), commit_after=barrier)
    with pytest.raises(Exception, match="division"):
        run(pipeline)
    assert not path.exists()


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="table is empty"):
        WriteVectorsToDuckDB("x.duckdb", table="")
    with pytest.raises(InputError, match="names a folder"):
        WriteVectorsToDuckDB("folder/")
    with pytest.raises(InputError, match="staging is empty"):
        DuckDBOptions(staging="")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def noise(first: int, rows: int) -> Block:
    """Make rows of 1.5 KB that no codec compresses much, without NaN."""
    bits = np.random.default_rng(first).integers(0, 2**32, (rows, 384), np.uint32)
    vectors = (bits & 0xBFFFFFFF).view(np.float32)
    metadata = dataclasses.replace(MINILM, dim=384)
    fields = [pa.field("id", pa.string()), metadata.field("embedding")]
    ids = pa.array([f"n{i}" for i in range(first, first + rows)])
    array = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 384)
    return Block(pa.record_batch([ids, array], schema=pa.schema(fields)))


def test_a_full_disk_is_reported_in_one_line_and_the_old_rows_stay(
    tmp_path: Path, small_disk: Path
) -> None:
    path = small_disk / "corpus.duckdb"
    commit(path, noise(0, 500))
    # 8 MB, on another disk
    staged, destination = stage(tmp_path, "duckdb-test", [[noise(1000, 5000)]])
    with pytest.raises(
        InputError, match=r"DuckDB cannot write \(.*No space left on device\); nothing was changed"
    ) as caught:
        commit_staged(staged, destination, path)
    assert "\n" not in str(caught.value)
    words = r"cannot write to this folder \(No space left on device\); nothing in it was changed"
    with pytest.raises(InputError, match=words):
        stage(small_disk / "parquet", "parquet", [[noise(1000, 5000)]])
    assert query(path, "SELECT count(*), max(id) FROM vectors") == [(500, "n99")]
    assert list(small_disk.glob("parquet/*/*.staged")) == []  # the space is freed
    commit(path, noise(1000, 10))
    assert query(path, "SELECT count(*) FROM vectors") == [(510,)]


def test_a_read_only_file_system_is_reported_in_one_line(tmp_path: Path, small_disk: Path) -> None:
    path = small_disk / "corpus.duckdb"
    commit(path, embedded(0, 2))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    staged, destination = stage(tmp_path, "duckdb-test", [[embedded(2, 3)]])
    with pytest.raises(
        InputError, match=r"corpus.duckdb: DuckDB cannot open this file \(.*Read-only"
    ) as caught:
        commit_staged(staged, destination, path)
    assert "\n" not in str(caught.value)
    assert query(path, "SELECT count(*) FROM vectors") == [(2,)]


WINDOWS = """
import sys
import apache_beam as beam
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from beam_gpte.elements.block import Block
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
import pyarrow as pa

def rows(_, name):
    blocks = [Block.from_pydict({"id": pa.array([f"{name}{i}"])}) for i in range(8)]
    return [TimestampedValue(block, i) for i, block in enumerate(blocks)]

def run(path, name):
    with beam.Pipeline("FnApiRunner") as p:
        blocks = p | beam.Impulse() | beam.FlatMap(rows, name).with_output_types(Block)
        blocks | beam.WindowInto(FixedWindows(1)) | WriteVectorsToDuckDB(path)

if __name__ == "__main__":
    print("ready", flush=True)
    run(*sys.argv[1:])
"""


def test_two_pipelines_write_to_one_table_at_once_and_wait_for_each_other(tmp_path: Path) -> None:
    script, path = tmp_path / "windows.py", tmp_path / "corpus.duckdb"
    script.write_text(WINDOWS)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.Popen(
        [sys.executable, script, path, "a"], env=environment, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    names = {"__name__": "windows"}
    exec(WINDOWS, names)  # the same program in this process
    names["run"](str(path), "b")  # type: ignore[operator]
    assert child.wait() == 0
    child.stdout.close()
    assert query(path, "SELECT id FROM vectors ORDER BY id") == [
        (f"{name}{i}",) for name in "ab" for i in range(8)
    ]
    assert query(path, "SELECT count(*), sum(rows) FROM beam_gpte_commits") == [(16, 16)]


def test_insert_refuses_known_ids_and_replace_leaves_only_the_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 2), mode="insert")
    with pytest.raises(InputError, match="1 ids are already in table 'vectors', such as 'n1'"):
        commit(path, embedded(1, 3), mode="insert")
    commit(path, embedded(2, 3), mode="insert")
    assert query(path, "SELECT count(*) FROM vectors") == [(3,)]
    commit(path, embedded(2, 5), mode="replace")
    assert query(path, "SELECT id FROM vectors ORDER BY id") == [("n2",), ("n3",), ("n4",)]
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        commit(path, embedded(0, 1, dataclasses.replace(MINILM, dim=4)), mode="replace")
    assert query(path, "SELECT count(*) FROM vectors") == [(3,)]
    commit(path, mode="replace")
    assert query(path, "SELECT count(*) FROM vectors") == [(3,)]
    commit(path, mode="mirror")  # the collection is empty, so is the table
    assert query(path, "SELECT count(*) FROM vectors") == [(0,)]


def test_a_named_run_is_loaded_once(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    for _ in range(2):
        write([embedded(0, 3)], WriteVectorsToDuckDB(str(path), mode="insert", run="tuesday"))
    assert query(path, "SELECT count(*) FROM vectors") == [(3,)]
    assert query(path, 'SELECT run, "table", "window", pane, rows FROM beam_gpte_commits') == [
        ("tuesday", "vectors", "", 0, 3)
    ]


def test_a_table_is_searched_by_its_macro(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    commit(path, embedded(0, 4, text=pa.array(["a", "b", "c", "d"])))
    # (0, .5, .5), (1, 1.5, 1.5), ...: the angle of row i to (1, 0, 0) decreases with i
    cosines = [i / np.sqrt(i * i + 2 * (i + 0.5) ** 2) for i in range(4)]
    found = query(path, "SELECT * FROM nearest_vectors([1, 0, 0], k := 2)")
    assert [row[:2] for row in found] == [("n3", "d"), ("n2", "c")]
    assert [row[2] for row in found] == pytest.approx([cosines[3], cosines[2]])
    vector = "(SELECT embedding FROM vectors WHERE id = 'n3')"
    assert len(query(path, f"SELECT id FROM nearest_vectors({vector}) WHERE id <> 'n3'")) == 3

    codes = {
        "int8": np.array([[127, 0, 0], [0, 127, 0]], np.int8),
        "binary": np.array([[0b10100000], [0b01000000]], np.uint8),
    }
    for kind, values in codes.items():
        field = dataclasses.replace(MINILM, quantization=kind).field("embedding")
        array = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        batch = pa.record_batch(
            [pa.array([0, 1]), array], schema=pa.schema([pa.field("id", pa.int64()), field])
        )
        commit(path, Block(batch), table=f'my "{kind}"')
    assert query(path, """SELECT id, cosine FROM "nearest_my ""int8\"""([0, 5, 0], 1)""") == [
        (1, 1.0)
    ]
    assert query(path, """SELECT id, distance FROM "nearest_my ""binary\"""('01000000')""") == [
        (1, 0),
        (0, 3),
    ]


def test_an_existing_macro_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "corpus.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE MACRO nearest_vectors(a) AS a + 1")
    commit(path, embedded(0, 2))
    assert query(path, "SELECT nearest_vectors(1)") == [(2,)]


def test_an_index_that_cannot_be_created_is_a_warning_and_the_rows_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with duckdb.connect() as connection:
        try:
            connection.execute("LOAD vss")
            pytest.skip("the vss extension is there")
        except duckdb.Error:
            pass
    path = tmp_path / "corpus.duckdb"
    write([embedded(0, 2)], WriteVectorsToDuckDB(str(path), options=DuckDBOptions(index=True)))
    assert query(path, "SELECT count(*) FROM vectors") == [(2,)]
    [record] = [record.getMessage() for record in caplog.records if "HNSW" in record.getMessage()]
    assert (
        "gets no HNSW index, so searches compare all rows: the vss extension cannot be loaded"
        in record
    )
    assert "\n" not in record


class ObjectStore(FileSystem):
    """Imitate a cloud store: no folders, and files appear when they are closed."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - Beam makes a new instance for every call

    @classmethod
    def scheme(cls) -> str:
        return "store"

    def join(self, base: str, *paths: str) -> str:
        return "/".join([base.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def has_dirs(self) -> bool:
        return False

    def _list(self, prefix: str) -> list[FileMetadata]:
        return [
            FileMetadata(path, len(data))
            for path, data in self.files.items()
            if path.startswith(prefix)
        ]

    def create(self, path: str, *_: str, **__: str) -> io.BytesIO:
        files = self.files

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    files[path] = self.getvalue()
                super().close()

        return Upload()

    def open(self, path: str, *_: str, **__: str) -> io.BytesIO:
        return io.BytesIO(self.files[path])

    def copy(self, sources: list[str], targets: list[str]) -> None:
        raise NotImplementedError

    def rename(self, sources: list[str], targets: list[str]) -> None:
        for source, target in zip(sources, targets, strict=True):
            self.files[target] = self.files.pop(source)

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files[path])

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return str(self.size(path))

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path))

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.files[path]


def test_all_sinks_write_to_an_object_store_and_leave_nothing_else(tmp_path: Path) -> None:
    folder, store = "store://bucket/out", ObjectStore.files
    store[f"{folder}/.beam-gpte-tmp-parquet-killed/x.staged"] = b"of a run that was killed"
    for last in (3, 2):
        blocks = [embedded(0, last), embedded(last, last + 1, note=pa.array(["x"]))]
        write(blocks, WriteVectorsToParquet(folder))
        write(blocks, WriteVectorsToDuckDB(f"{folder}/corpus.duckdb"))
        write(blocks, WriteRejects(f"{folder}/rejects"))
    names = sorted(path.removeprefix(folder)[1:].split("-")[0] for path in store)
    assert names == ["corpus.duckdb", "part", "part", "rejects/rejects", "rejects/rejects"]
    local = tmp_path / "corpus.duckdb"
    local.write_bytes(store[f"{folder}/corpus.duckdb"])
    rows = query(local, "SELECT id, note FROM vectors ORDER BY id")
    # n3 is from the first run, n2 from the second
    assert rows == [("n0", None), ("n1", None), ("n2", "x"), ("n3", "x")]
    check_writable(folder)
    with pytest.raises(Exception, match="4 and 3 dimensions"):
        write([embedded(0, 1, dataclasses.replace(MINILM, dim=4))], WriteVectorsToParquet(folder))
