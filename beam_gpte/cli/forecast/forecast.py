r"""Predict what a job costs: `--dry_run`.

    input --> samples --> tokens, truncation
                |-------> the model alone on some texts ----> seconds per token
                |-------> the program on a few rows --------> what a run costs whatever its size
                \-------> the program on two more samples, --> seconds, memory and bytes per row
                          with a stand-in for the model

    seconds = start + loading the model + fixed + tokens x each + rows x each + squares

An input of at most `WHOLE_ROWS` is run as it is, into a temporary folder.
"""

import dataclasses

import numpy as np
from apache_beam.options.pipeline_options import DirectOptions

from beam_gpte.cli.forecast.costs import Costs, measured, since_start
from beam_gpte.cli.forecast.jobs import Files, Job, Samples, Trial, run_trial
from beam_gpte.cli.forecast.samples import MAX_ROWS, draw
from beam_gpte.cli.forecast.stand_in import StandIn
from beam_gpte.cli.forecast.texts import (
    NO_SPEED,
    NO_TEXTS,
    Speed,
    TextFigures,
    measure_speed,
    measure_texts,
    usable_texts,
)
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.embedding.ensure_vectors import unit_vectors
from beam_gpte.embedding.shared_models import shared_model
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.sources.corpus_files import file_format, open_file
from beam_gpte.sources.formats.encodings import UTF_8
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import ColumnSelection

FIRST_ROWS = 64  # that are run with the model
WHOLE_ROWS = 256  # an input of no more is run as it is
SPEED_SECONDS = 5.0  # for which the model is measured
MIN_ROWS = 4096  # of the third sample, if there are as many, and a quarter of more
PART = 4
GROWTH = 3  # of the second sample to the third
NOT_REUSED = 0.5  # of the memory of the model's batches: rows take the rest once it is free
BEYOND = 1 / 3  # of the memory of a row, for a row that is not in the sample of a plan
SEED_STEP = 1_000_003  # between the seeds of two pairs, so that they share no vector


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Hold what is predicted; None where nothing is.

    Attributes:
      sampled: rows that were run.
      rows: of the input, counted if `is_exact`.
      is_exact: whether they are.
      tokens: in the vectors.
      truncated: texts that are.
      rejected: rows that are.
      seconds: from the start of the process to its end.
      cpu: seconds of all threads.
      memory: bytes.
      written: bytes.
      rate: rows a second, once the model is loaded.
      is_counted: whether the tokens of all rows were counted.
    """

    sampled: int
    rows: int
    is_exact: bool
    tokens: int | None = None
    truncated: int | None = None
    rejected: int | None = None
    seconds: float | None = None
    cpu: float | None = None
    memory: float | None = None
    written: float | None = None
    rate: float | None = None
    is_counted: bool = False

    @property
    def is_whole(self) -> bool:
        """Return whether the whole input was run."""
        return self.is_exact and self.sampled == self.rows


def predict(job: Job) -> Forecast:
    """Predict what a run costs; seconds and memory only of one in this process.

    Raises:
      InputError: the run would be refused, or fail on the rows of the sample.
      NothingWrittenError: none of these is usable.
    """
    start, each = since_start(), -(-MAX_ROWS // len(job.sides))
    with temporary_folder() as folder:
        encoding = job.options.encoding or UTF_8
        drawn = {side: draw(of.files, each, encoding) for side, of in job.sides.items()}
        samples = Samples(drawn, folder)
        if samples.is_whole and samples.rows <= WHOLE_ROWS:
            forecast = _whole(job, samples, start)
        else:
            files = [samples.write(rows) for rows in _sizes(job, samples)]
            rows, is_exact = {side: of.rows for side, of in samples.of.items()}, samples.is_exact
            del samples  # whose memory would be taken for the program's
            parts = _measure(job, folder, files, start)
            forecast = dataclasses.replace(_extrapolated(job, parts, rows), is_exact=is_exact)
    if job.is_elsewhere:
        return dataclasses.replace(forecast, seconds=None, cpu=None, memory=None)
    return forecast


def _whole(job: Job, samples: Samples, start: Costs) -> Forecast:
    """Run a small input as it is."""
    with measured() as loading:
        model = _model(job)
    trial = run_trial(job, samples.write(samples.rows), f"{samples.folder}/trial")
    embeds = model is not None
    return Forecast(
        sampled=samples.rows,
        rows=samples.rows,
        is_exact=True,
        tokens=trial.count.get("tokens", 0) if embeds else None,
        truncated=trial.count.get("texts_truncated", 0) if embeds else None,
        rejected=trial.count.get("rejects", 0),
        seconds=start.seconds + loading.seconds + trial.costs.seconds,
        cpu=start.cpu + loading.cpu + trial.costs.cpu,
        memory=max(start.peak, loading.peak, trial.costs.peak) or None,
        written=trial.written,
        rate=trial.rows / trial.model_seconds if trial.model_seconds else None,
        is_counted=True,
    )


def _model(job: Job) -> TextEncoder | None:
    return None if job.config is None else shared_model(TextEncoder, job.config)


def _splits(job: Job) -> bool:
    return job.config is not None and job.config.splits


def _sizes(job: Job, samples: Samples) -> tuple[int, int, int]:
    """Choose how many rows are run each time; chunks are made by the model alone."""
    enough = 2 * FIRST_ROWS if _splits(job) else max(MIN_ROWS, samples.rows // PART)
    third = min(samples.drawn, enough, MAX_ROWS)
    return min(FIRST_ROWS, samples.drawn), max(1, third // GROWTH), third


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Hold what a run is made of: see the module.

    Attributes:
      start: until the model is loaded, and is warm.
      embedding: while some texts are embedded.
      first: a run with the model.
      second: a run with the stand-in.
      third: one on more rows.
      figures: of the texts.
      speed: of the model.
      threads: of the runner.
      vectors: that lie like those of the third run.
    """

    start: Costs
    embedding: Costs
    first: Trial
    second: Trial
    third: Trial
    figures: TextFigures
    speed: Speed
    threads: int
    vectors: np.ndarray

    def slope(self, name: str) -> float:
        """Return what a row adds to a figure of `Costs`."""
        more = getattr(self.third.costs, name) - getattr(self.second.costs, name)
        return max(0.0, more / max(1, self.third.rows - self.second.rows))

    def fixed(self, name: str) -> float:
        """Return what a run adds to a figure whatever its size; the first loads modules, too."""
        token = self.speed.cpu if name == "cpu" else self.speed.seconds * self.threads
        row = self.slope(name) + self.run_tokens * token
        warm = getattr(self.second.costs, name) - self.second.rows * self.slope(name)
        return max(0.0, warm, getattr(self.first.costs, name) - self.first.rows * row)

    @property
    def texts(self) -> float:
        """Return how many texts there are for each row: fewer without vectors, or sentences."""
        return self.third.count.get("texts", 0) / self.third.rows

    @property
    def embedded(self) -> float:
        """Return how many texts are embedded for each row, not reused."""
        reused, texts = (self.first.count.get(of, 0) for of in ("texts_reused", "texts"))
        return self.texts * texts / max(1, texts + reused)

    @property
    def run_tokens(self) -> float:
        """Return how many tokens the model runs over for each row."""
        return self.embedded * self.figures.run


def _measure(job: Job, folder: str, files: list[Files], start: Costs) -> _Parts:
    """Measure the parts of a run."""
    threads = job.beam_options().view_as(DirectOptions).direct_num_workers
    with measured() as loading:
        model = _model(job)
    texts: dict[str, list[str]] = {}
    figures, speed, embedding = NO_TEXTS, NO_SPEED, Costs()
    if model is not None:
        texts = {side: _texts(job, files[-1], side) for side in job.sides}
    every = [text for of in texts.values() for text in of]
    if model is not None:
        figures = measure_texts(model, every)
        if every and not model.config.splits:
            with measured() as embedding:
                speed = measure_speed(model, every, figures, threads, SPEED_SECONDS)
    first = run_trial(job, files[0], f"{folder}/first")
    stand_in = None
    if len(speed.vectors):
        stand_in = StandIn(speed.vectors, _seeds(job, list(texts.values()), first))
    del texts, every  # as the sample's rows above
    second, third = (
        run_trial(job, some, f"{folder}/{name}", stand_in)
        for some, name in zip(files[1:], ("second", "third"), strict=True)
    )
    if stand_in is not None:
        vectors = stand_in.encode([str(i) for i in range(MIN_ROWS)])
    else:
        vectors = _vectors(job, files[-1])
    began = Costs(start.seconds + loading.seconds + speed.first, start.cpu + loading.cpu)
    return _Parts(began, embedding, first, second, third, figures, speed, threads, vectors)


def _texts(job: Job, files: Files, side: str) -> list[str]:
    selection = ColumnSelection((), job.sides[side].id_column, job.options.text_column)
    return list(usable_texts(files.paths[side], selection))


def _seeds(job: Job, sides: list[list[str]], first: Trial) -> dict[str, int]:
    """Let as many texts with one number on two sides be alike as were pairs in the first run."""
    if job.pairs is None:
        return {}
    share, seeds = min(1.0, len(sides) * first.pairs / first.rows), {}
    for i, alike in enumerate(zip(*sides, strict=False)):
        if int(share * (i + 1)) > int(share * i):
            seeds.update(dict.fromkeys(alike, SEED_STEP * i))
    return seeds


def _vectors(job: Job, files: Files) -> np.ndarray:
    """Read the vectors of a sample, if something is to be predicted by them."""
    if job.squares is None or _splits(job):
        return NO_SPEED.vectors
    found = [NO_SPEED.vectors]
    for side, paths in files.paths.items():
        names = job.sides[side].id_column, job.options.text_column
        for path in paths:
            with open_file(path) as file:
                read = READERS[file_format(path)]
                for rows in read(file, ColumnSelection((job.vectors,), *names), ROWS_PER_BLOCK):
                    if rows.numbers:
                        found.append(unit_vectors(Block(rows.batch), job.vectors))
    return np.concatenate(found[1:] or found)


def _extrapolated(job: Job, parts: _Parts, sides: dict[str, int]) -> Forecast:
    """Predict the whole from its parts."""
    rows, third, figures = sum(sides.values()), parts.third, parts.figures
    compared = parts.texts if parts.figures.texts else 1.0
    squares = 0.0
    if job.squares is not None and len(parts.vectors) > 1:
        squares = job.squares([round(count * compared) for count in sides.values()], parts.vectors)
    tokens, busy = rows * parts.run_tokens, min(parts.threads, max(1, rows // ROWS_PER_BLOCK))
    embedding = tokens * parts.speed.seconds * parts.threads / busy
    more = rows - third.rows
    per_row = (third.written - parts.second.written) / max(1, third.rows - parts.second.rows)
    full = max(0, rows - max(third.rows, job.plan_rows or rows))  # beyond the sample of a plan
    held = third.costs.grown + (more - full + BEYOND * full) * parts.slope("grown")
    held += NOT_REUSED * parts.embedding.grown
    texts = rows * parts.embedded
    memory = max(parts.first.costs.peak, third.costs.before + held)
    return Forecast(
        sampled=third.rows,
        rows=rows,
        is_exact=False,
        tokens=round(texts * figures.tokens) if job.config else None,
        truncated=round(texts * figures.truncated) if job.config else None,
        rejected=round(rows * third.count.get("rejects", 0) / third.rows),
        seconds=parts.start.seconds
        + parts.fixed("seconds")
        + rows * parts.slope("seconds")
        + embedding
        + squares / parts.threads,
        rate=rows / (rows * parts.slope("seconds") + embedding) if embedding else None,
        is_counted=figures.is_counted,
        cpu=parts.start.cpu
        + parts.fixed("cpu")
        + rows * parts.slope("cpu")
        + tokens * parts.speed.cpu
        + squares,
        memory=memory or None,
        written=third.written + more * per_row,
    )
