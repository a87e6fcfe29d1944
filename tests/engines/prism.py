"""Start Prism, Beam's runner in Go, as a server; workers are threads of the launching program."""

from pathlib import Path

from tests.engines.fetch import PRISM
from tests.engines.processes import Processes, free_port, wait_for_port


class Prism:
    """Run batch jobs and streams on this machine."""

    name = "prism"
    streams = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(folder)
        self._jobs = free_port()
        flags = [f"-job_port={self._jobs}", "-serve_http=false", "-log_level=warn"]
        try:
            self.processes.start("prism", [str(PRISM), *flags])
            wait_for_port("localhost", self._jobs, self.processes, "prism")
        except BaseException:
            self.close()
            raise

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self._jobs}",
            "--environment_type=LOOPBACK",
        ]

    def logs(self) -> str:
        """Return the end of what its processes printed."""
        return self.processes.ends()

    def close(self) -> None:
        """End everything that was started."""
        self.processes.end_all()
