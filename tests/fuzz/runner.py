"""Fuzz a target, in child processes with a limit of memory and time for each input.

A child that an input ends costs that input alone: the next one goes on with the corpus, the inputs
that reached something new.
"""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.faults import Fault, Faults, current, ending

SECONDS = 60  # of the CPU for one input
MEMORY = 3 << 30  # bytes that one input may take
FIRST_INPUTS = 16  # of a corpus that is empty
FIRST_BYTES = 256
MAX_BYTES = 4096


def fuzz(
    place: str,
    guides: Sequence[str],
    folder: Path,
    seed: int,
    seconds: float | None = None,
    inputs: int | None = None,
    limits: tuple[int, int] = (SECONDS, MEMORY),
) -> tuple[int, list[Fault]]:
    """Try inputs until there were enough.

    Args:
      place: of the target, `module:function`.
      guides: modules and packages whose coverage guides the fuzzer.
      folder: of the corpus, the number of inputs and the faults; a run goes on where it ends.
      seed: of all that is drawn.
      seconds: to go on; None for no limit.
      inputs: to try; None for no limit.
      limits: of one input: CPU seconds and bytes.

    Returns:
      how many inputs were tried in all runs of the folder, and all faults.

    Raises:
      RuntimeError: if the target does not begin.
    """
    tried, until = _begin(folder, seed), time.monotonic() + (seconds or 0)
    target = tried + (inputs or 0)
    while (inputs is None or tried < target) and (seconds is None or time.monotonic() < until):
        options = ["-len_control=0", f"-max_len={MAX_BYTES}", f"-seed={seed + tried + 1}"]
        if seconds is not None:
            options.append(f"-max_total_time={max(int(until - time.monotonic()), 1)}")
        if inputs is not None:
            options.append(f"-runs={target - tried}")
        command = [sys.executable, "-m", "tests.fuzz.child", place, ",".join(guides), str(folder)]
        with (folder / "log").open("wb") as log:
            code = subprocess.run([*command, *map(str, limits), *options], stderr=log).returncode
        count, data = current(folder)
        if not count:
            raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:])
        tried += count
        (folder / "tried").write_text(str(tried))
        if code:
            Faults(folder).note(data, ending(code))
    return tried, Faults(folder).found


def _begin(folder: Path, seed: int) -> int:
    """Make the folder and its first inputs, or give how many inputs it has seen."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    if (folder / "tried").exists():
        return int((folder / "tried").read_text())
    rng = random.Random(seed)
    for i in range(FIRST_INPUTS):
        (folder / "corpus" / f"first-{i}").write_bytes(rng.randbytes(FIRST_BYTES))
    return 0
