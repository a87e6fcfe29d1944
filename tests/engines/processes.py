"""Start the processes of an engine, each with a log, and end them and all that they started."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from beam_gpte.cli.worker_pool import is_listening

READY_SECONDS = 90  # until a process answers; Java starts slowly beside other work
OFFLINE = {"HF_HUB_OFFLINE": "1"}  # for what starts workers: no model comes from the hub
LOG_END = 4000  # characters of a log that are shown
OPENED = (  # packages of the JDK that Flink, Spark and Beam reach into, closed since Java 17
    *("java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio"),
    *("java.text", "java.time", "java.util", "java.util.concurrent", "sun.nio.ch", "sun.nio.cs"),
    *("java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.net.util"),
    *("sun.security.action", "sun.util.calendar"),
)


class Processes:
    """Start and end processes by name.

    Args:
      folder: for their logs, `<name>.log`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: dict[str, subprocess.Popen] = {}

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a process at the head of a group of its own."""
        with self.log(name).open("ab") as log:
            self._started[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Name the file that a process prints to."""
        return self.folder / f"{name}.log"

    def names(self) -> list[str]:
        """List what was started."""
        return list(self._started)

    def ends(self) -> str:
        """Return the last lines of all logs."""
        texts = {
            name: self.log(name).read_text(encoding="utf-8", errors="replace")
            for name in self._started
        }
        return "\n".join(f"== {name}\n{text[-LOG_END:]}" for name, text in texts.items())

    def is_running(self, name: str) -> bool:
        """Return whether a process has not ended."""
        return self._started[name].poll() is None

    def family(self, name: str) -> list[psutil.Process]:
        """List a process and all of its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._started[name].pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process and all of its descendants; wait for the end of a kill."""
        for process in self.family(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if number == signal.SIGKILL:
            self._started[name].wait()

    def end_all(self) -> None:
        """Kill everything."""
        for name in reversed(self._started):
            self.end(name)


def wait_for_port(address: str, port: int, processes: Processes, name: str) -> None:
    """Wait until a process listens.

    Raises:
      RuntimeError: it ended, or does not listen in time; with the end of its log.
    """
    deadline = time.monotonic() + READY_SECONDS
    while processes.is_running(name) and time.monotonic() < deadline:
        if is_listening(address, port):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{name} does not listen at {address}:{port}\n{processes.ends()}")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def java(jars: Path, main: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """Make the command of a Java program.

    Args:
      jars: the folder of its class path.
      main: its class.
      arguments: of the program.
      options: of the Java machine.
    """
    opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", *opens, quiet, *options, "-cp", f"{jars}/*", main, *arguments]


def job_server_flags(address: str, port: int, folder: Path) -> list[str]:
    """Give the flags that all of Beam's job servers take; see `worker_pool` for the other side."""
    artifacts = f"--artifacts-dir={folder / 'artifacts'}"
    where = [f"--job-host={address}", f"--job-port={port}"]
    return [*where, "--artifact-port=0", "--expansion-port=0", artifacts]


def program_flags(jobs: str, pool: int) -> list[str]:
    """Give the flags of a program whose job goes to a job server, and its workers to pools.

    Args:
      jobs: host and port of the job server.
      pool: port of the pool of each host.
    """
    environment = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]
    return ["--runner=PortableRunner", f"--job_endpoint={jobs}", *environment]


def worker_pool(port: int) -> list[str]:
    """Make the command that runs Beam's workers of a host in one process."""
    return [sys.executable, "-m", "beam_gpte.cli.worker_pool", f"--port={port}"]
