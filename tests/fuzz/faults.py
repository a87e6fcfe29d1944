"""Keep in a folder the inputs that a target does not stand, and the one that it is working on."""

import dataclasses
import hashlib
import json
import signal
from pathlib import Path

LATE = 70  # the exit code of the fuzzer


@dataclasses.dataclass(frozen=True)
class Fault:
    """Describe an input that the target does not stand.

    Attributes:
      problem: the error, or how the process ended.
      input: the file with its bytes, relative to the folder.
    """

    problem: str
    input: str


class Faults:
    """List the faults of a folder."""

    def __init__(self, folder: Path) -> None:
        """Read those that are there."""
        self._folder, self._list = folder, folder / "faults.jsonl"
        lines = self._list.read_text().splitlines() if self._list.exists() else ()
        self.found = [Fault(**json.loads(line)) for line in lines]

    def is_known(self, problem: str) -> bool:
        """Return whether another input showed the same."""
        return any(fault.problem == problem for fault in self.found)

    def note(self, data: bytes, problem: str) -> None:
        """Add a fault."""
        fault = Fault(problem, f"{hashlib.sha256(data).hexdigest()[:16]}.input")
        (self._folder / fault.input).write_bytes(data)
        with self._list.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(fault)) + "\n")
        self.found.append(fault)


def write_current(folder: Path, number: int, data: bytes) -> None:
    """Say which input comes next, in case that it ends the process."""
    (folder / "current").write_bytes(number.to_bytes(8, "little") + data)


def current(folder: Path) -> tuple[int, bytes]:
    """Give the number of the last input of a process, 0 for none, and its bytes."""
    path = folder / "current"
    found = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    return int.from_bytes(found[:8], "little"), found[8:]


def ending(code: int) -> str:
    """Say how a process ended."""
    if code in (LATE, -signal.SIGPROF):
        return "not done in time"
    return f"the process ended: {signal.Signals(-code).name if code < 0 else code}"
