"""Describe a program to the forecast, and run it on samples into a temporary folder."""

import argparse
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from beam_gpte.cli.forecast.costs import Costs, measured
from beam_gpte.cli.forecast.samples import Sample
from beam_gpte.cli.forecast.stand_in import StandIn
from beam_gpte.cli.runners import LOCAL_RUNNER
from beam_gpte.cli.runtime import (
    Spread,
    counters,
    distributions,
    local_options,
    run_pipeline,
)
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.sources.formats.encodings import UTF_8

IN_PROCESS = ("in_memory", "multi_threading")  # modes of Beam's in-process runner


@dataclasses.dataclass(frozen=True)
class Side:
    """Name the files of an input, and the column of their ids, if there is one."""

    files: Sequence[str]
    id_column: str | None


@dataclasses.dataclass(frozen=True)
class Job:
    """Describe a program.

    Attributes:
      options: of the program.
      flags: for Beam.
      local: whether the run is on this machine.
      sides: inputs by the option that names them.
      config: of the model; None if the input has vectors.
      build: adds the program's steps to a pipeline, for options with other files, another output
        and perhaps another model.
      finish: writes what the program writes after the pipeline.
      vectors: the column of the input's vectors.
      squares: CPU seconds of what grows with the square of the rows, by the rows of each side and
        vectors of a sample; None for nothing.
      plan_rows: in the sample by which a search is planned, which is held besides; None for none.
      pairs: the folder, within the output, of pairs of rows of two sides; None for other results.
      is_stream: whether it has one thread, and its rate is asked for.
      new_share: of the result, that is written where the output has the rest already.
      compares: whether rows are compared with rows, and held for it.
    """

    options: argparse.Namespace
    flags: list[str]
    local: bool
    sides: Mapping[str, Side]
    config: EncoderConfig | None
    build: Callable[[beam.Pipeline, argparse.Namespace], None]
    finish: Callable[[argparse.Namespace], None] | None = None
    vectors: str = ""
    squares: Callable[[list[int], np.ndarray], float] | None = None
    plan_rows: int | None = None
    pairs: str | None = None
    is_stream: bool = False
    new_share: float = 1.0
    compares: bool = False

    def beam_options(self) -> PipelineOptions:
        """Return the options for a run in this process, with as many threads as the job has."""
        options = PipelineOptions(self.flags)
        if self.is_stream or self.is_elsewhere:
            standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
            # the runner, if named, has the threads that are named, if not, one for each core
            standard.runner, standard.streaming = LOCAL_RUNNER if self.is_stream else None, False
            direct.direct_running_mode, direct.direct_num_workers = IN_PROCESS[0], 1
        files = [file for side in self.sides.values() for file in side.files]
        given = (getattr(self.options, name, None) for name in ("reuse", "reference"))
        local_options(options, files, next(filter(None, given), None))
        return options

    @property
    def is_elsewhere(self) -> bool:
        """Return whether a run is not in this process alone."""
        mode = PipelineOptions(self.flags).view_as(DirectOptions).direct_running_mode
        return not self.local or mode not in IN_PROCESS


@dataclasses.dataclass(frozen=True)
class Files:
    """Name the files of a sample by side, and count their rows."""

    paths: dict[str, list[str]]
    rows: int


@dataclasses.dataclass(frozen=True)
class Samples:
    """Hold the samples of all sides.

    Attributes:
      of: each side.
      folder: that they are written to.
    """

    of: dict[str, Sample]
    folder: str

    @property
    def rows(self) -> int:
        """Return the rows of the whole input."""
        return sum(sample.rows for sample in self.of.values())

    @property
    def drawn(self) -> int:
        """Return the rows that can be run."""
        return sum(sample.drawn for sample in self.of.values())

    @property
    def is_exact(self) -> bool:
        """Return whether the rows are counted."""
        return all(sample.is_exact for sample in self.of.values())

    @property
    def is_whole(self) -> bool:
        """Return whether the samples are the input."""
        return self.is_exact and self.drawn == self.rows

    def write(self, rows: int) -> Files:
        """Write so many rows, of each side its share."""
        paths, written, share = {}, 0, rows / max(1, self.drawn)
        for side, sample in self.of.items():
            some = min(sample.drawn, max(1, round(share * sample.drawn)))
            paths[side] = sample.write(f"{self.folder}/sample-{rows}/{side}", some)
            written += some
        return Files(paths, written)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Hold what a run of a program on a sample took, and gave.

    Attributes:
      rows: that it read.
      costs: of the run.
      written: bytes of its output.
      count: its counters.
      pairs: rows in the folder of pairs.
      model_seconds: of all threads.
    """

    rows: int
    costs: Costs
    written: int
    count: dict[str, int]
    pairs: int
    model_seconds: float


def run_trial(job: Job, files: Files, base: str, model: StandIn | None = None) -> Trial:
    """Run a program on files.

    Args:
      job: the program.
      files: of a sample.
      base: a folder for what it writes, which is not there.
      model: a stand-in for the model; None for the model.
    """
    options = copy.copy(job.options)
    options.output, options.scratch = f"{base}/output", f"{base}-scratch"
    options.report = options.max_rejects = None
    options.encoding = UTF_8  # of samples
    if getattr(options, "duckdb", None):
        options.duckdb = f"{base}/vectors.duckdb"
    for side, paths in files.paths.items():
        setattr(options, side, paths)
    if model is not None:
        options.model = model
    with measured() as costs:
        pipeline = beam.Pipeline(options=job.beam_options())
        job.build(pipeline, options)
        result = run_pipeline(pipeline, True, options.output)
        if job.finish is not None:
            job.finish(options)
    written = sum(path.stat().st_size for path in Path(base).rglob("*") if path.is_file())
    pairs = 0 if job.pairs is None else _rows_in(f"{options.output}/{job.pairs}")
    busy = distributions(result).get("model_milliseconds", Spread()).sum / 1000
    return Trial(files.rows, costs, written, counters(result), pairs, busy)


def _rows_in(folder: str) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in Path(folder).rglob("*.parquet"))
