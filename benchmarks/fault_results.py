"""Count what faults do to rows, and keep a line for each kill, so that a series can go on.

{"fault": "kills_in_sync", "seed": 1, "number": 0, "moment": 0.41, "repeated": 0.0, "lost": 0, ...}
"""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

from benchmarks.fault_runs import Bench, Rows, duckdb_rows, parquet_rows

DIFFERENCES = ("lost", "duplicated", "wrong", "stale", "mixed")


@dataclasses.dataclass
class Differences:
    """Count the rows that are not those of an undisturbed run.

    Attributes:
      lost: rows that are missing.
      duplicated: rows that are there once too often.
      wrong: rows that differ from those of an undisturbed run, and are not stale.
      stale: rows of the state before: in an old version, or that should be gone.
      mixed: reads of something between the state before and the one after.
    """

    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    stale: int = 0
    mixed: int = 0

    def compare(self, expected: Rows, found: Rows, before: Rows = ()) -> None:  # type: ignore[assignment]
        """Add the differences between what an undisturbed run writes and what was found."""
        truth, times = {row[0]: row for row in expected}, Counter(row[0] for row in found)
        self.lost += len(truth.keys() - times.keys())
        self.duplicated += sum(n - 1 for n in times.values())
        different = [row for row in found if truth.get(row[0]) != row]
        stale = sum(row in before for row in different)
        self.stale += stale
        self.wrong += len(different) - stale

    def compare_output(self, expected: Rows, output: Path, before: Rows = ()) -> None:  # type: ignore[assignment]
        """Add the differences in the folder and in the database."""
        self.compare(expected, parquet_rows(output), before)
        self.compare(expected, duckdb_rows(f"{output}.duckdb"), before)

    def compare_reject(self, name: str, output: Path) -> None:
        """Add the differences between the rejects and the one for the whole file `name`."""
        paths = (output / "rejects").glob("*.jsonl")
        lines = [json.loads(line) for path in paths for line in path.open()]
        self.compare([(f"{name}:0", "", ())], [(line["id"], "", ()) for line in lines])

    @property
    def any(self) -> bool:
        """Whether there is a difference."""
        return any(getattr(self, name) for name in DIFFERENCES)


@dataclasses.dataclass
class Kill(Differences):
    """Describe one kill, and what it did to the rows.

    Attributes:
      moment: the share of the work that was done, or of the time that it takes.
      repeated: what the model does again, as a share of its work; None if that is not counted.
    """

    moment: float = 0
    repeated: float | None = None


@dataclasses.dataclass
class Outcome(Differences):
    """Count what happened to the rows after one kind of fault.

    Attributes:
      fault: what happens.
      faults: how often; a process that had finished before its moment is not counted.
    """

    fault: str = ""
    faults: int = 0

    def add(self, kill: Kill) -> None:
        """Count a kill."""
        self.faults += 1
        for name in DIFFERENCES:
            setattr(self, name, getattr(self, name) + getattr(kill, name))


class Results:
    """Keep the kills of a seed in a file of JSON lines; without a file, nothing.

    Args:
      path: of the file.
      seed: lines of another are left alone.
    """

    def __init__(self, path: Path | None, seed: int) -> None:
        self._path, self._seed = path, seed

    def known(self, fault: str) -> list[Kill]:
        """Read the kills of a fault; a line that a kill of this program has cut does not count."""
        found = []
        lines = self._path.read_text().split("\n") if self._path and self._path.exists() else []
        for line in lines[:-1]:
            about = json.loads(line)
            if (about.pop("fault"), about.pop("seed")) == (fault, self._seed):
                del about["number"]
                found.append(Kill(**about))
        return found

    def add(self, fault: str, number: int, kills: list[Kill]) -> None:
        """Add the lines of kills at once, the first with this number."""
        if self._path is None:
            return
        known = self._path.read_text() if self._path.exists() else ""
        whole = known[: known.rfind("\n") + 1]
        lines = [
            json.dumps(
                {"fault": fault, "seed": self._seed, "number": n, **dataclasses.asdict(kill)}
            )
            for n, kill in enumerate(kills, number)
        ]
        new = self._path.with_name(f".{self._path.name}")
        new.write_text(whole + "".join(f"{line}\n" for line in lines))
        new.replace(self._path)


UNRECORDED = Results(None, 0)


class Series:
    """Count the kills of one fault, from where the file of results ends."""

    def __init__(self, bench: Bench, fault: str, title: str, results: Results) -> None:
        self.outcome = Outcome(fault=title)
        for kill in results.known(fault):
            self.outcome.add(kill)
        self._bench, self._fault, self._results = bench, fault, results
        self.draw("series")

    def draw(self, what: int | str) -> random.Random:
        """Begin to draw for a kill, or for what all of them share: the same in every series."""
        self._bench.random = random.Random(f"{self._bench.seed} {self._fault} {what}")
        return self._bench.random

    @property
    def number(self) -> int:
        """The number of the next kill."""
        return self.outcome.faults

    def add(self, *kills: Kill) -> None:
        """Count kills, and write them down."""
        self._results.add(self._fault, self.number, list(kills))
        for kill in kills:
            self.outcome.add(kill)
            if kill.repeated is not None:
                print(
                    f"  killed at {kill.moment:.0%}: {kill.repeated:.1%} embedded again", flush=True
                )
