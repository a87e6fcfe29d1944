"""Score a list of pairs as mining would: `pairs | ScoreBitext()`.

source, target --> PrepareSide --> vectors --> SurveySides, PlanMining --> FindNeighbors
                                                                               |
                                          forward, backward neighbors <--------+
                                             |         |
pairs --> NameKept, both sides --> join by source: forward mean and rank, vector
                                             |
                                   join by target: backward mean and rank, cosine, margin
                                             |
                                             +--> AttachRows --> DescribeTexts --> pairs
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    COSINE,
    MARGIN,
    SIDE_IDS,
    SIDES,
    TEXT,
    Columns,
)
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InStep
from beam_gpte.core.mining.margin import Margin
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns, fields_of_type
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import RejectingTransform, merge_rejects
from beam_gpte.elements.rows import as_blocks, in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.bitext_report import Bitext, model_of, with_metadata
from beam_gpte.mining.pair_checks import (
    CHAR_OVERLAP,
    LENGTH_RATIO,
    SAME_NUMBERS,
    FilterLengths,
    LengthRatios,
)
from beam_gpte.mining.pair_scores import (
    MEANS,
    OWN,
    RANKS,
    JoinSide,
    NameKept,
    PairsAndOthers,
    PairsAndSide,
    renamed,
    with_own,
)
from beam_gpte.mining.search import Comparison
from beam_gpte.mining.threshold import (
    POSTERIOR,
    ChosenPairs,
    FittedThreshold,
    FitThreshold,
    Thresholding,
)
from beam_gpte.neighbors.attach_rows import AttachRows, PairsAndRows
from beam_gpte.neighbors.find_neighbors import FindNeighbors, VectorsAndPlan
from beam_gpte.neighbors.plan import (
    NeighborPlan,
    SurveySides,
    check_choice,
    check_k,
    make_plan,
)
from beam_gpte.neighbors.shards import NearRule, SearchColumns
from beam_gpte.neighbors.sides import (
    PrepareSides,
    Sides,
    SideSettings,
    check_sides,
)
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds, id_array

ADDED = (*MEANS, *RANKS, COSINE, MARGIN, POSTERIOR, LENGTH_RATIO, SAME_NUMBERS, CHAR_OVERLAP)


@dataclasses.dataclass(eq=False)
class ScoreBitext(AddsColumns, RejectingTransform):
    """Score given pairs, such as a corpus from elsewhere, and filter nothing. Gives a `Bitext`.

    Takes one of two:

    * pairs alone, rows with an id, `source_text` and `target_text`, and `source_embedding` and
      `target_embedding` or a `model`: the neighbors of a sentence are searched among all sentences
      of the pairs' other side. `source_id` and `target_id` of the result are both the pair's id.
    * a dict of ``pairs``, rows with `source_id` and `target_id`, and of ``source`` and ``target``,
      the corpora that these name, as `MineBitext` takes them: neighbors are searched in the
      corpora. A pair may come twice.

    The resulting pairs have the columns of `MineBitext` except duplicates, and the other columns of
    the given pairs; `forward_rank` is null where the target is not among the k nearest of the
    source, means and margin are null where a row has no neighbors. A pair that `MineBitext` gives
    with the same settings gets the same numbers.

    Bad rows are those of `MineBitext`, and pairs that name a missing id, or that of a bad row: they
    fail the job, or are collected by `with_exception_handling()`.

    Memory of a worker: that of `MineBitext`; or one of 16 partitions of the pairs, with a vector
    each.

    Attributes:
      k: neighbors that means are taken over.
      margin: ``distance``, ``ratio`` or ``absolute``.
      model: embeds texts without vectors, as `EmbedText` does.
      comparison: how sentences are compared; see `Comparison`.
      columns: of the ids, texts and vectors; see `Columns`.
      rename: names for added columns that pairs have already, as in ``{"margin": "new_margin"}``.
    """

    k: int = 4
    margin: Margin = "distance"
    model: Any = None
    comparison: Comparison = dataclasses.field(default_factory=Comparison)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        check_choice("margin", self.margin, Margin)
        check_k(self.k)
        self.added()
        check_one_row(self.model)

    def adds(self) -> tuple[str, ...]:
        """Name what pairs get."""
        return ADDED

    def settings(self) -> dict[str, Any]:
        """Return the settings that change scores, for reports and metadata."""
        return {"k": self.k, "margin": self.margin, **dataclasses.asdict(self.comparison)}

    @named_collections
    def expand(self, inputs: beam.PCollection | Mapping[str, beam.PCollection]) -> Bitext:
        """Return the scored pairs, a report, and the rejects."""
        given = self._given(inputs)
        prepare = PrepareSides(self._side_settings(), SIDES)
        sides = {"source": given.source, "target": given.target} | "Prepare" >> prepare
        select = SearchColumns(self._side_settings(), scoped=False)
        vectors, rows = select.separate(sides.rows)
        surveys = vectors | "Survey" >> SurveySides(self.step, search=self.comparison.search)
        make = FromSideInputs(
            NeighborPlan,
            InStep(self.step, make_plan),
            self.comparison.center,
            self.comparison.search,
            surveys,
        )
        plan = vectors.pipeline | "Plan" >> make
        scored = self._score(given.pairs, sides, VectorsAndPlan(vectors, plan))
        fit = FitThreshold(self.step, -math.inf, Thresholding(min_posterior=0.5))
        fitted = AsSingleton(ChosenPairs(scored.good, plan) | "FitMixture" >> fit)
        posterior = beam.Map(_with_posterior, fitted).with_output_types(Block)
        described = (
            PairsAndRows(
                scored.good | "Posterior" >> posterior,
                (rows, sides.duplicates) | "AllRows" >> beam.Flatten(),
            )
            | "AttachRows" >> AttachRows(self.columns)
            | "DescribeTexts" >> FilterLengths(None)
        )
        settings, known = self.settings(), AsSingleton(plan)
        describe = beam.Map(_described, settings, known, self.added()).with_output_types(Block)
        report = FromSideInputs(dict, _report, known, settings, fitted, described.ratios)
        bad_rows = sides.rejects if given.rejects is None else given.rejects
        rejects = merge_rejects([bad_rows, scored.source_rejects, scored.target_rejects])
        pairs = described.pairs | "Describe" >> describe
        kind = inputs["pairs"] if isinstance(inputs, Mapping) else inputs
        return Bitext(
            in_kind_of(kind, pairs, "FromPairs"),
            plan.pipeline | "Report" >> report,
            in_kind_of(kind, rejects, "FromRejects"),
        )

    def _given(self, inputs: Any) -> "PairsOfIds":
        if not isinstance(inputs, Mapping):
            needs_text = self.comparison.deduplicate, self.model is not None
            part = _PartPairs(self.columns, self.step, self._isolate, *needs_text)
            return inputs | "Part" >> part
        check_sides(inputs, ("pairs", *SIDES), self.step)
        return PairsOfIds(inputs["pairs"], inputs["source"], inputs["target"], None)

    def _side_settings(self) -> SideSettings:
        deduplicate = self.comparison.deduplicate
        return SideSettings(self.step, self.columns, None, deduplicate, self.model, self._isolate)

    def _score(
        self, pairs: beam.PCollection, sides: Sides, searched: VectorsAndPlan
    ) -> "ScoredPairs":
        found = searched | "Find" >> FindNeighbors(NearRule(self.k))
        added = self.added()
        added.check(fields_of_type(pairs.element_type))
        own = beam.Map(_own_columns, f"{self.step} pairs", added).with_output_types(Block)
        blocks = as_blocks(pairs, step=f"{self.step} pairs") | "OwnColumns" >> own
        for i, side in enumerate(SIDES):
            others = PairsAndOthers(blocks, sides.duplicates, sides.rejects)
            name = NameKept(self.step, i, self.columns.id)
            blocks = others | f"NameKept_{side}" >> name
        by_source = PairsAndSide(blocks, found.forward, *searched) | (
            "Join_source" >> JoinSide(self.step, 0, self.k, self.margin, self._isolate)
        )
        by_target = PairsAndSide(by_source.good, found.backward, *searched) | (
            "Join_target" >> JoinSide(self.step, 1, self.k, self.margin, self._isolate)
        )
        return ScoredPairs(by_target.good, by_source.rejects, by_target.rejects)


class PairsOfIds(NamedTuple):
    """Hold pairs that name rows of both sides by their ids.

    Attributes:
      pairs: rows of any kind, with `source_id` and `target_id`.
      source: rows of any kind.
      target: rows of any kind.
      rejects: pairs with bad ids, where the pairs had texts; None where they named rows.
    """

    pairs: beam.PCollection
    source: beam.PCollection
    target: beam.PCollection
    rejects: beam.PCollection[Block] | None


class ScoredPairs(NamedTuple):
    """Hold pairs with all scores, and the pairs that could not be joined with a side."""

    good: beam.PCollection[Block]
    source_rejects: beam.PCollection[Block]
    target_rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class _PartPairs(beam.PTransform):
    """Part pairs with texts into pairs of ids, and the rows of either side."""

    columns: Columns
    step: str
    isolate: bool
    deduplicate: bool
    embed: bool

    @named_collections
    def expand(self, rows: beam.PCollection) -> PairsOfIds:
        unique: Any = RejectDuplicateIds(self.columns.id).as_part_of(self.step)
        blocks = as_blocks(rows, step=f"{self.step} pairs")
        none = beam.FlatMap(lambda block: ()).with_output_types(Block)
        rejects = blocks | "NoRejects" >> none
        if self.isolate:
            blocks, rejects = blocks | unique.with_exception_handling()
        else:
            blocks = blocks | unique
        pair = beam.Map(_pair_of_ids, self.columns).with_output_types(Block)
        source, target = (
            blocks | f"Rows_{side}" >> beam.Map(_side_rows, side, self).with_output_types(Block)
            for side in SIDES
        )
        return PairsOfIds(blocks | "Ids" >> pair, source, target, rejects)


def _pair_of_ids(block: Block, columns: Columns) -> Block:
    ids = id_array(block, columns.id)
    for name in SIDE_IDS:
        block = block.with_column(pa.field(name, ids.type), ids)
    vectors = [f"{side}_{columns.embedding}" for side in SIDES]
    return block.without_columns([columns.id, *vectors])


def _side_rows(block: Block, side: str, settings: _PartPairs) -> Block:
    columns = settings.columns
    text, embedding = f"{side}_{TEXT}", f"{side}_{columns.embedding}"
    names = {columns.id: columns.id, text: columns.text, embedding: columns.embedding}
    needed = text if settings.embed and embedding not in block.schema.names else embedding
    check_columns(block, (needed, *((text,) if settings.deduplicate else ())), settings.step)
    present = [name for name in names if name in block.schema.names]
    return Block(block.batch.select(present).rename_columns([names[name] for name in present]))


def _own_columns(block: Block, step: str, added: AddedColumns) -> Block:
    """Set the user's columns of our names apart, and unify the types of ids."""
    added.check(block.schema.names)
    for name in SIDE_IDS:
        ids = id_array(block, name, step)
        block = block.with_column(pa.field(name, ids.type), ids)
    return renamed(block, {name: f"{OWN}{name}" for name in ADDED})


def _described(
    block: Block, settings: dict[str, Any], plan: NeighborPlan, added: AddedColumns
) -> Block:
    """Add metadata, and name the columns as the user wants."""
    block = renamed(with_metadata(block, settings, plan), {name: added[name] for name in ADDED})
    return with_own(block)


def _with_posterior(block: Block, fitted: FittedThreshold) -> Block:
    margins = block.column(MARGIN).to_numpy(zero_copy_only=False)
    posterior = pa.nulls(len(block), pa.float64())
    if fitted.mixture is not None:
        posterior = pa.array(fitted.mixture.posterior(margins), from_pandas=True)
    return block.with_column(pa.field(POSTERIOR, pa.float64()), posterior)


def _report(
    plan: NeighborPlan, settings: dict[str, Any], fitted: FittedThreshold, ratios: LengthRatios
) -> dict[str, Any]:
    mixture = fitted.mixture
    return {
        **settings,
        **plan.search_settings(),
        **model_of(plan.metadata),
        "source_rows": plan.rows[0],
        "target_rows": plan.rows[1],
        "mixture": None if mixture is None else dataclasses.asdict(mixture),
        **{name: value for name, value in ratios.figures().items() if name != "dropped_by_length"},
        "no_posterior": fitted.note,
        "warnings": [],
    }
