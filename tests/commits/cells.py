"""Name the cells of the matrix, and what each has to give.

A cell is a sink in one of its modes, named run or not; the jobs that write, and the collection that
they write. Job `a` writes the rows a0 to a7, job `b` b0 to b7.
"""

import dataclasses
import itertools
from collections import Counter

from apache_beam.transforms import trigger as t
from apache_beam.transforms import window

ROWS = 8
MODES = {
    "parquet": ("replace", "mirror", "append"),
    "duckdb": ("upsert", "insert", "replace", "mirror"),
    "rejects": ("",),
}
REPLACING = ("replace", "mirror")
WINDOWS = {
    "global": window.GlobalWindows(),
    "fixed": window.FixedWindows(30),
    "sliding": window.SlidingWindows(20, 10),
    "sessions": window.Sessions(15),
}
THREE, TWO = t.AfterCount(3), t.AfterCount(2)
SECONDS = t.AfterProcessingTime(2)
TRIGGERS = {
    "default": t.DefaultTrigger(),
    "always": t.Always(),
    "never": t._Never(),
    "count 1": t.AfterCount(1),
    "count 3": THREE,
    "again and again count 3": t.Repeatedly(THREE),
    "seconds": SECONDS,
    "again and again seconds": t.Repeatedly(SECONDS),
    "synchronized": t._AfterSynchronizedProcessingTime(),
    "watermark": t.AfterWatermark(),
    "early count": t.AfterWatermark(early=THREE),
    "late count": t.AfterWatermark(late=THREE),
    "early and late": t.AfterWatermark(early=SECONDS, late=SECONDS),
    "any": t.AfterAny(t.AfterCount(5), SECONDS),
    "all": t.AfterAll(t.AfterCount(5), SECONDS),
    "all with watermark": t.AfterAll(TWO, t.AfterWatermark()),
    "each": t.AfterEach(THREE, TWO),
    "each with watermark": t.AfterEach(t.AfterWatermark(), THREE),
    "or finally": t.OrFinally(t.Repeatedly(THREE), t.AfterWatermark()),
    "again and again watermark": t.Repeatedly(t.AfterWatermark(early=TWO)),
    "again and again any": t.Repeatedly(t.AfterAny(THREE, t.AfterWatermark())),
}
WHOLE = "whole"
# one job; two sinks of one pipeline; two jobs; a job and its rerun; a `Pipeline` run twice, over
# the same rows and over others; bundles that fail after they have written
ONE, SEVERAL, TWO_JOBS, RERUN = "one", "several", "two jobs", "rerun"
TWICE, TWICE_OTHER = "twice", "twice with other rows"
STAGE_RETRIED, COMMIT_RETRIED = "stage retried", "commit retried"
JOBS = (ONE, SEVERAL, TWO_JOBS, RERUN, TWICE, TWICE_OTHER, STAGE_RETRIED, COMMIT_RETRIED)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Describe one cell.

    Attributes:
      sink: a key of `MODES`.
      mode: of the sink.
      named: whether all jobs have the same name of a run.
      jobs: one of `JOBS`.
      window: a key of `WINDOWS`, or `WHOLE`.
      trigger: a key of `TRIGGERS`.
      stream: whether the collection is a stream.
    """

    sink: str
    mode: str
    named: bool
    jobs: str
    window: str = WHOLE
    trigger: str = "default"
    stream: bool = False

    def __str__(self) -> str:
        run = "named" if self.named else "unnamed"
        flow = f"{'stream' if self.stream else 'batch'}, {self.window}, {self.trigger}"
        return f"{self.sink} {self.mode}, {run}, {self.jobs}, {flow}"


@dataclasses.dataclass(frozen=True)
class Expected:
    """Describe what a cell has to give.

    Attributes:
      rows: what is there at the end, by id.
      refused: "build", "commit" or "" for neither.
      words: of the refusal.
    """

    rows: Counter[str]
    refused: str = ""
    words: str = ""


def all_cells() -> list[Cell]:
    """List the cells: all jobs with and without windows, and all triggers with one job."""
    cells = []
    for sink, modes in MODES.items():
        for mode, named, jobs in itertools.product(modes, (False, True), JOBS):
            if sink != "rejects" or not named:
                cells += [Cell(sink, mode, named, jobs, *flow) for flow in _flows(mode, jobs)]
        for name, how, stream in itertools.product(WINDOWS, TRIGGERS, (False, True)):
            if how != "default":
                mode = {"parquet": "append", "duckdb": "upsert", "rejects": ""}[sink]
                cells.append(Cell(sink, mode, False, ONE, name, how, stream))
    return cells


def _flows(mode: str, jobs: str) -> list[tuple[str, str, bool]]:
    windows = [name for name in WINDOWS if name != "global"]
    if mode in REPLACING:  # refused, whatever the windows
        windows = windows[:1]
    flows = [(WHOLE, "default", False), *((name, "default", False) for name in windows)]
    if jobs not in (TWICE, TWICE_OTHER):  # a `TestStream` plays once
        flows += [(name, "default", True) for name in windows]
    return flows


def expected(cell: Cell) -> Expected:
    """Say what a cell has to give."""
    a, b = (_rows(cell, job) for job in "ab")
    refused = _refused_while_built(cell)
    if refused:
        return Expected(Counter(), "build", refused)
    if cell.mode == "insert" and (
        cell.window == "sliding" or (cell.jobs in (RERUN, TWICE) and not cell.named)
    ):
        return Expected(a, "commit", "already in table")
    if cell.jobs in (TWO_JOBS, TWICE_OTHER) and cell.named:
        return Expected(a, "commit", "and these .* are not the same; name another run")
    if cell.jobs in (SEVERAL, TWO_JOBS, TWICE_OTHER):
        return Expected(b if _replaces(cell) else a + b)
    if cell.jobs in (RERUN, TWICE) and not (cell.named or _replaces(cell) or cell.mode == "upsert"):
        return Expected(a + a)
    return Expected(a)


def _refused_while_built(cell: Cell) -> str:
    """Return words of the refusal, or nothing."""
    if cell.stream and cell.window == "global" and cell.trigger == "default":
        return "never completes"
    if cell.window != WHOLE and cell.mode in REPLACING:
        return "cannot replace a whole"
    if cell.jobs == SEVERAL and (cell.named or _replaces(cell)):
        return "another sink of this pipeline writes to"
    return ""


def _replaces(cell: Cell) -> bool:
    return cell.mode in REPLACING or (cell.sink == "rejects" and cell.window == WHOLE)


def _rows(cell: Cell, job: str) -> Counter[str]:
    copies = 2 if cell.window == "sliding" and cell.sink != "duckdb" else 1
    return Counter({f"{job}{i}": copies for i in range(ROWS)})
