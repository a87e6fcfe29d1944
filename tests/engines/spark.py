"""Start Beam's job server for Spark, with Spark inside on two threads, and a pool of workers."""

from pathlib import Path

from tests.engines.fetch import jars
from tests.engines.processes import Processes, free_port, java, wait_for_port, worker_pool

JOB_SERVER = "org.apache.beam.runners.spark.SparkJobServerDriver"
MASTER = "local[2]"


class Spark:
    """Run batch jobs; Beam's portable runner for Spark has no streams."""

    name = "spark"
    streams = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(folder)
        self._jobs, self._pool = free_port(), free_port()
        arguments = {
            "spark-master-url": MASTER,
            "job-host": "localhost",
            "job-port": self._jobs,
            "artifact-port": 0,
            "expansion-port": 0,
            "artifacts-dir": folder / "artifacts",
        }
        flags = [f"--{name}={value}" for name, value in arguments.items()]
        command = java(jars("spark"), JOB_SERVER, *flags, options=["-Xmx3g"])
        try:
            self.processes.start("job-server", command)
            self.processes.start("pool", *worker_pool(self._pool))
            wait_for_port("localhost", self._jobs, self.processes, "job-server")
        except BaseException:
            self.close()
            raise

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self._jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self._pool}",
        ]

    def logs(self) -> str:
        """Return the end of what its processes printed."""
        return self.processes.ends()

    def close(self) -> None:
        """End everything that was started."""
        self.processes.end_all()
