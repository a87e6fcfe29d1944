"""What a run with a name has committed is known, whatever was written again since."""

import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from beam_gpte import Block
from beam_gpte.core.errors import InputError
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.folders.commit_rewritten import Rewritten, commit_changes
from beam_gpte.sinks.folders.parquet_folder import LAYOUT, own_files
from beam_gpte.sinks.folders.rewrite_files import Place, Room, empty_file, read_batches
from beam_gpte.sinks.runs import publish
from beam_gpte.sinks.runs.folder_state import read_state
from beam_gpte.sinks.write_parquet import commit_parquet
from tests.commits import changes
from tests.commits.changes import RERUN, Change
from tests.programs import PRELOAD
from tests.sinks.test_write_parquet import stage

PANES = 6  # of each process
WRITERS = 2
COMPACTIONS = 12


def append(out: Path, run: str, pane: Pane, *rows: str) -> list[WrittenFile]:
    """Commit a file for each word, as a pane of a run."""
    staged, destination = changes.stage_rows("parquet", str(out), rows, run)
    return commit_parquet(staged, pane, destination, "append")


def change(out: Path, what: str) -> None:
    """Change a folder, as of `tests.commits.changes`."""
    changes.apply(Change("parquet", what, False, RERUN), str(out), None)


@pytest.mark.parametrize("pane", [Pane(), Pane("w", 3)], ids=["whole", "pane"])
@pytest.mark.parametrize(
    "steps",
    [
        [changes.COMPACT],
        [changes.SYNC],
        [changes.DELETE],
        [changes.COMPACT, changes.SYNC, changes.COMPACT],
        [changes.DELETE_ALL],
    ],
    ids=" then ".join,
)
def test_a_run_whose_rows_were_written_again_is_repeated_without_effect(
    steps: list[str], pane: Pane, tmp_path: Path
) -> None:
    append(tmp_path, "monday", pane, *changes.OLD)
    append(tmp_path, "tuesday", Pane(), "x1", "y1")
    for what in steps:
        change(tmp_path, what)
    before = changes.rows_in("parquet", str(tmp_path))
    assert append(tmp_path, "monday", pane, *changes.OLD) == []
    assert append(tmp_path, "tuesday", Pane(), "x1", "y1") == []
    assert changes.rows_in("parquet", str(tmp_path)) == before


def test_other_rows_of_a_run_whose_rows_were_put_together_are_refused(tmp_path: Path) -> None:
    append(tmp_path, "monday", Pane(), *changes.OLD)
    change(tmp_path, changes.COMPACT)
    with pytest.raises(InputError, match="has written 5 rows to .* and these 1 are not the same"):
        append(tmp_path, "monday", Pane(), "z1")


def test_a_pane_that_is_appended_while_others_are_put_together_stays(tmp_path: Path) -> None:
    append(tmp_path, "stream", Pane("w", 0), *changes.OLD)
    planned = changes.plan(Change("parquet", changes.COMPACT, False, RERUN), str(tmp_path))
    append(tmp_path, "stream", Pane("w", 1), "f1")
    commit_changes(planned.rewritten, planned.destination, False)
    assert changes.rows_in("parquet", str(tmp_path)) == changes.rows_of((*changes.OLD, "f1"))
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    for number, rows in ((0, changes.OLD), (1, ("f1",))):
        assert append(tmp_path, "stream", Pane("w", number), *rows) == []


def test_two_that_put_the_same_files_together_do_so_once(tmp_path: Path) -> None:
    append(tmp_path, "monday", Pane(), *changes.OLD)
    planned = [
        changes.plan(Change("parquet", changes.COMPACT, False, RERUN), str(tmp_path))
        for _ in range(2)
    ]
    commit_changes(planned[0].rewritten, planned[0].destination, False)
    with pytest.raises(InputError, match="was replaced by another run meanwhile"):
        commit_changes(planned[1].rewritten, planned[1].destination, False)
    assert changes.rows_in("parquet", str(tmp_path)) == changes.rows_of(changes.OLD)


def test_a_change_that_is_committed_again_after_another_one_loses_nothing(tmp_path: Path) -> None:
    append(tmp_path, "monday", Pane(), *changes.OLD)
    sync = Change("parquet", changes.SYNC, False, RERUN)
    planned = changes.plan(sync, str(tmp_path))
    changes.apply(sync, str(tmp_path), planned)
    staged, destination = changes.stage_rows("parquet", str(tmp_path), ("a3b1d1", "e1f1"))
    later = changes.Planned(staged, changes.find_changes(staged, destination), destination)
    changes.apply(Change("parquet", changes.SYNC, True, RERUN), str(tmp_path), later)
    changes.apply(sync, str(tmp_path), planned)  # as a runner does that has lost the answer
    assert changes.rows_in("parquet", str(tmp_path)) == changes.rows_of(("a3b1d1", "e1f1"))
    changes.roll_back(str(tmp_path))
    assert changes.rows_in("parquet", str(tmp_path)) == changes.rows_of(changes.SYNCED)


def append_panes(out: Path, writer: int) -> None:
    """Append panes, each of three files of a row."""
    for pane in range(PANES):
        names = [f"{writer} {pane} {n}" for n in range(3)]
        bundles = [[Block.from_pydict({"id": [name], "text": ["1"]})] for name in names]
        staged, destination = stage(out, "parquet", bundles, f"writer {writer}")
        commit_parquet(staged, Pane("w", pane), destination, "append")


def put_together(out: Path) -> None:
    """Put files together again and again."""
    for _ in range(COMPACTIONS):
        change(out, changes.COMPACT)


def test_processes_that_append_and_one_that_puts_files_together_lose_and_double_nothing(
    tmp_path: Path,
) -> None:
    append_panes(tmp_path, WRITERS)  # what there is to put together at first
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "tests.commits.kills"])
    work = [(append_panes, (tmp_path, writer)) for writer in range(WRITERS)]
    processes = [context.Process(target=f, args=a) for f, a in [*work, (put_together, (tmp_path,))]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * (WRITERS + 1)
    change(tmp_path, changes.COMPACT)
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    for writer in range(WRITERS + 1):
        append_panes(tmp_path, writer)  # which are all known
    expected = Counter(
        f"{writer} {pane} {n}1"
        for writer in range(WRITERS + 1)
        for pane in range(PANES)
        for n in range(3)
    )
    assert changes.rows_in("parquet", str(tmp_path)) == expected
    assert changes.leftovers(str(tmp_path), keep=False) == []


def test_two_replacements_at_once_lose_nothing_where_no_lock_keeps_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, "monday", Pane(), "a1", "b1", "c1")
    before, real = read_state(str(tmp_path), "part", ".parquet"), publish.finish_replacements
    delete(tmp_path, "a")
    known = iter([before])  # what a second run has listed before the first one was done
    monkeypatch.setattr(publish, "finish_replacements", lambda *of: next(known, None) or real(*of))
    delete(tmp_path, "c")
    monkeypatch.undo()
    assert changes.rows_in("parquet", str(tmp_path)) == Counter(["b1"])
    change(tmp_path, changes.COMPACT)
    assert changes.rows_in("parquet", str(tmp_path)) == Counter(["b1"])
    assert append(tmp_path, "monday", Pane(), "a1", "b1", "c1") == []


def delete(out: Path, row: str) -> None:
    """Take the only row of a file out of a folder."""
    destination = Destination.new(str(out), "parquet")
    room = Room(destination.temporary, destination.launch.token)
    for path in own_files(str(out)):
        place = Place(f"{out}/{path}")
        ids = [batch["id"].to_pylist() for batch in read_batches(place.path)]
        if ids == [[row]]:
            gone = Rewritten(
                path, False, True, empty_file(place, room), LAYOUT.digest(place.path, "")
            )
            commit_changes([gone], destination, False)
