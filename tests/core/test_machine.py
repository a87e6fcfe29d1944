"""How many cores and how much memory a process may use, in control groups of both versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beam_gpte.core import machine
from beam_gpte.core.machine import usable_cores, usable_memory

GB = 1 << 30
V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1_CPU = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
NO_LIMIT = str((1 << 63) - 4096)  # of version 1


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(machine, "installed_memory", lambda: 256 * GB)


def tree(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> str:
    """Make the files that a kernel shows."""
    for name, content in {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "\n".join(mounts),
        **{f"sys/fs/cgroup/{name}": content for name, content in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return str(root)


# name: lines of /proc/self/cgroup, mounts, files, cores, memory
TREES = {
    "no control groups": ("", [], {}, 64, 256 * GB),
    "version 2, no limits": (
        "0::/",
        [V2_MOUNT.format(root="/")],
        {"cpu.max": "max 100000", "memory.max": "max"},
        64,
        256 * GB,
    ),
    "version 2, a container": (
        "0::/",
        [V2_MOUNT.format(root="/")],
        {"cpu.max": "100000 100000", "memory.max": str(2 * GB)},
        1,
        2 * GB,
    ),
    "version 2, half a core": (
        "0::/",
        [V2_MOUNT.format(root="/")],
        {"cpu.max": "50000 100000"},
        1,
        256 * GB,
    ),
    "version 2, one core and a half": (
        "0::/",
        [V2_MOUNT.format(root="/")],
        {"cpu.max": "75000 50000"},
        2,
        256 * GB,
    ),
    "version 2, the limit is above": (
        "0::/kubepods/pod1/box",
        [V2_MOUNT.format(root="/")],
        {
            "kubepods/cpu.max": "3200000 100000",
            "kubepods/pod1/cpu.max": "300000 100000",
            "kubepods/pod1/box/cpu.max": "max 100000",
            "kubepods/memory.max": str(8 * GB),
            "kubepods/pod1/memory.high": str(3 * GB),
            "kubepods/pod1/box/memory.max": "max",
        },
        3,
        3 * GB,
    ),
    "version 2, the group of the host is named": (
        "0::/docker/abc",
        [V2_MOUNT.format(root="/docker/abc")],
        {"cpu.max": "200000 100000", "memory.max": str(GB)},
        2,
        GB,
    ),
    "version 2, a group beside the mounted one": (
        "0::/../other",
        [V2_MOUNT.format(root="/")],
        {"cpu.max": "400000 100000"},
        4,
        256 * GB,
    ),
    "version 1, no limits": (
        "4:memory:/\n2:cpu,cpuacct:/",
        [V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": NO_LIMIT,
        },
        64,
        256 * GB,
    ),
    "version 1, a container": (
        "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc",
        [V1_CPU.format(root="/docker/abc"), V1_MEMORY.format(root="/docker/abc")],
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/cpu.cfs_period_us": "50000",
            "memory/memory.limit_in_bytes": str(GB),
        },
        3,
        GB,
    ),
    "version 1, the limit is above": (
        "4:memory:/a/b\n2:cpu,cpuacct:/a/b",
        [V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        {
            "cpu,cpuacct/a/cpu.cfs_quota_us": "100000",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
            "memory/a/memory.limit_in_bytes": str(5 * GB),
            "memory/a/b/memory.limit_in_bytes": NO_LIMIT,
        },
        1,
        5 * GB,
    ),
    "both versions": (
        "4:memory:/a\n2:cpu,cpuacct:/\n0::/",
        [V1_CPU.format(root="/"), V1_MEMORY.format(root="/")],
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "memory/a/memory.limit_in_bytes": str(7 * GB),
        },
        64,
        7 * GB,
    ),
    "files that say nothing": (
        "garbage\n0::/x",
        [V2_MOUNT.format(root="/"), "short"],
        {"cpu.max": "", "memory.max": "much", "x/cpu.max": "0 0"},
        64,
        256 * GB,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_smallest_limit_at_any_level_counts(tmp_path: Path, name: str) -> None:
    groups, mounts, files, cores, memory = TREES[name]
    root = tree(tmp_path, groups, mounts, files)
    assert (usable_cores(root), usable_memory(root)) == (cores, memory)


def test_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    files = {"cpu.max": "400000 100000"}
    root = tree(tmp_path, "0::/", [V2_MOUNT.format(root="/")], files)
    assert usable_cores(root) == 2


def test_a_process_that_is_bound_to_one_core_uses_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from beam_gpte.core.machine import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
