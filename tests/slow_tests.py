"""Know the slow tests: `make test` leaves them out, `make slow` runs them, and CI runs both.

    pytest --durations=0 ... > FILE
    python -m tests.slow_tests FILE     # writes the list anew

They are listed by how long they took, not marked by hand, since any test may become slow.
"""

import collections
import re
import sys
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
SECONDS = 7  # of all cases of a test, setup included; the others take 13 minutes on two cores
DURATION = re.compile(
    r"^([\d.]+)s (?:call|setup|teardown) +(tests/[^\[\s]+::[^\[\s]+)", re.MULTILINE
)


def slow_tests() -> frozenset[str]:
    """Read the names of the slow tests, such as ``tests/test_wheel.py::test_help``."""
    return frozenset(LIST.read_text(encoding="utf-8").split())


def find_slow(output: str) -> list[str]:
    """Find the slow tests in what pytest printed with ``--durations=0``."""
    seconds: collections.Counter[str] = collections.Counter()
    for each, name in DURATION.findall(output):
        seconds[name] += float(each)
    return sorted(name for name, total in seconds.items() if total > SECONDS)


def main() -> None:
    found = find_slow(Path(sys.argv[1]).read_text(encoding="utf-8"))
    LIST.write_text("".join(f"{name}\n" for name in found), encoding="utf-8")
    print(f"{len(found)} tests take more than {SECONDS} s")


if __name__ == "__main__":
    main()
