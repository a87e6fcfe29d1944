"""Break a part of a running cluster, and repair it as its operator would.

A kill is SIGKILL, to the process and all of its descendants: nothing is said to anybody. A paused
host says nothing either until its work has been given to another; then it goes on with its own.
"""

import contextlib
import dataclasses
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.engines.flink import Flink

DISK_MB = 256  # of each host and of the outputs that are tried so
OUTPUTS = 0  # the number of the disk of outputs
GONE_SECONDS = 90  # until a task manager that is silent is taken for dead
STARTS, STAGED, COMMITTED = "of the job", "after a file is staged", "after a file is committed"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Describe one fault.

    Attributes:
      kind: a key of `KINDS`.
      host: whose part breaks, counted from 1.
      moment: what `after` counts from: a fraction of an undisturbed job, or seconds after a file
        appears.
      after: that, when it breaks.
      seconds: that it stays broken.
    """

    kind: str
    host: int
    moment: str
    after: float
    seconds: float


def draw(kind: str, chance: random.Random) -> Fault:
    """Draw a fault of a kind: anywhere in a job, or close to what it writes."""
    moment = chance.choice([STARTS, STARTS, STAGED, COMMITTED])
    after = chance.uniform(0.1, 1.0) if moment == STARTS else chance.choice([0, 0.05, 0.5, 2])
    return Fault(kind, chance.choice([1, 2]), moment, after, chance.uniform(0, 12))


class Disk:
    """Mount a small disk at a folder, for somebody to fill."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rest = folder, folder / "fills-the-disk"
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no byte."""
        with contextlib.suppress(OSError), self._rest.open("ab") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    def free(self) -> None:
        """Give the rest back."""
        self._rest.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the disk away, whoever uses it."""
        _run("umount", "--lazy", str(self._folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Cluster:
    """Hold a Flink cluster whose parts break, with a disk for each host.

    Args:
      folder: for logs and disks.
      silence: seconds after which a task manager that says nothing is taken for dead.

    Attributes:
      flink: the cluster.
      outputs: a folder on a disk that may fill.
    """

    def __init__(self, folder: Path, silence: int) -> None:
        self.folder = folder
        self.outputs = folder / "outputs"
        disks = {OUTPUTS: self.outputs, 1: folder / "disk-1", 2: folder / "disk-2"}
        # before the hosts: what is mounted later they do not see
        self._disks = {number: Disk(place) for number, place in disks.items()}
        self.flink = Flink(folder, silence=silence)

    def break_(self, fault: Fault, is_over: Callable[[], bool]) -> None:
        """Break a part, and repair it after the fault's seconds.

        Args:
          fault: what to do.
          is_over: whether the job has ended, and nobody waits for the repair.
        """
        number, processes = fault.host, self.flink.processes
        names = [name.format(number) for name in KINDS[fault.kind]]
        if fault.kind == PAUSE:
            self._signal(names, signal.SIGSTOP)
            wait_until(lambda: self.hosts() < 2 or is_over(), GONE_SECONDS)
        elif fault.kind == WORKER:
            for process in processes.family(names[0])[1:]:
                process.kill()
        elif fault.kind in DISKS:
            self._disks[number if fault.kind == DISK else OUTPUTS].fill()
        else:
            for name in names:
                processes.end(name)
        time.sleep(fault.seconds)
        if fault.kind == PAUSE:
            self._signal(names, signal.SIGCONT)
        elif fault.kind in DISKS:
            self._disks[number if fault.kind == DISK else OUTPUTS].free()
        self.repair()

    def _signal(self, names: list[str], number: int) -> None:
        for name in names:
            self.flink.processes.end(name, number)

    def repair(self) -> None:
        """Start again whatever has ended."""
        flink, is_running = self.flink, self.flink.processes.is_running
        if not is_running("job-manager"):
            flink.start_job_manager()
        for number, host in enumerate(flink.network.hosts, 1):
            if not is_running(f"task-manager-{number}"):
                flink.start_task_manager(host)
            if not is_running(f"pool-{number}"):
                flink.start_pool(host)
        if not is_running("job-server"):
            flink.start_job_server()

    def hosts(self) -> int:
        """Count the task managers that the job manager knows."""
        with contextlib.suppress(OSError):
            return len(self.flink.ask("taskmanagers")["taskmanagers"])
        return 0

    def jobs(self) -> list[str]:
        """List the jobs that have not ended."""
        with contextlib.suppress(OSError):
            ended = ("FINISHED", "FAILED", "CANCELED")
            jobs = self.flink.ask("jobs/overview")["jobs"]
            return [job["jid"] for job in jobs if job["state"] not in ended]
        return ["unknown"]

    def close(self) -> None:
        """End everything, and take the disks away."""
        self.flink.close()
        for disk in self._disks.values():
            disk.remove()


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so; return whether it is in time."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


WORKER, PAUSE, DISK, OUTPUT = "worker process", "paused host", "full disk", "full output"
DISKS = (DISK, OUTPUT)
KINDS = {  # what breaks together
    WORKER: ["pool-{}"],
    "pool": ["pool-{}"],
    "task manager": ["task-manager-{}"],
    "job server": ["job-server"],
    "job manager": ["job-manager"],
    "host": ["task-manager-{}", "pool-{}"],
    PAUSE: ["task-manager-{}", "pool-{}"],
    DISK: [],
    OUTPUT: [],
}
