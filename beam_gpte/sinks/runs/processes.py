"""Tell whether the process that owns a temporary folder is still running.

A number names a process within one boot of one machine and one process namespace: two containers
of the same host name both have a process 7. Of a process elsewhere nothing is known.
"""

import hashlib
import os
import socket
import sys
import uuid
from functools import cache
from pathlib import Path

ELSEWHERE = "0" * 8  # the machine of an owner of which nothing can be known


@cache
def machine() -> str:
    """Return a hash of what process numbers are unique in: host, boot and process namespace."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
            parts += [boot, str(os.stat("/proc/self/ns/pid").st_ino)]
        except OSError:  # no /proc of its own: this process cannot tell others apart
            parts.append(uuid.uuid4().hex)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Return whether a process of this machine is running; one that was killed is not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return _stat(process)[:1] != ["Z"]  # ended, but not yet asked for by the one that started it


def is_above(process: int) -> bool:
    """Return whether a process is this one or started it, directly or through others."""
    current = os.getpid()
    while current > 1:
        if current == process:
            return True
        current = _parent(current)
    return current == process


@cache
def at_work(folder: str) -> str:
    """Return the temporary folder to use in this process: of its owner, if that started it."""
    _, *owner, _ = folder.rsplit("-", 3)
    return folder if owner[0] == machine() and is_above(int(owner[1])) else elsewhere(folder)


def elsewhere(folder: str) -> str:
    """Return the temporary folder for processes that the owner of this one has not started."""
    start, _, process, token = folder.rsplit("-", 3)
    return "-".join([start, ELSEWHERE, process, token])


def _parent(process: int) -> int:
    if process == os.getpid():
        return os.getppid()
    return int("".join(_stat(process)[1:2]) or 0)


def _stat(process: int) -> list[str]:
    """Read the state of a process, its parent and more; nothing where the system does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()
