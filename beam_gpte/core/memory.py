"""Keep memory that a process has freed for its next allocations."""

import ctypes
import sys

# Parameters of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# Larger blocks are mapped, and unmapped when they are freed.
_MMAP_BYTES = 32 << 20
_KEPT_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Make glibc keep up to 256 MB of freed memory for reuse.

    By default it returns much of it to the system, which hands it out again filled with zeros: a
    tenth of MiniLM's time, and a twentieth of mining's.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
