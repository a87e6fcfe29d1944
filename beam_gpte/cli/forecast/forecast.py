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

from beam_gpte.cli.forecast.costs import Costs, measured, since_start
from beam_gpte.cli.forecast.jobs import Job, Samples, run_trial
from beam_gpte.cli.forecast.parts import MIN_ROWS, Parts, measure, model_of, splits
from beam_gpte.cli.forecast.samples import MAX_ROWS, draw
from beam_gpte.elements.block import ROWS_PER_BLOCK
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.sources.formats.encodings import UTF_8

FIRST_ROWS = 64  # that are run with the model
WHOLE_ROWS = 256  # an input of no more is run as it is
PART = 4
MAX_PASSING_ROWS = 65_536  # of it, where rows are not compared with rows
GROWTH = 3  # of the second sample to the third
STILL_HELD = 0.5  # of the memory of the model's batches: rows take the rest once it is free
BEYOND = 1 / 3  # of the memory of a row, for a row that is not in the sample of a plan


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
    start, each = since_start(), -(-_max_rows(job) // len(job.sides))
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
            parts = measure(job, folder, files, start)
            forecast = dataclasses.replace(_extrapolated(job, parts, rows), is_exact=is_exact)
    if job.is_elsewhere:
        return dataclasses.replace(forecast, seconds=None, cpu=None, memory=None)
    return forecast


def _whole(job: Job, samples: Samples, start: Costs) -> Forecast:
    """Run a small input as it is."""
    with measured() as loading:
        model = model_of(job)
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
        written=trial.written * job.new_share,
        rate=trial.rows / trial.model_seconds if trial.model_seconds else None,
        is_counted=True,
    )


def _max_rows(job: Job) -> int:
    return MAX_ROWS if job.compares else MAX_PASSING_ROWS


def _sizes(job: Job, samples: Samples) -> tuple[int, int, int]:
    """Choose how many rows are run each time; chunks are made by the model alone."""
    enough = 2 * FIRST_ROWS if splits(job) else max(MIN_ROWS, samples.rows // PART)
    third = min(samples.drawn, enough, _max_rows(job))
    return min(FIRST_ROWS, samples.drawn), max(1, third // GROWTH), third


def _extrapolated(job: Job, parts: Parts, sides: dict[str, int]) -> Forecast:
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
    if job.compares:
        full = max(0, rows - max(third.rows, job.plan_rows or rows))  # beyond the sample of a plan
        held = third.costs.grown + (more - full + BEYOND * full) * parts.slope("grown")
    else:
        held = parts.growth(rows)
    held += STILL_HELD * parts.embedding.grown
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
        is_counted=figures.is_counted and parts.embedded >= parts.texts,
        cpu=parts.start.cpu
        + parts.fixed("cpu")
        + rows * parts.slope("cpu")
        + tokens * parts.speed.cpu
        + squares,
        memory=memory or None,
        written=(third.written + more * per_row) * job.new_share,
    )
