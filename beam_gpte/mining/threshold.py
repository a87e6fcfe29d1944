"""Which margin makes a pair: `(chosen, plan) | FitThreshold(...)` gives one `Cut`.

chosen --> histograms of margins, of pairs and of decoys --> Gaussians, or a precision --> cut
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import DECOY, MARGIN
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.posterior import (
    Histogram,
    Mixture,
    fit_mixture,
    histogram,
    merge_histograms,
    precision_threshold,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.mining.plan import MiningPlan


@dataclasses.dataclass(frozen=True)
class FittedThreshold:
    """The least margin of a pair.

    Attributes:
      threshold: that margin.
      mixture: of all chosen pairs' margins; None if they do not tell pairs from chance, and `note` says why.
      chosen: pairs by the retrieval, before the threshold.
    """

    threshold: float
    mixture: Mixture | None
    note: str | None
    chosen: int


@dataclasses.dataclass(eq=False)
class FitThreshold(beam.PTransform):
    """Takes chosen pairs with `MARGIN`, and the plan of their sides.

    Raises, while the job runs:
      InputError: the margins do not tell pairs from chance, if that is asked for, or no threshold has the precision.
    """

    threshold: float | str
    min_posterior: float
    target_precision: float | None

    def expand(self, inputs: Any) -> beam.PCollection[FittedThreshold]:
        chosen, plan = inputs
        both = (
            chosen
            | "Margins" >> beam.Map(_margins)
            | "Histograms" >> beam.CombineGlobally(_merged).without_defaults()
        )
        known = AsSingleton(both, default_value=_merged([]))
        settings = self.threshold, self.min_posterior, self.target_precision
        return plan.pipeline | "Cut" >> FromSideInputs(
            FittedThreshold, _cut, AsSingleton(plan), *settings, known
        )


def _margins(block: Block) -> tuple[Histogram, Histogram]:
    """Of pairs and of decoys."""
    margins = block.column(MARGIN).to_numpy()
    decoy = np.zeros(len(block), bool)
    if DECOY in block.schema.names:
        decoy = block.column(DECOY).to_numpy(zero_copy_only=False)
    return histogram(margins[~decoy]), histogram(margins[decoy])


def _merged(parts: Iterable[tuple[Histogram, Histogram]]) -> tuple[Histogram, Histogram]:
    whole = list(parts)
    return merge_histograms(pairs for pairs, _ in whole), merge_histograms(
        decoys for _, decoys in whole
    )


def _cut(
    plan: MiningPlan,
    threshold: float | str,
    min_posterior: float,
    target_precision: float | None,
    both: tuple[Histogram, Histogram],
) -> FittedThreshold:
    pairs, decoys = both
    mixture, note = None, None
    try:
        mixture = fit_mixture(pairs)
    except InputError as error:
        if target_precision is None and isinstance(threshold, str):
            raise
        note = f"no posterior: {error}"
    if target_precision is not None:
        if not plan.decoys:
            raise InputError(
                "there are no decoys; give sentences of the source language without a translation"
            )
        per_decoy = plan.rows[0] / plan.decoys
        return FittedThreshold(
            precision_threshold(pairs, decoys, target_precision, per_decoy),
            mixture,
            note,
            pairs.total,
        )
    if isinstance(threshold, str):
        assert mixture is not None
        threshold = mixture.threshold(min_posterior)
    return FittedThreshold(float(threshold), mixture, note, pairs.total)
