"""Start a Flink cluster of two hosts, with a Beam job server and a pool of workers on each host.

    launcher --> job server --> job manager --> task manager of each host --> its worker pool

Memory is what Flink gives by default, 1,728 MB to a task manager, written out because the script
that would compute the sizes is not among the jars. One setting is not the default: Flink reserves
512 of its 4,096 network buffers for each collection that a stage keeps for a later one, in every
slot, unless the parallelism is below `sort-shuffle.min-parallelism`. Beam's stages keep up to 8.
"""

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path

from tests.engines.engine import Engine
from tests.engines.fetch import jars
from tests.engines.hosts import Host, Hosts
from tests.engines.processes import (
    OFFLINE,
    free_port,
    java,
    job_server_flags,
    program_flags,
    wait_for_port,
    worker_pool,
)

HOSTS = 2
SLOTS = 2  # of each host
SILENCE = 50  # seconds, Flink's default: less, and a machine that is busy loses hosts
MANAGED = 512  # megabytes, Flink's default
POOL_PORT = 15000  # of each host, which has ports of its own
MASTER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
CONFIGURATION = """
jobmanager.rpc.address: {launcher}
jobmanager.rpc.port: {rpc}
jobmanager.memory.process.size: 1600m
rest.address: {launcher}
rest.port: {rest}
rest.bind-address: 0.0.0.0
jobmanager.bind-host: 0.0.0.0
taskmanager.bind-host: 0.0.0.0
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: {slots}
taskmanager.load-balance.mode: SLOTS
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.task.heap.size: 384m
taskmanager.memory.managed.size: {managed}m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.network.min: 128m
taskmanager.memory.network.max: 128m
taskmanager.network.sort-shuffle.min-parallelism: 1000
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 2 s
heartbeat.interval: 2000
pekko.ask.timeout: 60 s
heartbeat.timeout: {silence}
state.checkpoints.dir: file://{folder}/checkpoints
state.savepoints.dir: file://{folder}/savepoints
io.tmp.dirs: {folder}/tmp
blob.storage.directory: {folder}/blobs
blob.service.cleanup.interval: 60
classloader.resolve-order: parent-first
"""


class Flink(Engine):
    """Run jobs on a cluster of two hosts, or of one where no more can be made.

    Args:
      folder: for logs, checkpoints and what tasks keep.
      hosts: with a task manager each.
      silence: seconds after which a task manager that says nothing is taken for dead.
      managed: megabytes of a task manager to sort and combine in, by default what Flink gives. All
        steps of a job share them, and no element may be larger than the share of the step.
    """

    name = "flink"
    streams = True

    def __init__(
        self, folder: Path, hosts: int = HOSTS, silence: int = SILENCE, managed: int = MANAGED
    ) -> None:
        self.network, self._silence, self._managed = Hosts(hosts), silence, managed
        self.rest, self._jobs = free_port(), free_port()
        super().__init__(folder)

    def start(self) -> None:
        """Start the cluster and the job server."""
        disks = [self.disk(host).name for host in self.network.hosts]
        for name in ("tmp", "blobs", "checkpoints", "savepoints", "artifacts", "conf", *disks):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        configuration = CONFIGURATION.format(
            launcher=self.network.launcher,
            rpc=free_port(),
            rest=self.rest,
            slots=SLOTS,
            silence=1000 * self._silence,
            folder=self.folder,
            managed=self._managed,
        )
        (self.folder / "conf" / "config.yaml").write_text(configuration, encoding="utf-8")
        self.start_job_manager()
        for host in self.network.hosts:
            self.start_task_manager(host)
            self.start_pool(host)
        self.start_job_server()

    def start_job_manager(self) -> None:
        """Start the process that plans jobs and restarts what failed."""
        self._start_java("job-manager", MASTER, *self._configured(), options=["-Xmx1g"])
        wait_for_port(self.network.launcher, self.rest, self.processes, "job-manager")

    def start_task_manager(self, host: Host) -> None:
        """Start the process of a host that runs tasks."""
        number = self.network.hosts.index(host) + 1
        memory = ["-Xmx512m", "-XX:MaxDirectMemorySize=256m", "-XX:MaxMetaspaceSize=256m"]
        own = [f"taskmanager.host={host.address}", f"io.tmp.dirs={self.disk(host)}"]
        command = [*self._configured(), *(part for value in own for part in ("-D", value))]
        self._start_java(
            f"task-manager-{number}", TASK_MANAGER, *command, options=memory, host=host
        )

    def start_pool(self, host: Host) -> None:
        """Start the process of a host that starts Python workers."""
        number = self.network.hosts.index(host) + 1
        command = [*host.enter, *worker_pool(POOL_PORT)]
        self.processes.start(f"pool-{number}", command, {**OFFLINE, "TMPDIR": str(self.disk(host))})

    def disk(self, host: Host) -> Path:
        """Name the folder of a host for what its tasks and workers keep for a while."""
        return self.folder / f"disk-{self.network.hosts.index(host) + 1}"

    def start_job_server(self) -> None:
        """Start the process that takes Beam's jobs."""
        address = self.network.launcher
        flags = [f"--flink-master={address}:{self.rest}"]
        flags += job_server_flags(address, self._jobs, self.folder)
        self._start_java("job-server", JOB_SERVER, *flags, options=["-Xmx1g"])
        wait_for_port(address, self._jobs, self.processes, "job-server")

    def _configured(self) -> list[str]:
        return ["--configDir", str(self.folder / "conf")]

    def _start_java(
        self, name: str, main: str, *arguments: str, options: list[str], host: Host | None = None
    ) -> None:
        command = java(jars("flink"), main, *arguments, options=options)
        self.processes.start(name, [*(host.enter if host else ()), *command])

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        parallelism = f"--parallelism={SLOTS * len(self.network.hosts)}"
        return [*program_flags(f"{self.network.launcher}:{self._jobs}", POOL_PORT), parallelism]

    def ask(self, path: str) -> dict:
        """Ask Flink's REST API, e.g. for "jobs/overview"."""
        with urllib.request.urlopen(f"http://{self.network.launcher}:{self.rest}/{path}") as answer:
            return json.load(answer)

    def cancel(self, job: str) -> None:
        """End a job that its launcher has left; one that has ended stays as it is."""
        url = f"http://{self.network.launcher}:{self.rest}/jobs/{job}?mode=cancel"
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(urllib.request.Request(url, method="PATCH")),
        ):
            pass

    def close(self) -> None:
        """End everything that was started, and take the hosts away."""
        super().close()
        self.network.remove()
