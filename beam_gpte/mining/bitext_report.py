"""Define the result of mining, describe it in metadata, and make its report."""

import dataclasses
import json
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from beam_gpte.core.columns import COSINE, MARGIN, SIDES, SOURCE_ID, TARGET_ID
from beam_gpte.elements.block import Block
from beam_gpte.mining.pair_checks import SOURCE_TEXT, TARGET_TEXT
from beam_gpte.mining.plan import MiningPlan
from beam_gpte.mining.threshold import FittedThreshold

POSTERIOR = "posterior"
METADATA = b"beam_gpte.bitext"  # metadata of the column `margin`: JSON with settings, model and fingerprint
FOUND_IN = "found_in"  # string: scope or all
_FIRST = (SOURCE_ID, TARGET_ID, SOURCE_TEXT, TARGET_TEXT, COSINE, MARGIN)
MIN_SHARE = 0.05  # of the smaller side, that is mutually best; fewer are found between texts that have nothing in common


class Bitext(NamedTuple):
    """The result of mining.

    Attributes:
      pairs: blocks of `source_id`, `target_id`, `source_text`, `target_text`, `cosine`, `forward_mean`, `backward_mean`,
        `margin`, `forward_rank`, `backward_rank` (null where the one is not among the other's k nearest), `posterior`
        (float64, null where the margins do not tell pairs from chance), `length_ratio`, `same_numbers`, `char_overlap`,
        `source_copies`, `target_copies`, and the other columns of both sides as `source_...` and `target_...`; with
        `mine_unmatched` also `found_in`. The column `margin` has metadata that say how they were found.
      report: one dict, with the figures of the run and warnings.
      rejects: rows that could not be mined, with step and reason; empty unless `with_exception_handling()` was called.
    """

    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection


def with_metadata(block: Block, settings: dict[str, Any], plan: MiningPlan) -> Block:
    known = plan.metadata
    about = {
        **settings,
        **plan.search_settings(),
        **({} if known is None else {"model": known.model, "fingerprint": known.fingerprint}),
    }
    names = [name for name in _FIRST if name in block.schema.names]
    margin = pa.field(
        MARGIN, pa.float32(), metadata={METADATA: json.dumps(about, sort_keys=True).encode()}
    )
    block = block.without_columns([MARGIN]).with_column(margin, block.column(MARGIN))
    return Block(
        block.batch.select([*names, *(name for name in block.schema.names if name not in names)])
    )


def mining_report(
    plan: MiningPlan, settings: dict[str, Any], cut: FittedThreshold, lengths: dict[str, Any]
) -> dict[str, Any]:
    known, mixture = plan.metadata, cut.mixture
    smaller = min(plan.rows)
    warnings = [] if cut.note is None else [cut.note]
    share = cut.chosen / smaller if smaller else 0.0
    if settings["retrieval"] == "intersection" and smaller >= 100 and share < MIN_SHARE:
        warnings.append(
            f"only {share:.1%} of the smaller side are mutually best: do vectors and texts belong together, and do both "
            "sides use the same model and prompt?"
        )
    for name, rows in zip(SIDES, plan.rows, strict=True):
        if not rows:
            warnings.append(f"no rows on the {name} side")
    return {
        **settings,
        **plan.search_settings(),
        **({} if known is None else {"model": known.model, "fingerprint": known.fingerprint}),
        "source_rows": plan.rows[0],
        "target_rows": plan.rows[1],
        "chosen": cut.chosen,
        "share_chosen": round(share, 6),
        "threshold_used": cut.threshold,
        "mixture": None if mixture is None else dataclasses.asdict(mixture),
        **lengths,
        "warnings": warnings,
    }


def merged_report(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The report of what scopes gave, with the sums of both, and that of what was left in `all`."""
    summed = {name: first[name] + second[name] for name in ("chosen", "pairs", "dropped_by_length")}
    warnings = [
        *first["warnings"],
        *(f"what the scopes left: {warning}" for warning in second["warnings"]),
    ]
    return {**first, **summed, "warnings": warnings, "all": second}
