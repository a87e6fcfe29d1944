"""Try hostile inputs for long: `python -m tests.fuzz --minutes 20`, or `make fuzz`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.runner import fuzz
from tests.fuzz.targets import GUIDES, PLACE, TARGETS
from tests.fuzz.trial import problem_of


def main() -> int:
    """Print the faults of each target; the next run goes on where this one ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: 0)")
    parser.add_argument("--only", default="", help="targets with this in their name")
    parser.add_argument("--minutes", type=float, default=20, help="of each target (default: 20)")
    parser.add_argument("--input", type=Path, help="try this file, of a fault, alone")
    parser.add_argument(
        "--results", type=Path, default=Path("fuzz-results"), help="folder of inputs and faults"
    )
    arguments = parser.parse_args()
    found = 0
    for name, target in TARGETS.items():
        if arguments.only not in name:
            continue
        if arguments.input:
            with tempfile.TemporaryDirectory() as folder:
                problem = problem_of(target, arguments.input.read_bytes(), Path(folder))
            print(f"{name}: {problem or 'no fault'}")
            found += problem is not None
            continue
        folder = arguments.results / f"{name}-{arguments.seed}"
        tried, faults = fuzz(
            PLACE + name, GUIDES[name], folder, arguments.seed, 60 * arguments.minutes
        )
        for fault in faults:
            print(f"  FAULT {name} --input {folder / fault.input}: {fault.problem}", flush=True)
        kept = len(list((folder / "corpus").iterdir()))
        print(
            f"{name}: {tried:,} inputs of seed {arguments.seed}, {kept:,} of them reached "
            f"something new, {len(faults)} faults",
            flush=True,
        )
        found += len(faults)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
