"""Start Beam's job server for Spark, with Spark inside on two threads, and a pool of workers."""

from tests.engines.engine import Engine
from tests.engines.fetch import jars
from tests.engines.processes import (
    OFFLINE,
    free_port,
    java,
    job_server_flags,
    program_flags,
    wait_for_port,
    worker_pool,
)

JOB_SERVER = "org.apache.beam.runners.spark.SparkJobServerDriver"
MASTER = "local[2]"


class Spark(Engine):
    """Run batch jobs; Beam's portable runner for Spark has no streams."""

    name = "spark"
    streams = False

    def start(self) -> None:
        """Start the job server and the pool."""
        self._jobs, self._pool = free_port(), free_port()
        flags = job_server_flags("localhost", self._jobs, self.folder)
        command = java(
            jars("spark"), JOB_SERVER, f"--spark-master-url={MASTER}", *flags, options=["-Xmx3g"]
        )
        self.processes.start("job-server", command)
        self.processes.start("pool", worker_pool(self._pool), OFFLINE)
        wait_for_port("localhost", self._jobs, self.processes, "job-server")

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        return program_flags(f"localhost:{self._jobs}", self._pool)
