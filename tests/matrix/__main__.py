"""Try every public transform with every Arrow type: `python -m tests.matrix`, or `make matrix`.

Names of columns inside transforms are tried too, in every input, as a role of their own.
"""

import argparse
import random
import sys
import time
from collections import Counter

from tests.matrix.cells import FAULT, REFUSED, RIGHT
from tests.matrix.inputs import HIDDEN
from tests.matrix.plan import run_group, run_hidden, run_sample
from tests.matrix.transforms import CASES


def main() -> int:
    """Print a line per transform and role, the faults, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the pairs of types")
    parser.add_argument("--only", default="", help="transforms with this in their name")
    parser.add_argument("--role", default="", help="only of columns of this role")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of types per role")
    parser.add_argument(
        "--sample", type=int, help="only so many of the types alone and families, per role"
    )
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    for case in CASES:
        for role in (*case.roles, HIDDEN) if arguments.only in str(case) else ():
            if arguments.role in role:
                rng = random.Random(f"{arguments.seed} {case} {role}")
                if role == HIDDEN:
                    tried = run_hidden(case, arguments.sample, rng)
                elif arguments.sample:
                    tried = run_sample(case, role, arguments.sample, rng)
                else:
                    tried = run_group(case, role, arguments.pairs, rng)
                began, counts = time.monotonic(), Counter()
                for cell, outcome in tried:
                    counts[outcome.kind] += 1
                    if outcome.kind == FAULT:
                        print(f"  FAULT {case}: {cell}: {outcome.detail}", flush=True)
                    elif arguments.only and outcome.kind == REFUSED:
                        print(f"  {cell}: {outcome.detail}", flush=True)
                print(
                    f"{case}, {role}: {_counted(counts)} ({time.monotonic() - began:.0f} s)",
                    flush=True,
                )
                total += counts
    print(f"cells {total.total()}, {_counted(total)}")
    return int(total[FAULT] > 0)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in (RIGHT, REFUSED, FAULT))


if __name__ == "__main__":
    sys.exit(main())
