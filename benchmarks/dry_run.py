"""Compare what `--dry_run` predicts with what the run takes.

    python -m benchmarks.dry_run FOLDER --model MODEL [--only "embed, short" stream ...]
        [--rows 1000 6000]

Texts are docstrings of the standard library, repeated with a number in front of each where more
rows are asked for. For each case the dry run comes first and the run right after it, each a process
of its own: seconds of the clock, CPU seconds, peak memory (resident set), and bytes of the files
that are new or others than before. A line ends with the figures that are more than 30 % off. The
clock depends on what else runs; compare CPU seconds where the machine is shared. Mining compares
first lines with themselves, half of which are others on one side. A stream is ended as soon as all
rows are committed. Half of what a sync changes has another text, half of the rest is new.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.dry_run_cases import CASES, Case

NAMES = ("seconds", "CPU seconds", "memory", "written")
LIMIT = 0.3
MIN_DIFFERENCE = 0.01
MEGABYTE = 1_000_000
LOOK_SECONDS = 0.2  # between two looks at the output of a stream
Files = dict[Path, tuple[int, int]]  # size, and time of the last change


def run(command: list[str], log: Path, until: tuple[Path, int] | None = None) -> dict[str, float]:
    """Run a command; return what it took.

    Args:
      command: of the program.
      log: gets what it prints.
      until: a folder, and the rows in it at which the command is asked to end.
    """
    began = time.monotonic()
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "beam_gpte", *command], stdout=out, stderr=subprocess.STDOUT
        )
    if until is not None:
        while _rows_in(until[0]) < until[1] and _is_running(started.pid):
            time.sleep(LOOK_SECONDS)
        started.send_signal(signal.SIGTERM)
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    return {
        "seconds": time.monotonic() - began,
        "CPU seconds": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024 / MEGABYTE,
    }


def _rows_in(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def _is_running(process: int) -> bool:
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process, options) is None


def predicted(log: Path) -> dict[str, float]:
    found = re.findall(r"^ *(.+?)  about ([\d,.e+-]+)", log.read_text(), re.MULTILINE)
    return {name: float(number.replace(",", "")) for name, number in found}


def files_in(folder: Path) -> Files:
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    return {path: (about.st_size, about.st_mtime_ns) for path, about in files}


def compare(name: str, case: Case, folder: Path) -> None:
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    if case.before is not None and case.previous is not None:
        shutil.rmtree(case.previous, ignore_errors=True)
        run([*case.before, "--output", str(case.previous)], folder / "before.log")
        if case.is_start:
            shutil.copytree(case.previous, output)
    command = [*case.command, "--output", str(output)]
    dry = run([*command, "--dry_run"], folder / "dry.log")
    expected, there = predicted(folder / "dry.log"), files_in(output)
    until = (output, case.rows) if case.command[0] == "stream" else None
    taken = run(command, folder / "run.log", until)
    new = {path: about for path, about in files_in(output).items() if there.get(path) != about}
    taken["written"] = sum(size for size, _ in new.values()) / MEGABYTE
    ratios = {figure: expected[figure] / taken[figure] for figure in NAMES}
    apart = [one for one in NAMES if abs(expected[one] - taken[one]) >= MIN_DIFFERENCE]
    off = [figure for figure in apart if not 1 - LIMIT <= ratios[figure] <= 1 + LIMIT]
    shown = [f"{expected[one]:.4g} / {taken[one]:.4g} = {ratios[one]:.2f}" for one in NAMES]
    cost = f"{dry['seconds']:.0f} ({dry['CPU seconds']:.0f})"
    print(f"| {' | '.join([name, *shown, cost, ', '.join(off) or '-'])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 6000])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| run | s | CPU s | memory, MB | written, MB | dry run, s (CPU s) | off |")
    print("|---|---|---|---|---|---|---|")
    for rows in options.rows:
        for name in options.only:
            case = CASES[name](options.folder, rows, options.model)
            compare(f"{name}, {rows:,}", case, options.folder)


if __name__ == "__main__":
    main()
