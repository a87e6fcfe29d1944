"""Say what an engine is: something that is started, takes jobs by flags of Beam, and is ended."""

import abc
from pathlib import Path

from tests.engines.processes import Processes


class Engine(abc.ABC):
    """Run jobs until closed.

    Args:
      folder: for logs and what else the engine keeps.

    Attributes:
      name: "prism", "flink" or "spark".
      streams: whether it runs unbounded collections.
      processes: that were started.
    """

    name: str
    streams: bool

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.processes = folder, Processes(folder)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @abc.abstractmethod
    def start(self) -> None:
        """Start all processes, and wait until jobs are taken."""

    @abc.abstractmethod
    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""

    def logs(self) -> str:
        """Return the end of what its processes printed."""
        return self.processes.ends()

    def close(self) -> None:
        """End everything that was started."""
        self.processes.end_all()
