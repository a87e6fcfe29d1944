"""Provide private folders that vanish with the process that made them, however it ends.

A folder is open to its user alone. Its process locks it, and the kernel drops the lock with the
process: the next folder of this user beside it removes those that nobody locks, such as those of a
process that was killed.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Begins the name of every such folder.
PREFIX = "beam-gpte-scratch-"
_TRIES = 100


class ScratchFolder:
    """Make a folder for this process; `close` removes it, or the end of the process.

    Attributes:
      path: of the folder.
    """

    def __init__(self, parent: str | Path | None = None, prefix: str = PREFIX) -> None:
        """Make the folder, and remove those of the user that no process uses any more.

        Args:
          parent: the folder to make it in; None for the system's folder for temporary files.
          prefix: begins its name, and the names of those to remove.
        """
        place = Path(parent or tempfile.gettempdir()).absolute()
        remove_unused(place, prefix)
        self.path, self._lock = _locked_folder(place, prefix)
        self._process = os.getpid()
        atexit.register(self.close)

    def close(self) -> None:
        """Remove the folder, if this process made it; it may be gone already."""
        atexit.unregister(self.close)
        if self._lock >= 0 and self._process == os.getpid():
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Leave the folder to others: it is not removed, but by the next one beside it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Provide the path of a private folder, which is removed at the end."""
    folder = ScratchFolder()
    try:
        yield str(folder.path)
    finally:
        folder.close()


def user_folder(name: str) -> Path | None:
    """Return a private folder among the system's temporary files that this user's processes share.

    Returns:
      None if something else is in its place: a link, a folder of another user or one that others
      can change. What is in it is not to be used.
    """
    path = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    return path if is_private(path) else None


def is_private(path: Path) -> bool:
    """Check for a folder of this user, no link, that no one else can read or change."""
    about = path.lstat()
    return (
        stat.S_ISDIR(about.st_mode)
        and about.st_uid == os.getuid()
        and not stat.S_IMODE(about.st_mode) & 0o077
    )


def remove_unused(parent: Path, prefix: str) -> None:
    """Remove the folders of this user in `parent` that no process locks."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                _remove_if_unused(entry.path)


def _remove_if_unused(path: str) -> None:
    with contextlib.suppress(OSError):  # another process locks it, or was first to remove it
        if not is_private(Path(path)):
            return
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder and lock it; another process may remove it before it is locked."""
    for _ in range(_TRIES):
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks, which no one removes
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path):
                return Path(path), lock
            os.close(lock)
    raise OSError(f"{parent}: folders made here vanish at once")
