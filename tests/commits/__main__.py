"""Try every sink in every mode, with every job, window, trigger and kill: rows in, rows out once.

    python -m tests.commits [--only TEXT] [--seed N] [--sample N]

Prints what is wrong, and ends with 1 if anything is. `--only` selects cells whose name has the text
(names are printed with it); `--sample` tries so many of them, drawn by the seed.
"""

import argparse
import itertools
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.commits import changes
from tests.commits.cells import Cell, all_cells
from tests.commits.jobs import problem
from tests.commits.kills import Kill, all_kills, problems


def main() -> int:
    """Run the selected cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cells whose name has this text")
    parser.add_argument("--seed", default="0", help="of the sample and the order")
    parser.add_argument("--sample", type=int, help="try so many cells")
    arguments = parser.parse_args()
    logging.disable()  # what runners say of bundles that fail
    everything = (*all_cells(), *all_kills(), *changes.all_changes())
    cells: list[Cell | Kill | changes.Change] = [
        cell for cell in everything if arguments.only in str(cell)
    ]
    random.Random(arguments.seed).shuffle(cells)
    began, tried, wrong = time.monotonic(), 0, 0
    for cell in itertools.islice(cells, arguments.sample):
        count, found = try_cell(cell)
        if arguments.only:
            print(f"  {cell}: {count} tried", flush=True)
        for message in found:
            print(f"  FAULT {cell}: {message}", flush=True)
        tried, wrong = tried + count, wrong + len(found)
        if tried % 100 < count:
            print(f"{tried} tried, {wrong} wrong ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{tried} tried, {wrong} wrong ({time.monotonic() - began:.0f} s)")
    return int(wrong > 0)


def try_cell(
    cell: Cell | Kill | changes.Change, steps: range | None = None
) -> tuple[int, list[str]]:
    """Try a cell, or all kills of one; give how many were tried and what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(cell, Cell):
            message = problem(cell, Path(folder))
            return 1, [message] if message else []
        if isinstance(cell, changes.Change):
            found = list(changes.problems(cell, folder, steps))
        else:
            found = list(problems(cell, Path(folder), steps))
        return len(found), [f"step {n}: {message}" for n, message in found if message]


if __name__ == "__main__":
    sys.exit(main())
