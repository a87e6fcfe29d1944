"""Choose the device of this process: where a host has several GPUs, each process takes one.

A process holds a lock on its card, a file in the temporary folder, as long as it lives. Processes
that find every card taken share them.
"""

import fcntl
import os
import tempfile
import threading
from pathlib import Path

_lock = threading.Lock()
_taken: list[tuple[int, int]] = []  # the number of this process's card, and the handle of its lock


def choose_device(asked: str) -> str:
    """Return a device of torch: ``cpu``, or a GPU.

    Args:
      asked: ``auto`` for a GPU if there is one, ``cuda`` for any GPU; another is returned as it is.
    """
    import torch

    if asked not in ("auto", "cuda"):
        return asked
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and asked == "auto":
        return "cpu"
    return "cuda" if count < 2 else f"cuda:{_card(count)}"


def _card(count: int) -> int:
    """Return the number of this process's card, the same at every call."""
    with _lock:
        if not _taken:
            _taken.append(_take(count))
        return _taken[0][0]


def _take(count: int) -> tuple[int, int]:
    """Take the first card that no other process has, or share one."""
    for number in range(count):
        handle = os.open(_path(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        else:
            return number, handle
    return os.getpid() % count, -1


def _path(number: int) -> Path:
    """Return the file whose lock stands for a card, the same in all processes that see it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = visible[number].strip() if number < len(visible) else ""
    return Path(tempfile.gettempdir(), f"beam_gpte-card-{os.getuid()}-{name or number}.lock")
