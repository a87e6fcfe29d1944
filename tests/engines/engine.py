"""Say what an engine is: something that is started, takes jobs by flags of Beam, and is ended."""

from pathlib import Path
from typing import Protocol


class Engine(Protocol):
    """Run jobs until closed.

    Attributes:
      name: "prism", "flink" or "spark".
      streams: whether it runs unbounded collections.
    """

    name: str
    streams: bool

    def __init__(self, folder: Path) -> None: ...

    def flags(self) -> list[str]:
        """Give the flags of a program that runs its pipeline here."""
        ...

    def logs(self) -> str:
        """Return the end of what its processes printed."""
        ...

    def close(self) -> None:
        """End everything that was started."""
        ...
