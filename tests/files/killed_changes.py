"""Kill what changes a folder in an object store, before each of the requests that change it.

    python -m tests.files.killed_changes objects:///tmp/bucket   # before each request
    python -m tests.files.killed_changes s3://bucket --sample 8  # so many kills of all

Prints a line of JSON for each kill: of which change, before which request, and what was wrong, as
`tests.commits.changes` finds it.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Iterator

from beam_gpte.files.cloud import check_bucket
from tests.commits.changes import Change, all_changes, problems
from tests.files.killed_runs import until

REQUESTS = 20  # that change the store, of most changes; a sample is drawn of them


def folder_changes() -> list[Change]:
    """List the changes of folders."""
    return [change for change in all_changes() if change.sink == "parquet"]


def drawn(changes: list[Change], sample: int, seed: str) -> Iterator[tuple[Change, list[int]]]:
    """Draw kills, each of another change as long as there are any."""
    draw = random.Random(seed)
    order = draw.sample(changes, len(changes))
    for number in range(sample):
        yield order[number % len(order)], [draw.randrange(REQUESTS)]


def main() -> None:
    """Try the changes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of a bucket or a folder in it")
    parser.add_argument("--only", default="", help="changes whose name has this text")
    parser.add_argument("--sample", type=int, help="so many kills, drawn by the seed")
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    check_bucket(arguments.url)
    tempfile.tempdir = tempfile.mkdtemp()
    changes = [change for change in folder_changes() if arguments.only in str(change)]
    kills: Iterable[tuple[Change, list[int] | None]] = ((change, None) for change in changes)
    if arguments.sample is not None:
        kills = drawn(changes, arguments.sample, arguments.seed)
    for number, (change, steps) in enumerate(kills):
        for step, problem in problems(change, f"{arguments.url}/{number}", steps, until):
            shown = {"change": str(change), "request": step, "problem": problem}
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
