"""Start Prism, Beam's runner in Go, as a server; workers are threads of the launching program."""

from tests.engines.engine import Engine
from tests.engines.fetch import PRISM
from tests.engines.processes import free_port, wait_for_port


class Prism(Engine):
    """Run batch jobs and streams on this machine."""

    name = "prism"
    streams = True

    def start(self) -> None:
        """Start the server."""
        self._jobs = free_port()
        flags = [f"-job_port={self._jobs}", "-serve_http=false", "-log_level=warn"]
        self.processes.start("prism", [str(PRISM), *flags])
        wait_for_port("localhost", self._jobs, self.processes, "prism")

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self._jobs}",
            "--environment_type=LOOPBACK",
        ]
