"""Run `beam-gpte stream` over a folder: feed it files, read its output, end it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import psutil
import pyarrow.parquet as pq

from tests.engines.processes import OFFLINE
from tests.programs import ROOT

CHECKPOINTS = "--checkpointing_interval=3000"  # milliseconds; Flink's
PARALLELISM = "--parallelism=2"  # a stream has 13 stages, each with a worker
SECONDS = 300  # until a stream has started, written what it was fed, or ended, beside other work


class Stream:
    """Start, feed and end the stream of one output, again and again.

    Args:
      folder: for input, output and what launchers print.
      model: the folder of a model.
      flags: of the runner.
    """

    def __init__(self, folder: Path, model: str, flags: list[str]) -> None:
        self.folder, self.inbox, self.output = folder, folder / "inbox", folder / "out"
        self.database, self.fed = folder / "out.duckdb", set[str]()
        self.inbox.mkdir(parents=True)
        self._flags = [
            f"--model={model}",
            "--interval=1",
            "--every=2",
            CHECKPOINTS,
            *flags,
            PARALLELISM,
        ]
        self._launchers: list[subprocess.Popen] = []

    def launch(self, *more: str) -> subprocess.Popen:
        """Start a launcher, with more flags if there are any, and wait until it has checked them.

        Whoever reads the database meanwhile would be in its way.
        """
        name = f"launcher-{len(self._launchers)}.log"
        places = [f"--input={self.inbox}/*.jsonl", f"--output={self.output}"]
        command = [sys.executable, str(ROOT / "pipelines" / "embed_stream.py"), *places]
        with (self.folder / name).open("wb") as log:
            started = subprocess.Popen(
                [*command, f"--duckdb={self.database}", *self._flags, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self._launchers.append(started)
        deadline = time.monotonic() + SECONDS
        while "watching" not in self.printed() and started.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return started

    def printed(self) -> str:
        """Return what the last launcher has printed."""
        path = self.folder / f"launcher-{len(self._launchers) - 1}.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def feed(self, name: str, count: int, age: float = 0) -> None:
        """Let a file of texts appear, last changed so many seconds ago."""
        written, path = self.folder / "written", self.inbox / f"{name}.jsonl"
        rows = [{"text": f"text {number} of {name}"} for number in range(count)]
        written.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        changed = time.time() - age
        os.utime(written, (changed, changed))
        written.rename(path)
        self.fed |= {f"{path.name}:{number + 1}" for number in range(count)}

    def counts(self) -> list[Counter[str]]:
        """Count the ids in the Parquet files, and in the database."""
        parquet = Counter[str]()
        for path in self.output.glob("*.parquet"):
            parquet.update(pq.read_table(path, columns=["id"])["id"].to_pylist())
        return [parquet, self._in_database()]

    def _in_database(self) -> Counter[str]:
        for _ in range(SECONDS):
            try:
                with duckdb.connect(str(self.database), read_only=True) as database:
                    found = database.sql("SELECT id FROM vectors").fetchall()
                return Counter(name for (name,) in found)
            except duckdb.CatalogException:
                return Counter()
            except duckdb.IOException:  # not there yet, or a commit has it
                if not self.database.exists():
                    return Counter()
                time.sleep(0.3)
        raise TimeoutError(f"{self.database} stays locked")

    def faults(self) -> tuple[int, int]:
        """Count the rows that are lost and those that are doubled, in both outputs."""
        counts = self.counts()
        lost = sum(len(self.fed - count.keys()) for count in counts)
        return lost, sum(count.total() - len(count) for count in counts)

    def wait(self, seconds: float = SECONDS) -> float:
        """Wait until both outputs have all rows; return the seconds that it took.

        Raises:
          TimeoutError: they have not, after all.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.faults()[0] == 0:
                return time.monotonic() - began
            time.sleep(0.5)
        raise TimeoutError(f"{self.faults()[0]} rows are not written\n{self.printed()[-4000:]}")

    def processes(self) -> list[psutil.Process]:
        """List the last launcher, and what it started."""
        launcher = psutil.Process(self._launchers[-1].pid)
        return [launcher, *launcher.children(recursive=True)]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the last launcher; return its exit code."""
        self._launchers[-1].send_signal(number)
        return self._launchers[-1].wait(SECONDS)

    def close(self) -> None:
        """Kill all launchers and what they started."""
        for launcher in self._launchers:
            if launcher.poll() is None:
                for process in psutil.Process(launcher.pid).children(recursive=True):
                    process.kill()
                launcher.kill()
            launcher.wait()
