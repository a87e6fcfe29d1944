"""Choose pairs among candidates, and fit the minimum margin of a pair.

candidates --> ChoosePairs --> chosen --> FitThreshold --> threshold
                                               |
            histograms of margins, of pairs and of decoys --> Gaussians, or a precision

What meets on one worker: with the retrieval ``max``, all pairs, since the best takes its rows from
all others.
What meets in the histograms: all margins, counted. A threshold is fitted to all of them, so none of
the pairs can be filtered or described before.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    BEST_BACKWARD,
    BEST_FORWARD,
    CANDIDATE,
    DECOY,
    MARGIN,
    SOURCE_ID,
    TARGET_ID,
)
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.mining.margin import Retrieval, chosen, greedy_one_to_one
from beam_gpte.core.mining.posterior import (
    BIN,
    MIN_SCORES,
    Histogram,
    Mixture,
    NoMixtureError,
    fit_mixture,
    histogram,
    merge_histograms,
    precision_threshold,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of

MARGIN_BINS = 40  # of a report
POSTERIOR = "posterior"  # float64: the probability that a pair is not one by chance


@dataclasses.dataclass(frozen=True)
class Thresholding:
    """Set how a threshold is fitted to the margins where it is not given as a number.

    Attributes:
      min_posterior: with ``threshold="posterior"``, the minimum posterior of a pair, by
        `core.mining.posterior`.
      target_precision: the share of pairs that is estimated to be right: replaces `threshold` by
        the minimum margin at which it is reached; needs the input `decoys`.
    """

    min_posterior: float = 0.9
    target_precision: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_posterior", "target_precision"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} is {value}; use a number between 0 and 1")


@dataclasses.dataclass(eq=False)
class ChoosePairs(beam.PTransform):
    """Choose, by a retrieval, the candidates that are pairs.

    Attributes:
      retrieval: see `core.mining.margin`.
      only_chosen: whether the candidates are only those that `core.mining.margin.chosen` chooses.
    """

    retrieval: Retrieval
    only_chosen: bool

    def expand(self, candidates: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return the chosen candidates, whatever their margin."""
        if not self.only_chosen:
            best = beam.FlatMap(_best, self.retrieval).with_output_types(Block)
            candidates = candidates | "Best" >> best
        if self.retrieval != "max":
            return candidates
        return (
            candidates
            | "OneKey" >> beam.WithKeys(0).with_output_types(Keyed)
            | "OneWorker" >> beam.GroupByKey()
            | "Greedy" >> beam.FlatMap(_greedy).with_output_types(Block)
        )


def _best(block: Block, retrieval: Retrieval) -> Iterator[Block]:
    frame = frame_of([block])
    best = frame.select(chosen(retrieval)).to_series()
    if best.any():
        yield block.filter(best.to_arrow())


def _greedy(element: tuple[int, Iterable[Block]]) -> Iterator[Block]:
    """Choose in a frame of ids and margins, and then filter each block."""
    frames = [_ids_and_margins(block) for block in element[1]]
    kept = greedy_one_to_one(pl.concat(frames)).with_columns(pl.lit(value=True).alias("kept"))
    for block in element[1]:
        mask = _ids_and_margins(block).join(
            kept, on=[SOURCE_ID, TARGET_ID], how="left", maintain_order="left"
        )["kept"]
        if mask.any():
            yield block.filter(mask.fill_null(value=False).to_arrow())


def _ids_and_margins(block: Block) -> pl.DataFrame:
    return frame_of([block.select([SOURCE_ID, TARGET_ID, MARGIN])])


@dataclasses.dataclass(frozen=True)
class FittedThreshold:
    """Hold the minimum margin of a pair.

    Attributes:
      threshold: that margin.
      mixture: of the margins of all chosen pairs; None if they do not separate pairs from chance.
      note: why there is no mixture, None if there is one.
      margins: of all pairs that the retrieval chose, whatever the threshold.
    """

    threshold: float
    mixture: Mixture | None
    note: str | None
    margins: Histogram

    @property
    def chosen(self) -> int:
        """Return how many pairs the retrieval chose, before the threshold."""
        return self.margins.total

    @property
    def above(self) -> int:
        """Return how many of them reach the threshold, to the bin that it is in."""
        return int(self.margins.counts[self.margins.middles >= self.threshold].sum())

    def warnings(self) -> Iterator[str]:
        """Warn of pairs that may be the tail of those by chance.

        Margins of one mode are not enough: those of good pairs have one too, and then it lies above
        the threshold. Here most of it lies below.
        """
        if self.mixture is None and self.chosen >= MIN_SCORES and 0 < self.above < self.chosen / 2:
            yield (
                f"the pairs may be there by chance: the margins of the {self.chosen:,} best pairs "
                f"have one mode, and only {self.above / self.chosen:.1%} reach the minimum margin; "
                "look at the pairs nearest to it, or give decoys and a target precision"
            )

    def figures(self) -> dict[str, Any]:
        """Return the figures of the report."""
        return {
            "threshold_used": self.threshold,
            "mixture": None if self.mixture is None else dataclasses.asdict(self.mixture),
            "no_posterior": self.note,
            "margins": margin_counts(self.margins, self.threshold),
        }


class ChosenPairs(NamedTuple):
    """Hold blocks of chosen pairs with `MARGIN`, and the plan of their sides."""

    chosen: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


@dataclasses.dataclass(eq=False)
class FitThreshold(beam.PTransform):
    """Fit the threshold of chosen pairs.

    Raises, while the job runs:
      InputError: a posterior is asked for and the margins do not separate pairs from chance, or no
        threshold has the target precision.
    """

    step: str
    threshold: float | str
    settings: Thresholding

    @named_collections
    def expand(self, inputs: ChosenPairs) -> beam.PCollection[FittedThreshold]:
        """Return one threshold."""
        histograms = (
            inputs.chosen | "Margins" >> beam.CombineGlobally(_Margins()).without_defaults()
        )
        known = AsSingleton(histograms, default_value=_NO_MARGINS)
        fit = FromSideInputs(
            FittedThreshold,
            InStep(self.step, _fit),
            AsSingleton(inputs.plan),
            self.threshold,
            self.settings,
            known,
        )
        return inputs.plan.pipeline | "Cut" >> fit


Margins = tuple[Histogram, Histogram]  # of pairs, and of decoys

_NO_MARGINS: Margins = (merge_histograms([]), merge_histograms([]))


class _Margins(beam.CombineFn):
    """Count the margins of pairs and of decoys."""

    def create_accumulator(self) -> Margins:
        return _NO_MARGINS

    def add_input(self, accumulator: Margins, block: Block) -> Margins:
        margins = block.column(MARGIN).to_numpy()
        decoy = np.zeros(len(block), bool)
        if DECOY in block.schema.names:
            decoy = block.column(DECOY).to_numpy(zero_copy_only=False)
        part = histogram(margins[~decoy]), histogram(margins[decoy])
        return self.merge_accumulators([accumulator, part])

    def merge_accumulators(self, accumulators: Iterable[Margins]) -> Margins:
        pairs, decoys = zip(_NO_MARGINS, *accumulators, strict=True)
        return merge_histograms(pairs), merge_histograms(decoys)

    def extract_output(self, accumulator: Margins) -> Margins:
        return accumulator


def _fit(
    plan: NeighborPlan,
    threshold: float | str,
    settings: Thresholding,
    histograms: Margins,
) -> FittedThreshold:
    pairs, decoys = histograms
    mixture, note = None, None
    try:
        mixture = fit_mixture(pairs)
    except NoMixtureError as error:
        if settings.target_precision is None and isinstance(threshold, str):
            raise
        note = error.reason
    if settings.target_precision is not None:
        if not plan.decoys:
            raise InputError(
                "there are no decoys; give sentences of the source language without a translation"
            )
        per_decoy = plan.rows[0] / plan.decoys
        threshold = precision_threshold(pairs, decoys, settings.target_precision, per_decoy)
    elif isinstance(threshold, str):
        assert mixture is not None
        threshold = mixture.threshold(settings.min_posterior)
    return FittedThreshold(float(threshold), mixture, note, pairs)


def margin_counts(margins: Histogram, threshold: float) -> list[list[float]]:
    """Count margins in about `MARGIN_BINS` equal bins, one of which begins at the threshold.

    Returns:
      [lower edge, pairs] of each bin, ascending.
    """
    if not margins.total:
        return []
    low, high = (float(margins.middles[i]) for i in (0, -1))
    # a power of two: what is near the threshold by rounding stays on its side
    step = 2.0 ** math.ceil(math.log2(max((high - low) / MARGIN_BINS, BIN)))
    places = np.floor((margins.middles - threshold) / step).astype(np.int64)
    first = int(places[0])
    counts = np.zeros(int(places[-1]) - first + 1, np.int64)
    np.add.at(counts, places - first, margins.counts)
    edges = threshold + np.arange(first, first + len(counts)) * step
    return [[round(float(edge), 6), int(count)] for edge, count in zip(edges, counts, strict=True)]


def cut(block: Block, fitted: FittedThreshold, emit: str) -> Iterator[Block]:
    """Drop decoys, and pairs below the threshold, and add posteriors.

    Args:
      block: chosen pairs, or candidates.
      fitted: the threshold.
      emit: ``candidates`` keeps them whatever their margin.
    """
    if DECOY in block.schema.names:  # decoys come in blocks of their own
        return
    frame = frame_of([block])
    if emit == "pairs":
        threshold = pl.lit(fitted.threshold, pl.Float32)
        frame = frame.filter(pl.col(MARGIN) >= threshold).drop(BEST_FORWARD, BEST_BACKWARD)
    if len(frame):
        posterior = (
            [None] * len(frame)
            if fitted.mixture is None
            else fitted.mixture.posterior(frame[MARGIN].to_numpy())
        )
        frame = frame.with_columns(pl.Series(POSTERIOR, posterior, pl.Float64))
        first = [name for name in (*CANDIDATE, POSTERIOR) if name in frame.columns]
        yield block_of(frame.select(*first, pl.exclude(first)), [block.schema])
