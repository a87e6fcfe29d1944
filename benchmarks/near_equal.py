"""Deduplicate n near-equal rows, and print seconds, CPU seconds, peak memory and pairs by n.

    python benchmarks/near_equal.py texts 2000 4000 8000 20000
    python benchmarks/near_equal.py vectors 2000 4000 8000

Each n is run in a process of its own. Texts differ in a number; vectors have cosines of about 0.92.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import apache_beam as beam
import numpy as np

from beam_gpte import Deduplicate, DeduplicateLexical, DeduplicateSemantic
from beam_gpte.core.process import claim_process

TEXT = "Dear customer, the parcel that you sent for is on its way to you; its tracking number is {}"
DIM = 384
NOISE = 0.3


def rows_of(kind: str, count: int) -> list[dict[str, Any]]:
    """Make near-equal rows."""
    if kind == "texts":
        return [{"id": f"{i:07}", "text": TEXT.format(100_000 + i)} for i in range(count)]
    random = np.random.default_rng(0)
    center = random.standard_normal(DIM)
    noise = NOISE * random.standard_normal((count, DIM)) / DIM**0.5
    vectors = (center / np.linalg.norm(center) + noise).astype(np.float32)
    return [{"id": f"{i:07}", "embedding": vector} for i, vector in enumerate(vectors)]


def run(kind: str, count: int) -> None:
    """Deduplicate, and print one line."""
    rows = rows_of(kind, count)
    step = DeduplicateLexical() if kind == "texts" else DeduplicateSemantic()
    began = time.monotonic()
    with beam.Pipeline("FnApiRunner") as p:
        found = p | beam.Create(rows) | Deduplicate((step,))
        found.report | beam.Map(
            lambda report: print(
                *(f"{report[name]:,} {name}" for name in ("kept", "pairs", "pairs_cut")), sep=", "
            )
        )
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{count:,} {kind}: {time.monotonic() - began:.1f} s, "
        f"{used.ru_utime + used.ru_stime:.1f} CPU s, {used.ru_maxrss / 1e6:.2f} GB",
        flush=True,
    )


def main() -> None:
    """Run each n in a process."""
    claim_process()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["texts", "vectors"])
    parser.add_argument("rows", nargs="+", type=int)
    options = parser.parse_args()
    if len(options.rows) == 1:
        run(options.kind, options.rows[0])
        return
    for count in options.rows:
        subprocess.run([sys.executable, __file__, options.kind, str(count)], check=True)


if __name__ == "__main__":
    main()
