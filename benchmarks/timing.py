"""Interleaved rounds, CPU seconds of this process, medians of per-round ratios: what a noisy machine can be asked for."""

import resource
import statistics
import time
from collections.abc import Callable


def measure(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round; all variants run once before, uncounted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, run in variants.items():
            began = time.process_time()
            run()
            if i:
                seconds[name].append(time.process_time() - began)
    return seconds


def print_ratios(seconds: dict[str, list[float]], base: str, texts: int) -> None:
    """One line a variant: median seconds, texts per CPU second, median of the ratios to `base` in the same round."""
    print(f"{'variant':52} {'CPU s':>8} {'texts/CPU s':>12} {'CPU s / base':>13}")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[base], strict=True))
        median = statistics.median(own)
        print(f"{name:52} {median:8.2f} {texts / median:12.1f} {ratio:13.3f}")
    print(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    )
