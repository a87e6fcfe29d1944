"""The programs that change an output, run as a user does: delete, compact, rollback."""

import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_gpte import WriteVectorsToDuckDB, WriteVectorsToParquet
from tests.cli.test_programs import PROCESSES
from tests.programs import Done, finish
from tests.sinks.test_write_parquet import embedded, write


def beam_gpte(folder: Path, *arguments: str) -> Done:
    """Run a command in a folder, and check that it ends well."""
    done = finish(["-m", "beam_gpte", *arguments], str(folder))
    assert done.returncode == 0, done.stderr
    return done


def figures(done: Done) -> dict[str, str]:
    """Read a summary: of each line its name and what is behind it; the last of a name."""
    lines = (line.strip().partition("  ") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in lines if value}


def ids_of(folder: Path) -> list[str]:
    files = sorted(folder.glob("**/*.parquet"))
    return sorted(
        value for file in files for value in pq.ParquetFile(file).read()["id"].to_pylist()
    )


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file, with what tells whether it is the same one."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_four(folder: Path, **options: object) -> None:
    """Write n0 to n7, two to a file; n4 and n5 are chunks of `text`, and even ones are German."""
    for first in range(0, 8, 2):
        parents = pa.array(["text", "text"] if first == 4 else [None, None], pa.string())
        block = embedded(first, first + 2, parent_id=parents, language=pa.array(["de", "en"]))
        into = WriteVectorsToParquet(f"{folder}/vectors", mode="append", **options)  # type: ignore[arg-type]
        write([block], into)
        write([block], WriteVectorsToDuckDB(f"{folder}/vectors.duckdb"))


@pytest.fixture
def four(tmp_path: Path) -> Path:
    write_four(tmp_path)
    (tmp_path / "ids.txt").write_text("n1\r\n\ntext\nn99")
    return tmp_path


def stored_ids(database: Path) -> list[str]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return [
            value for (value,) in connection.execute("SELECT id FROM vectors ORDER BY 1").fetchall()
        ]


LEFT = ["n0", "n2", "n3", "n6", "n7"]


def test_ids_leave_both_places_of_an_output_with_their_chunks(four: Path) -> None:
    before = files_of(four / "vectors")
    done = beam_gpte(four, "delete", "vectors", "vectors.duckdb", "--ids", "ids.txt")
    assert ids_of(four / "vectors") == stored_ids(four / "vectors.duckdb") == LEFT
    after = files_of(four / "vectors")
    assert len(before.items() & after.items()) == 2  # the other files are not touched
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[:3] == ["ids 3", "deleted 3 rows of vectors", "deleted 3 rows of vectors.duckdb"]
    again = beam_gpte(four, "delete", "vectors", "vectors.duckdb", "--ids", "ids.txt")
    assert figures(again)["deleted"] == "0 rows of vectors.duckdb"
    assert files_of(four / "vectors") == after


def test_a_dry_run_counts_what_would_go_and_changes_nothing(four: Path) -> None:
    before = files_of(four)
    done = beam_gpte(four, "delete", "vectors.duckdb", "vectors", "--ids", "ids.txt", "--dry-run")
    assert files_of(four) == before
    found = figures(done)
    assert (found["ids"], found["ids not found"]) == ("3", "1")
    assert found["would go"] == "3 rows of vectors"
    assert done.stdout.endswith("nothing was changed; without --dry_run these rows are deleted\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.csv", "x,id\n1,n1\n2,\n3,text\n"),
        ("ids.tsv", "x\tid\n1\tn1\n3\ttext\n"),
        ("ids.jsonl", '{"id": "n1"}\n\n{"id": null}\n{"id": "text", "x": 1}\n'),
        ("ids.parquet", ["n1", None, "text"]),
    ],
)
def test_ids_are_a_column_of_any_file(four: Path, name: str, content: str | list) -> None:
    if isinstance(content, list):
        pq.write_table(pa.table({"id": content, "x": [1, 2, 3]}), four / name)
    else:
        (four / name).write_text(content)
    done = beam_gpte(four, "delete", "vectors", "--ids", name)
    assert ids_of(four / "vectors") == LEFT
    assert figures(done)["ids"] == "2"


def test_ids_are_integers_too_and_have_another_name(tmp_path: Path) -> None:
    pl.DataFrame({"key": [1, 2, 3], "text": ["a", "b", "c"]}).write_parquet(tmp_path / "in.parquet")
    block = embedded(0, 3, key=pa.array([1, 2, 3]))
    write([block], WriteVectorsToParquet(f"{tmp_path}/vectors"))
    (tmp_path / "ids.jsonl").write_text('{"key": 2}\n{"key": 30}\n')
    beam_gpte(tmp_path, "delete", "vectors", "--ids", "ids.jsonl", "--id_column", "key")
    assert ids_of(tmp_path / "vectors") == ["n0", "n2"]


def test_ids_of_another_encoding(tmp_path: Path) -> None:
    block = embedded(0, 2, key=pa.array(["größer", " größer "]))
    write([block], WriteVectorsToParquet(f"{tmp_path}/vectors"))
    (tmp_path / "ids.txt").write_bytes("größer\n".encode("utf-16"))
    arguments = ["--ids", "ids.txt", "--encoding", "utf-16", "--id_column", "key"]
    beam_gpte(tmp_path, "delete", "vectors", *arguments)
    assert ids_of(tmp_path / "vectors") == ["n1"]  # a space is a part of an id


def test_a_place_with_two_names_is_one(four: Path) -> None:
    done = beam_gpte(four, "delete", "vectors", "./vectors/", "--ids", "ids.txt")
    assert done.stdout.count("deleted") == 1
    assert figures(done)["deleted"] == "3 rows of vectors"


def test_worker_processes_delete_and_compact(four: Path) -> None:
    beam_gpte(four, "delete", "vectors", "vectors.duckdb", "--ids", "ids.txt", *PROCESSES)
    assert ids_of(four / "vectors") == stored_ids(four / "vectors.duckdb") == LEFT
    beam_gpte(four, "compact", "vectors", *PROCESSES)
    assert len(list((four / "vectors").glob("*.parquet"))) == 1
    assert ids_of(four / "vectors") == LEFT


def test_what_is_kept_can_be_put_back_and_taken_again(four: Path) -> None:
    everything = ids_of(four / "vectors")
    both = ["delete", "vectors", "vectors.duckdb", "--ids", "ids.txt", "--keep_previous"]
    beam_gpte(four, *both)  # what is kept is of the folder
    back = beam_gpte(four, "rollback", "vectors", "--keep-previous")
    assert ids_of(four / "vectors") == everything
    assert (figures(back)["files"], figures(back)["rows"]) == ("2", "4")
    beam_gpte(four, "rollback", "vectors")
    assert ids_of(four / "vectors") == LEFT
    done = finish(["-m", "beam_gpte", "rollback", "vectors"], str(four))
    assert (done.returncode, done.stdout) == (2, "")


def test_a_deletion_forgets_what_an_earlier_change_kept(four: Path) -> None:
    beam_gpte(four, "compact", "vectors", "--keep_previous")
    assert list(four.glob("vectors/.beam-gpte-previous-*/part-*.kept"))
    beam_gpte(four, "delete", "vectors", "--ids", "ids.txt")
    assert not list(four.glob("vectors/.beam-gpte-previous-*"))
    assert ids_of(four / "vectors") == LEFT


def test_small_files_become_one_of_each_partition(tmp_path: Path) -> None:
    write_four(tmp_path, partition_by="language")
    vectors, before = tmp_path / "vectors", files_of(tmp_path / "vectors")
    dry = figures(beam_gpte(tmp_path, "compact", "vectors", "--dry_run"))
    assert (dry["files"], dry["files after"], dry["put together"]) == ("8", "2", "8")
    assert files_of(vectors) == before
    done = figures(beam_gpte(tmp_path, "compact", "vectors", "--keep_previous"))
    assert (done["files"], done["files after"], done["rows in them"]) == ("8", "2", "8")
    assert int(done["bytes after"].replace(",", "")) < int(done["bytes"].replace(",", ""))
    counts = {
        path.parent.name: pq.read_metadata(path).num_rows for path in vectors.glob("**/*.parquet")
    }
    assert counts == {"language=de": 4, "language=en": 4}
    inspected = json.loads(beam_gpte(tmp_path, "inspect", "vectors", "--json").stdout)
    assert inspected["rows"] == 8
    (tmp_path / "ids.txt").write_text("n0\nn1\n")
    beam_gpte(tmp_path, "rollback", "vectors", "--keep_previous")
    assert len(list(vectors.glob("**/*.parquet"))) == 8
    beam_gpte(tmp_path, "delete", "vectors", "--ids", "ids.txt")
    assert ids_of(vectors) == ["n2", "n3", "n4", "n5", "n6", "n7"]
    left = [pq.read_metadata(path).num_rows for path in vectors.glob("**/*.parquet")]
    assert sorted(left) == [0, 1, 1, 1, 1, 1, 1]  # an empty set stands for the two that are gone


def test_few_files_stay_as_they_are(four: Path) -> None:
    beam_gpte(four, "compact", "vectors")
    before = files_of(four / "vectors")
    done = figures(beam_gpte(four, "compact", "vectors"))
    assert (done["files"], done["files after"], done["new files"]) == ("1", "1", "0")
    assert files_of(four / "vectors") == before
