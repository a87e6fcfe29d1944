"""Time variants on a noisy machine: interleaved rounds, and medians of ratios within a round.

Importing this makes the process one of ours, as programs and workers are; import it before torch.
"""

import resource
import statistics
import time
from collections.abc import Callable

from beam_gpte.core.process import claim_process

claim_process()

Clock = Callable[[], float]


def measure(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """Measure the seconds of each variant in each round, by default CPU seconds of this process.

    All variants run once before, uncounted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, run in variants.items():
            began = clock()
            run()
            if i:
                seconds[name].append(clock() - began)
    return seconds


def print_ratios(seconds: dict[str, list[float]], base: str, texts: int) -> None:
    """Print one line per variant.

    It has the median seconds, texts per CPU second, and the median of the ratios to `base` in the
    same round.
    """
    print(f"{'variant':52} {'CPU s':>8} {'texts/CPU s':>12} {'CPU s / base':>13}")
    for name, measured in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(measured, seconds[base], strict=True))
        median = statistics.median(measured)
        print(f"{name:52} {median:8.2f} {texts / median:12.1f} {ratio:13.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MB")
