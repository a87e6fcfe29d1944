"""Measure the parts of which a run is made; see `forecast`."""

import dataclasses

import numpy as np
from apache_beam.options.pipeline_options import DirectOptions

from beam_gpte.cli.forecast.costs import Costs, measured
from beam_gpte.cli.forecast.jobs import Files, Job, Trial, run_trial
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
from beam_gpte.core.static.load_encoder import Pretrained
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.embedding.ensure_vectors import unit_vectors
from beam_gpte.embedding.models import load_model
from beam_gpte.embedding.previous.previous_vectors import (
    NO_TOKENS,
    OTHER_CANARIES,
    OTHER_MODEL,
    OTHER_QUANTIZATION,
)
from beam_gpte.embedding.reuse import NOT_REUSED
from beam_gpte.sources.corpus_files import file_format, open_file
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import ColumnSelection

SPEED_SECONDS = 5.0  # for which the model is measured
MIN_ROWS = 4096  # of the third sample, if there are as many, and a quarter of more
FLATTEST = 0.25  # of the exponents of memory of rows that pass: a sample shows little of it
SEED_STEP = 1_000_003  # between the seeds of two pairs, so that they share no vector


def model_of(job: Job) -> Pretrained | None:
    """Load the model; None if the input has vectors."""
    return None if job.config is None else load_model(job.config)


def splits(job: Job) -> bool:
    """Tell whether texts become chunks."""
    return job.config is not None and job.config.splits


@dataclasses.dataclass(frozen=True)
class Parts:
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
      model_stands_in: whether the second and the third run have the stand-in.
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
    model_stands_in: bool

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

    def growth(self, rows: int) -> float:
        """Return the bytes of memory that a run on so many rows takes, which pass through it.

        A writer holds a row group, the allocator what it gets back, and the runner ids: more rows
        take less each, as rows to a power do.
        """
        small, large = (max(1, trial.costs.grown) for trial in (self.second, self.third))
        more = self.third.rows / max(1, self.second.rows)
        power = np.log(large / small) / np.log(more) if more > 1 else 1.0
        return float(large * (rows / self.third.rows) ** np.clip(power, FLATTEST, 1))

    @property
    def texts(self) -> float:
        """Return how many texts there are for each row: fewer without vectors, or sentences."""
        return (self.third.count.get("texts", 0) + _reused(self.third)) / self.third.rows

    @property
    def embedded(self) -> float:
        """Return how many texts are embedded for each row, not reused.

        A previous run has vectors of as many as met some in the third run, where the stand-in uses
        none; the first, with the model, shows whether they can be used.
        """
        known = _reused(self.first) + _refused(self.first)
        usable = _reused(self.first) / known if known else 1.0
        if self.model_stands_in:
            reused = _refused(self.third) * usable
        else:
            reused = _reused(self.third)
        return max(0.0, self.texts - reused / self.third.rows)

    @property
    def run_tokens(self) -> float:
        """Return how many tokens the model runs over for each row."""
        return self.embedded * self.figures.run


def _reused(trial: Trial) -> int:
    return trial.count.get("texts_reused", 0)


def _refused(trial: Trial) -> int:
    """Count the texts whose vectors of a previous run are not those of the model."""
    reasons = OTHER_MODEL, OTHER_CANARIES, OTHER_QUANTIZATION, NO_TOKENS
    return sum(trial.count.get(NOT_REUSED + reason, 0) for reason in reasons)


def measure(job: Job, folder: str, files: list[Files], start: Costs) -> Parts:
    """Measure the parts of a run."""
    threads = job.beam_options().view_as(DirectOptions).direct_num_workers
    with measured() as loading:
        model = model_of(job)
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
    runs, stands_in = (first, second, third), stand_in is not None
    return Parts(began, embedding, *runs, figures, speed, threads, vectors, stands_in)


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
    if job.squares is None or splits(job):
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
