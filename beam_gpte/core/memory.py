"""What a process does with memory that it has freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MB of what is freed, for what is needed next.

    By default it returns much of it to the system, which hands it out again filled with zeros: a tenth of MiniLM's time, and
    a twentieth of mining.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(
            _M_MMAP_THRESHOLD, 32 << 20
        )  # bytes; larger ones are mapped, and unmapped when they are freed
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)
