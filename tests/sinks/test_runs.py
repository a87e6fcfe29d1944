"""Test what names a run, whose files a commit may delete, and what two runs do to each other."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindow,
    NonMergingWindowFn,
    SlidingWindows,
)

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.commit import WHOLE
from beam_gpte.sinks.duckdb_sql import connect
from beam_gpte.sinks.final_names import Pane
from beam_gpte.sinks.runs import leftovers, publish
from beam_gpte.sinks.runs.folder_state import note_of
from beam_gpte.sinks.runs.launch import Launch, Stager
from beam_gpte.sinks.runs.processes import at_work
from beam_gpte.sinks.runs.same_rows import digest_parquet
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import WriteRejects
from beam_gpte.sinks.write_summary import WriteSummary
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_vectors import read_vectors
from tests.sinks.test_write_parquet import REPOSITORY, commit, embedded, ids, parts, stage, write


def rows(*names: str, **columns: pa.Array) -> Block:
    return Block.from_pydict({"id": list(names), **columns})


def read(folder: Path) -> list[str]:
    blocks = read_vectors(str(folder))
    return sorted(name for block in blocks for name in block.column("id").to_pylist())


def test_a_launch_has_one_token_and_another_launch_another() -> None:
    launch = Launch()
    submitted = pickle.dumps(launch)
    assert pickle.loads(submitted).token == pickle.loads(submitted).token
    assert len({launch.token, *(pickle.loads(pickle.dumps(launch)).token for _ in "ab")}) == 3
    stager = pickle.loads(pickle.dumps(Stager()))
    assert pickle.loads(pickle.dumps(stager)).token == stager.token


def test_a_rerun_may_divide_its_rows_and_vary_its_vectors_but_not_its_rows(tmp_path: Path) -> None:
    def job(*bundles: list[Block]) -> list:
        return commit(*stage(tmp_path, "parquet", list(bundles), run="monday"), mode="append")

    score = pa.array([0.1, 0.2])
    assert len(job([rows("a", "b", score=score)])) == 1
    again = [rows("b", score=pa.array([0.25]))], [rows("a", score=pa.array([0.15]))]
    assert job(*again) == []
    words = r"run 'monday' has written 2 rows to .*, and these 2 are not the same; name another run"
    with pytest.raises(InputError, match=words) as caught:
        job([rows("a", "c", score=score)])
    assert "\n" not in str(caught.value)
    assert ids(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    "columns",
    [
        {"x": pa.array([1, 2])},
        {"x": pa.array(["p", "q"]).dictionary_encode()},
        {"x": pa.array([[1], [2, 3]])},
        {"x": pa.array([{"a": None}, {"a": "b"}])},
        {"x": pa.array([None, 5], pa.time64("ns"))},
        {"x": pa.array([1, 2], pa.decimal256(50, 2))},
    ],
    ids=lambda columns: str(columns["x"].type),
)
def test_rows_of_any_type_have_a_digest_whatever_their_order(
    tmp_path: Path, columns: dict[str, pa.Array]
) -> None:
    found = []
    for take in ([0, 1], [1, 0], [0, 0]):
        block = Block(rows("a", "b", **columns).batch.take(pa.array(take)))
        [file] = stage(tmp_path, "parquet", [[block]])[0]
        found.append(digest_parquet(file.path, ""))
    assert found[0] == found[1] != found[2]


def test_two_sinks_of_a_pipeline_do_not_lose_each_others_rows(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    blocks = pipeline | beam.Create([embedded(0, 1)])
    out, table = str(tmp_path / "out"), str(tmp_path / "x.duckdb")
    first = blocks | "1" >> WriteVectorsToParquet(out, run="a")
    blocks | "2" >> WriteVectorsToParquet(f"{out}/", mode="append", run="b", commit_after=first)
    for label, sink, words in (
        ("3", WriteVectorsToParquet(out), "one of them removes the rows of the other"),
        ("4", WriteVectorsToParquet(out, mode="append"), "one of them removes the rows"),
        (
            "5",
            WriteVectorsToParquet(f"{tmp_path}/./out", "append", run="b", commit_after=first),
            "writes to folder .* with run 'b', and the rows of one would be lost",
        ),
    ):
        with pytest.raises(InputError, match=f"WriteVectorsToParquet: another sink .*{words}"):
            blocks | label >> sink
    blocks | "6" >> WriteVectorsToDuckDB(table, run="a")
    blocks | "7" >> WriteVectorsToDuckDB(table, table="other", run="a")
    with pytest.raises(InputError, match="writes to table 'Vectors' of .* with run 'a'"):
        blocks | "8" >> WriteVectorsToDuckDB(table, table="Vectors", run="a")
    blocks | "9" >> WriteRejects(out)
    with pytest.raises(InputError, match="WriteRejects: another sink .* removes the rows"):
        blocks | "10" >> WriteRejects(out)


def test_one_path_is_not_the_place_of_two_kinds_of_sinks(tmp_path: Path) -> None:
    sinks = {
        "summary": WriteSummary,
        "database": WriteVectorsToDuckDB,
        "folder": WriteVectorsToParquet,
        "rejects": WriteRejects,
    }
    at, below = str(tmp_path / "out"), str(tmp_path / "out" / "x")
    for first, second, inner in (
        ("summary", "summary", False),
        ("summary", "database", False),
        ("summary", "folder", False),
        ("summary", "rejects", True),
        ("database", "summary", False),
        ("database", "folder", True),
        ("folder", "summary", False),
        ("rejects", "database", False),
    ):
        blocks = beam.Pipeline() | beam.Create([embedded(0, 1)])
        blocks | "1" >> sinks[first](at)
        step = sinks[second](below if inner else at)
        with pytest.raises(InputError, match=f"{type(step).__name__}: another sink .* two places"):
            blocks | "2" >> step
    blocks = beam.Pipeline() | beam.Create([embedded(0, 1)])
    blocks | "1" >> WriteVectorsToParquet(at)
    blocks | "2" >> WriteSummary(f"{at}/summary.json")
    blocks | "3" >> WriteSummary(f"{at}/summary2.json")
    blocks | "4" >> WriteRejects(f"{at}/rejects")
    with pytest.raises(InputError, match="WriteSummary: another sink .* one of them removes"):
        blocks | "5" >> WriteSummary(f"{at}/./summary.json")


def test_a_data_set_below_the_folder_is_another_one(tmp_path: Path) -> None:
    german, inner = tmp_path / "lang=de", tmp_path / "lang=de" / "year=2025"
    write([rows("german")], WriteVectorsToParquet(str(german)))
    write([rows("reject")], WriteRejects(str(german)))
    write([rows("inner")], WriteVectorsToParquet(str(inner)))
    lang = pa.array(["de"])
    for name in ("old", "new"):
        write([rows(name, lang=lang)], WriteVectorsToParquet(str(tmp_path), partition_by="lang"))
        write([rows(name)], WriteRejects(str(tmp_path)))
    write([], WriteVectorsToParquet(str(tmp_path), "mirror"))
    write([], WriteRejects(str(tmp_path)))
    assert ids(german) == ["german"]
    assert ids(inner) == ["inner"]
    assert len(list(german.glob("rejects-*"))) == 1
    write([rows("a")], WriteVectorsToParquet(str(tmp_path), "append"))
    assert ids(tmp_path) == ["a"]


def test_nothing_is_removed_or_replaced_through_a_link(tmp_path: Path) -> None:
    now, archive = tmp_path / "now", tmp_path / "archive"
    year = pa.array([2025])
    write([rows("archived", year=year)], WriteVectorsToParquet(str(now), partition_by="year"))
    (now / "year=2025").rename(archive)
    (now / "year=2025").symlink_to(archive)
    [file] = archive.iterdir()
    (now / file.name).symlink_to(file)
    write(
        [rows("new", year=pa.array([2026]))], WriteVectorsToParquet(str(now), partition_by="year")
    )
    write([], WriteVectorsToParquet(str(now), "mirror"))
    assert ids(archive) == ["archived"]
    assert (now / file.name).is_symlink()
    with pytest.raises(Exception, match="year=2025/ is behind a symbolic link, and nothing"):
        write([rows("b", year=year)], WriteVectorsToParquet(str(now), partition_by="year"))
    assert ids(archive) == ["archived"]
    (tmp_path / "loop" / "a=1").mkdir(parents=True)
    (tmp_path / "loop" / "a=1" / "b=2").symlink_to(tmp_path / "loop")
    write([rows("c")], WriteVectorsToParquet(str(tmp_path / "loop")))
    assert read(tmp_path / "loop") == ["c"]


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\b", "{a}"])
def test_only_the_folder_of_the_very_name_is_replaced(tmp_path: Path, name: str) -> None:
    others = ["a1", "ab", "a", "aa"]
    for other in others:
        write([rows(other)], WriteVectorsToParquet(str(tmp_path / other)))
    for row in ("old", "new"):
        write([rows(row)], WriteVectorsToParquet(str(tmp_path / name)))
    [file] = (tmp_path / name).iterdir()
    assert pq.read_table(pa.OSFile(str(file)))["id"].to_pylist() == ["new"]
    assert [read(tmp_path / other) for other in others] == [[other] for other in others]


def test_a_set_that_replaces_is_seen_alone_before_the_previous_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(*stage(tmp_path, "parquet", [[rows("old")], [rows("older")]]))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "remove_files", killed)
    with pytest.raises(KeyboardInterrupt):
        commit(*stage(tmp_path, "parquet", [[rows("new")]]))
    monkeypatch.undo()
    assert ids(tmp_path) == ["new", "old", "older"]  # what other readers see
    assert read(tmp_path) == ["new"]
    assert len(match_files(f"{tmp_path}/*.parquet")) == 1
    commit(*stage(tmp_path, "parquet", [[rows("more")]]), mode="append")
    assert ids(tmp_path) == ["more", "new"]
    assert list(tmp_path.glob(".beam-gpte-replaces-*")) == []


def test_a_note_removes_nothing_but_files_of_the_folder(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    [file] = commit(*stage(other, "parquet", [[rows("other")]]))
    staged, destination = stage(out, "parquet", [[rows("new")]])
    name = destination.set_name("part", WHOLE, [each.path for each in staged])
    commit(staged, destination)
    notes = [f'["../other/{Path(file.path).name}", "../x", 7]', "not JSON", "{}"]
    for count, note in enumerate(notes):
        (out / note_of(name)).write_text(note)
        assert read(out) == ["a"] * count + ["new"]
        commit(*stage(out, "parquet", [[rows("a")]]), mode="append")
    assert read(other) == ["other"]
    assert read(out) == ["a", "a", "a", "new"]


OTHER_CONTAINER = """
import sys, time
from pathlib import Path
from beam_gpte.elements.block import Block
from tests.sinks.test_write_parquet import stage
stage(Path(sys.argv[1]), "parquet", [[Block.from_pydict({"id": ["theirs"]})]])
print("staged", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("apart", [True, False])
def test_a_commit_deletes_no_staged_file_of_another_process_space(
    tmp_path: Path, apart: bool
) -> None:
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"] if apart else []
    if apart and subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("process spaces cannot be made here")
    child = subprocess.Popen(
        [*wrapper, sys.executable, "-c", OTHER_CONTAINER, str(tmp_path), "60"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"staged\n"
    commit(*stage(tmp_path, "parquet", [[rows("a")]]))
    assert len(list(tmp_path.glob(".beam-gpte-tmp-*/*.staged"))) == 1
    child.kill()
    child.wait()
    child.stdout.close()
    commit(*stage(tmp_path, "parquet", [[rows("b")]]))
    # of a process space that is gone nothing is known; of a process here that is gone, it is
    assert len(list(tmp_path.glob(".beam-gpte-tmp-*/*.staged"))) == int(apart)


def test_an_old_folder_of_an_unknown_process_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / ".beam-gpte-tmp-parquet-000000000000-ffffffff-7-0"
    for age, stays in ((0, True), (leftovers.ABANDONED_SECONDS + 60, False)):
        folder.mkdir(exist_ok=True)
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
        commit(*stage(tmp_path, "parquet", [[rows("a")]]))
        assert folder.exists() == stays


def test_workers_that_the_owner_did_not_start_own_their_staged_files() -> None:
    _, destination = stage(Path("out"), "parquet", [])
    assert at_work(destination.temporary) == destination.temporary
    start, machine, process, token = destination.temporary.rsplit("-", 3)
    child = subprocess.Popen(["sleep", "60"])  # a process that is not above this one
    elsewhere = f"{start}-{machine}-{child.pid}-{token}"
    assert at_work(elsewhere) == f"{start}-00000000-{child.pid}-{token}"
    assert at_work(f"{start}-ffffffff-{process}-{token}").endswith(f"-00000000-{process}-{token}")
    child.kill()
    child.wait()


def test_a_database_is_a_file_whatever_link_leads_to_it(tmp_path: Path) -> None:
    for path in (":memory:", f"{tmp_path}/:memory:x"):
        with pytest.raises(InputError, match="a database in memory ends with the process"):
            WriteVectorsToDuckDB(path)
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", str(tmp_path), f"{tmp_path}/pipe"):
        with pytest.raises(InputError, match="this is not a file, and cannot be a database"):
            WriteVectorsToDuckDB(path)
    real = tmp_path / "real" / "corpus.duckdb"
    real.parent.mkdir()
    (tmp_path / "link.duckdb").symlink_to(real)
    write([rows("a")], WriteVectorsToDuckDB(f"{tmp_path}/link.duckdb"))
    with connect(f"{tmp_path}/link.duckdb", "link") as connection:
        connection.execute("INSERT INTO vectors VALUES ('b')")
        # where who opens the file itself finds it after a crash
        assert parts(real.parent) == ["corpus.duckdb", "corpus.duckdb.wal"]
    with duckdb.connect(str(real)) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("name", "sink"), [("out", WriteVectorsToParquet), ("out.duckdb", WriteVectorsToDuckDB)]
)
def test_a_mirror_of_nothing_under_the_name_of_a_run_with_rows_is_refused(
    name: str, sink: type, tmp_path: Path
) -> None:
    out = tmp_path / name
    write([rows("a")], sink(str(out), mode="mirror", run="monday"))
    words = r"run 'monday' has written 1 rows to .*, and these 0 are not the same"
    with pytest.raises(InputError, match=words):
        write([], sink(str(out), mode="mirror", run="monday"))
    assert read(out) == ["a"]
    write([], sink(str(out), mode="mirror", run="tuesday"))
    if out.is_dir():
        assert list(out.glob("*.parquet")) == []
    else:
        assert read(out) == []


@pytest.mark.parametrize("mode", ["replace", "mirror"])
def test_files_of_the_first_version_in_partitions_are_not_replaced(
    mode: str, tmp_path: Path
) -> None:
    old = tmp_path / "lang=de" / "part-0123456789ab-00000-of-00001.parquet"
    old.parent.mkdir()
    pq.write_table(pa.table({"id": ["old"]}), old)
    lang = pa.array(["de"])
    sink = WriteVectorsToParquet(str(tmp_path), mode, partition_by="lang")
    words = "lang=de/part-.* does not say of which folder, as those of version 0.1.0; move it away"
    with pytest.raises(InputError, match=words):
        write([rows("new", lang=lang)], sink)
    assert pq.ParquetFile(old).read().to_pydict() == {"id": ["old"]}
    old.rename(tmp_path / "old.parquet")
    write([rows("new", lang=lang)], sink)
    assert [path.name for path in old.parent.iterdir()] != [old.name]


def test_a_ledger_of_an_earlier_version_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    sink = WriteVectorsToDuckDB(str(path), mode="insert", run="monday")
    write([rows("a", "b")], sink)
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE beam_gpte_commits DROP COLUMN digest")
    write([rows("b", "a")], sink)
    with pytest.raises(Exception, match="run 'monday' has written 2 rows to table 'vectors' of"):
        write([rows("c")], sink)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchall() == [(2,)]


class _Letters(NonMergingWindowFn):
    def assign(self, context: object) -> list:
        return [GlobalWindow()]

    def get_window_coder(self) -> beam.coders.Coder:
        return beam.coders.BytesCoder()


def test_windows_that_no_file_can_be_named_after_are_refused_while_the_graph_is_built() -> None:
    blocks = beam.Pipeline() | beam.Create([embedded(0, 1)]) | beam.WindowInto(_Letters())
    with pytest.raises(InputError, match="windows of _Letters are not intervals of time"):
        blocks | WriteVectorsToParquet("out", mode="append")


@pytest.mark.parametrize("windows", [FixedWindows(60), SlidingWindows(20, 10)])
def test_a_sink_adds_no_window_function_of_its_own(windows: beam.WindowInto) -> None:
    pipeline = beam.Pipeline()
    source = pipeline | TestStream(coder=beam.coders.registry.get_coder(Block))
    source | beam.WindowInto(windows) | WriteVectorsToParquet("out", "append", num_shards=2)
    strategies = pipeline.to_runner_api().components.windowing_strategies.values()
    known = {"global_windows", "fixed_windows", "sliding_windows"}
    assert {each.window_fn.urn.split(":")[2] for each in strategies} <= known


def test_a_stream_that_ends_well_leaves_no_folder(tmp_path: Path) -> None:
    staged, destination = stage(tmp_path, "parquet", [[rows("a")], [rows("b")]])
    commit(staged[:1], destination, Pane("w", 0), "append")
    assert len(parts(tmp_path)) == 2  # the other file waits
    commit(staged[1:], destination, Pane("w", 1), "append")
    assert all(name.startswith("part-") for name in parts(tmp_path))


@pytest.mark.parametrize("existing", [False, True])
def test_a_relative_path_is_of_the_process_that_builds_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    """Workers of a cluster have other working directories."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for folder in (here, there) if existing else ():
        write([rows("old")], WriteVectorsToParquet(str(folder / "vectors")))
    monkeypatch.chdir(here)
    pipeline = beam.Pipeline("FnApiRunner")
    known = pipeline | "Known" >> beam.Create([rows("a", "b")]).with_output_types(Block)
    known | "Parquet" >> WriteVectorsToParquet("vectors")
    known | "DuckDB" >> WriteVectorsToDuckDB("vectors.duckdb")
    known | "Rejects" >> WriteRejects("rejects")
    {"rows": known} | "Summary" >> WriteSummary("summary.json")
    names = {"vectors", "vectors.duckdb", "rejects", "summary.json"}
    before = set(os.listdir(there))
    monkeypatch.chdir(there)
    pipeline.run()
    assert set(os.listdir(there)) == before
    assert names <= set(os.listdir(here))
    assert read(here / "vectors") == read(here / "vectors.duckdb") == ["a", "b"]
