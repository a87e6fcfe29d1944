"""Private folders that vanish with their process: who can read them, and what removes them."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import apache_beam as beam
import pytest

from beam_gpte.files import scratch
from beam_gpte.files.scratch import PREFIX, ScratchFolder, temporary_folder, user_folder
from beam_gpte.shuffle.spill import new_spill_folder


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def holder(folder: Path, ending: str) -> subprocess.Popen:
    """Start a process that makes a folder with a file and says so, then ends as given."""
    code = (
        "import os, sys; from beam_gpte.files.scratch import ScratchFolder\n"
        f"folder = ScratchFolder({str(folder)!r}); (folder.path / 'rows').write_text('secret')\n"
        f"print(folder.path, flush=True); sys.stdin.read(); {ending}"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def path_of(process: subprocess.Popen) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def end(process: subprocess.Popen) -> None:
    process.communicate(timeout=30)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_open_to_its_user_alone_and_removed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with temporary_folder() as path:
            assert mode(Path(path)) == 0o700
            Path(path, "file").touch()
    finally:
        os.umask(before)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), temporary_folder():
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_the_end_of_the_process_removes_its_folders(tmp_path: Path) -> None:
    process = holder(tmp_path, "sys.exit(1)")
    path = path_of(process)
    assert (path / "rows").exists()
    end(process)
    assert not path.exists()


def test_a_folder_in_use_stays_and_that_of_a_killed_process_goes(tmp_path: Path) -> None:
    killed, alive = holder(tmp_path, "pass"), holder(tmp_path, "pass")
    left, used = path_of(killed), path_of(alive)
    killed.send_signal(signal.SIGKILL)
    end(killed)
    assert (left / "rows").exists()
    other = ScratchFolder(tmp_path)
    assert not left.exists()
    assert (used / "rows").exists()
    end(alive)
    assert sorted(tmp_path.iterdir()) == [other.path]
    other.close()
    other.close()  # a second time is fine
    assert not list(tmp_path.iterdir())


def test_a_child_that_was_forked_removes_nothing(tmp_path: Path) -> None:
    code = (
        "import os; from beam_gpte.files.scratch import ScratchFolder\n"
        f"folder = ScratchFolder({str(tmp_path)!r})\n"
        "if os.fork() == 0: folder.close(); os._exit(0)\n"
        "os.wait(); print(folder.path.exists())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not list(tmp_path.iterdir())


def test_what_is_no_leftover_of_this_user_is_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}open").mkdir(0o755)  # these folders are made for one user
    ScratchFolder(tmp_path).close()
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"target", f"{PREFIX}link", f"{PREFIX}file", f"{PREFIX}open"}
    assert (target / "mine").exists()


def test_a_folder_that_vanishes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def vanishing(**places: str) -> str:
        made.append(make(**places))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", vanishing)
    folder = ScratchFolder(tmp_path)
    assert str(folder.path) == made[1]
    folder.close()


def test_a_folder_of_the_user_is_shared_by_processes_and_private(tmp_path: Path) -> None:
    path = user_folder("models")
    assert path == tmp_path / f"models-{os.getuid()}"
    assert mode(path) == 0o700
    assert user_folder("models") == path


@pytest.mark.parametrize("kind", ["link", "file", "open", "stranger"])
def test_what_is_in_the_place_of_a_users_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, target = tmp_path / f"models-{os.getuid()}", tmp_path / "target"
    target.mkdir(0o700)
    if kind == "link":
        path.symlink_to(target)
    elif kind == "file":
        path.touch()
    else:
        path.mkdir(0o777 if kind == "open" else 0o700)
        path.chmod(0o777 if kind == "open" else 0o700)
    if kind == "stranger":
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        path.rename(tmp_path / f"models-{uid + 1}")
    assert user_folder("models") is None


def test_rows_on_a_disk_vanish_with_their_pipeline(tmp_path: Path) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    path = Path(new_spill_folder(str(tmp_path / "new" / "scratch"), pipeline))
    assert mode(path) == 0o700
    finalized = [one for one in weakref.finalize._registry if one.peek()[0] is pipeline]  # type: ignore[attr-defined, index]
    del pipeline
    for one in finalized:
        one()  # what the garbage collector does
    assert not path.exists()
    assert path.parent.exists()
