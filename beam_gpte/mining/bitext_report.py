"""Define the result of mining, describe it in metadata, and make its report."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import COSINE, MARGIN, SIDES, SOURCE_ID, TARGET_ID
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.elements.block import Block
from beam_gpte.mining.pair_checks import SOURCE_TEXT, TARGET_TEXT, LengthRatios
from beam_gpte.mining.threshold import FittedThreshold
from beam_gpte.neighbors.plan import NeighborPlan, check_choice

# Metadata of the column `margin`: JSON with settings, model and fingerprint.
METADATA = b"beam_gpte.bitext"
FOUND_IN = "found_in"  # string: scope or all
_FIRST = (SOURCE_ID, TARGET_ID, SOURCE_TEXT, TARGET_TEXT, COSINE, MARGIN)
# Of the smaller side, that is mutually best; texts that have nothing in common give less.
MIN_SHARE = 0.05

Emit = Literal["pairs", "candidates"]


@dataclasses.dataclass(frozen=True)
class BitextOutput:
    """Set what mining returns.

    Attributes:
      emit: ``pairs``; or ``candidates``: each row with all of its k nearest, whatever the margin,
        and whether it is the best.
      keep_vectors: pairs keep the vectors of both rows, as `source_embedding` and
        `target_embedding`.
      max_length_ratio: drop pairs whose ratio of characters, divided by the median ratio, is above
        this number or below one over it; None for no limit. Candidates are never dropped.
    """

    emit: Emit = "pairs"
    keep_vectors: bool = False
    max_length_ratio: float | None = 2.0

    def __post_init__(self) -> None:
        check_choice("emit", self.emit, Emit)
        if self.max_length_ratio is not None and self.max_length_ratio <= 1:
            raise InputError(
                f"max_length_ratio is {self.max_length_ratio}; use a number above 1, or None"
            )


class Bitext(NamedTuple):
    """Hold the result of mining.

    Attributes:
      pairs: `source_id`, `target_id`, `source_text`, `target_text`, `cosine`, `forward_mean`,
        `backward_mean`, `margin`, `forward_rank` (null where the target is not among the k nearest
        of the source), `backward_rank` (null where the source is not among those of the target),
        `posterior` (float64, null where the margins do not separate pairs from chance),
        `length_ratio`, `same_numbers`, `char_overlap`, `source_duplicates`, `target_duplicates`,
        and the other columns of both sides as `source_...` and `target_...`;
        with `mine_unmatched` also `found_in`. Blocks, tables or record batches where the sources
        (of `ScoreBitext`, the given pairs) are these, Beam Rows where they are Beam Rows, else
        mappings. The metadata of the column `margin` describe how the pairs were found.
      report: one dict, with the figures of the run and warnings.
      rejects: rows that could not be mined, with step and reason; empty unless
        `with_exception_handling()` was called.
    """

    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection


class Mined(NamedTuple):
    """Hold pairs with their rows, and one report."""

    pairs: beam.PCollection[Block]
    report: beam.PCollection[dict]


def merge_mined(scoped: Mined, unmatched: Mined) -> Mined:
    """Merge the pairs found within scopes with those found among all rows that these left."""
    placed = tuple(
        mined.pairs | f"Found_{place}" >> beam.Map(_with_place, place).with_output_types(Block)
        for place, mined in (("scope", scoped), ("all", unmatched))
    )
    merge = beam.Map(_merged_report, AsSingleton(unmatched.report)).with_output_types(dict)
    return Mined(placed | "BothPairs" >> beam.Flatten(), scoped.report | "BothReports" >> merge)


def _with_place(block: Block, place: str) -> Block:
    return block.with_column(
        pa.field(FOUND_IN, pa.string()), pa.array([place] * len(block), pa.string())
    )


def with_metadata(block: Block, settings: dict[str, Any], plan: NeighborPlan) -> Block:
    """Describe in the metadata of `margin` how pairs were found, and put the main columns first."""
    about = {**settings, **plan.search_settings(), **model_of(plan.metadata)}
    names = [name for name in _FIRST if name in block.schema.names]
    margin = pa.field(
        MARGIN, pa.float32(), metadata={METADATA: json.dumps(about, sort_keys=True).encode()}
    )
    block = block.without_columns([MARGIN]).with_column(margin, block.column(MARGIN))
    others = (name for name in block.schema.names if name not in names)
    return block.select([*names, *others])


def model_of(metadata: VectorMetadata | None) -> dict[str, Any]:
    """Return model and fingerprint of vectors, for reports; nothing if they are unknown."""
    if metadata is None:
        return {}
    return {"model": metadata.model, "fingerprint": metadata.fingerprint}


def mining_report(
    plan: NeighborPlan, settings: dict[str, Any], fitted: FittedThreshold, ratios: LengthRatios
) -> dict[str, Any]:
    """Collect the figures of one mining.

    Args:
      plan: of the search.
      settings: of the transform.
      fitted: the threshold.
      ratios: of lengths, of the pairs above the threshold.
    """
    smaller = min(plan.rows)
    share = fitted.chosen / smaller if smaller else 0.0
    return {
        **settings,
        **plan.search_settings(),
        **model_of(plan.metadata),
        "source_rows": plan.rows[0],
        "target_rows": plan.rows[1],
        "chosen": fitted.chosen,
        "share_chosen": round(share, 6),
        **fitted.figures(),
        **ratios.figures(),
        "warnings": [*fitted.warnings(), *_warnings(plan, settings["retrieval"], share)],
    }


def _warnings(plan: NeighborPlan, retrieval: str, share: float) -> Iterator[str]:
    if retrieval == "intersection" and min(plan.rows) >= 100 and share < MIN_SHARE:
        yield (
            f"only {share:.1%} of the smaller side are mutually best: do vectors and texts belong "
            "together, and do both sides use the same model and prompt?"
        )
    for name, rows in zip(SIDES, plan.rows, strict=True):
        if not rows:
            yield f"no rows on the {name} side"


def _merged_report(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Merge the report on scopes with that on the rows they left, which becomes `all`."""
    summed = {name: first[name] + second[name] for name in ("chosen", "pairs", "dropped_by_length")}
    warnings = [
        *first["warnings"],
        *(f"among the rows that scopes left: {warning}" for warning in second["warnings"]),
    ]
    return {**first, **summed, "warnings": warnings, "all": second}
