"""Try hostile inputs for long: `python -m tests.fuzz --minutes 20`, or `make fuzz`."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from tests.fuzz.runner import Fault, Progress, run
from tests.fuzz.targets import TARGETS

MANY = 1 << 40


def main() -> int:
    """Print each fault and a line per target; the next run goes on where this one ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: 0)")
    parser.add_argument("--only", default="", help="targets with this in their name")
    parser.add_argument("--minutes", type=float, default=20, help="of each target (default: 20)")
    parser.add_argument("--number", type=int, help="try this input alone")
    parser.add_argument(
        "--results", default="fuzz-results", help="folder of progress and faults, one file a target"
    )
    arguments = parser.parse_args()
    found = 0
    for name, target in TARGETS.items():
        if arguments.only not in name:
            continue
        progress = Progress.load(Path(arguments.results, f"{name}-{arguments.seed}.json"))
        numbers, until = range(progress.next, MANY), time.monotonic() + 60 * arguments.minutes
        if arguments.number is not None:
            numbers, until = range(arguments.number, arguments.number + 1), None
        for event in run(name, target, arguments.seed, numbers, until):
            if isinstance(event, Fault):
                print(f"  FAULT {name} --number {event.number}: {event.problem}", flush=True)
                progress.faults.append(dataclasses.asdict(event))
                found += 1
            elif arguments.number is None:
                progress.next = event
                progress.save()
        print(
            f"{name}: {progress.next:,} inputs of seed {arguments.seed}, "
            f"{len(progress.faults)} faults",
            flush=True,
        )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
