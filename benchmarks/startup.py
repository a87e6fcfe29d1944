"""Measure a job without work: CPU seconds of the whole process that deduplicates ten vectors.

    python benchmarks/startup.py [--rounds 5]

Next to it: the same with Beam's own functions instead of those of `beam_gpte/_quick_beam.py`
(`PLAIN_BEAM=1`, which only this benchmark reads), and the imports of what all of it stands on.
All modules have their bytecode, as after an installation: the uncounted first round writes it to a
temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

if os.environ.get("PLAIN_BEAM") == "1":  # before anything imports beam_gpte
    sys.modules["beam_gpte._quick_beam"] = types.ModuleType("beam_gpte._quick_beam")

from timing import measure, print_ratios

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "imports of Beam, Polars and DuckDB"
VECTORS = 10


def children_seconds() -> float:
    """Return the CPU seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run(*arguments: str, **environment: str) -> None:
    path = {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        env=os.environ | path | environment,
        stderr=subprocess.DEVNULL,
    )


def deduplicate() -> None:
    import apache_beam as beam
    import numpy as np
    import pyarrow as pa

    from beam_gpte import Block, DeduplicateSemantic

    vectors = np.random.default_rng(0).standard_normal((VECTORS, 16)).astype(np.float32)
    arrow = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    block = Block.from_pydict({"id": [str(i) for i in range(VECTORS)], "embedding": arrow})
    with beam.Pipeline("FnApiRunner") as pipeline:
        pipeline | beam.Create([block]) | DeduplicateSemantic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.argv = sys.argv[:1]
        deduplicate()
        return
    variants = {
        IMPORTS: lambda: run("-c", "import apache_beam, polars, duckdb"),
        "import of beam_gpte": lambda: run("-c", "import beam_gpte"),
        "deduplication of ten vectors, plain Beam": lambda: run(
            __file__, "--child", PLAIN_BEAM="1"
        ),
        "deduplication of ten vectors": lambda: run(__file__, "--child"),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        print_ratios(measure(variants, options.rounds, children_seconds), IMPORTS, VECTORS)


if __name__ == "__main__":
    main()
