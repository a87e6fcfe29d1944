"""Find out how many cores and how much memory this process may use.

A container has a share of a machine: control groups limit its cores and memory, at any level above
its process, and an affinity mask or a set of cores limits where it runs. What the machine has is
read by `os.cpu_count()`, and is too much.
"""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

# Files of a control group, by the controller of version 1 that has them; version 2 has all.
_V2 = "unified"


def usable_cores(root: str = "/") -> int:
    """Return how many threads can run at once: at least 1, and a part of a core counts as one.

    Args:
      root: where ``proc`` and ``sys`` are, for tests.
    """
    limits = [float(_affinity())]
    for kind, folder in _groups(Path(root), "cpu"):
        if kind == _V2:
            quota, period = (*_words(folder / "cpu.max"), "max", "100000")[:2]
        else:
            quota = (*_words(folder / "cpu.cfs_quota_us"), "-1")[0]
            period = (*_words(folder / "cpu.cfs_period_us"), "100000")[0]
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            limits.append(int(quota) / int(period))
    return max(1, math.ceil(min(limits)))


def usable_memory(root: str = "/") -> int:
    """Return how many bytes of memory this process may use, with all others of its group.

    Args:
      root: where ``proc`` and ``sys`` are, for tests.
    """
    limits = [installed_memory()]
    for kind, folder in _groups(Path(root), "memory"):
        names = ("memory.max", "memory.high") if kind == _V2 else ("memory.limit_in_bytes",)
        words = [word for name in names for word in _words(folder / name)]
        limits += [int(word) for word in words if word.isdigit()]
    return min(limits)


@functools.cache
def cores() -> int:
    """Return `usable_cores` of this process, read once."""
    return usable_cores()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_memory() -> int:
    """Return how many bytes of memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield the folders of the groups that this process is in, of both versions, with all above.

    A container sees its own group as the root of the mount, whatever /proc/self/cgroup says.
    """
    paths = _paths(root)
    for kind, mounted, place in _mounts(root):
        if controller not in kind and _V2 not in kind:
            continue
        path = paths.get(_V2 if _V2 in kind else controller, "/")
        if mounted != "/":
            path = path.removeprefix(mounted) if path.startswith(mounted) else "/"
        top = root / place.lstrip("/")
        names = [name for name in path.split("/") if name not in ("", "..")]
        for depth in range(len(names), -1, -1):
            yield (_V2 if _V2 in kind else controller), top.joinpath(*names[:depth])


def _paths(root: Path) -> dict[str, str]:
    """Return the path of this process's group by controller: lines as ``4:cpu,cpuacct:/a/b``."""
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths[_V2] = path
        for controller in filter(None, controllers.split(",")):
            paths[controller] = path
    return paths


def _mounts(root: Path) -> Iterator[tuple[set[str], str, str]]:
    """Yield the controllers, the mounted group and the place of each mount of control groups."""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, rest = line.partition(" - ")
        fields, about = mount.split(" "), rest.split(" ")
        if len(fields) < 5 or not about[0].startswith("cgroup"):
            continue
        kind = {_V2} if about[0] == "cgroup2" else set(about[-1].split(","))
        group, place = (field.replace("\\040", " ") for field in fields[3:5])
        yield kind, group, place


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a group that is gone
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
