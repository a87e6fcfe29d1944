"""Mine two corpora for translations: `{"source": german, "target": english} | MineBitext()`.

source --+
target --+--> PrepareSides --> rows, vectors --> SearchBitext --> ChoosePairs --> chosen
decoys --+                           |           (SearchScopes)                      |
                                     +--> SurveySides --> plan                       |
                                                                                     |
                      +-- threshold <-- histogram of margins <-----------------------+
                      |                                                              |
pairs <-- FilterLengths <-- those above it <-----------------------------------------+
            |
            +-- median <-- ratios of lengths

rows, pairs --> LeaveUnpaired --> the same without scopes   (`mine_unmatched`)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import SIDES, Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.mining.margin import Margin, Retrieval
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import RejectingTransform
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.bitext_report import (
    Bitext,
    BitextOutput,
    Mined,
    merge_mined,
    mining_report,
    with_metadata,
)
from beam_gpte.mining.pair_checks import FilterLengths
from beam_gpte.mining.search import (
    Comparison,
    PairRule,
    SearchBitext,
    SearchInputs,
    SearchScopes,
)
from beam_gpte.mining.threshold import (
    POSTERIOR,
    ChoosePairs,
    ChosenPairs,
    FitThreshold,
    Thresholding,
    cut,
)
from beam_gpte.mining.unpaired import LeaveUnpaired, RowsAndPairs
from beam_gpte.neighbors.plan import (
    CountSides,
    NeighborPlan,
    Search,
    SurveySides,
    check_choice,
    check_k,
    make_plan,
)
from beam_gpte.neighbors.shards import SearchColumns
from beam_gpte.neighbors.sides import (
    PrepareSides,
    SideSettings,
    check_sides,
)


@dataclasses.dataclass(eq=False)
class MineBitext(RejectingTransform):
    """Find the pairs of a source and a target sentence that translate one another.

    Takes a dict of two collections of any kind of rows, ``source`` and ``target``, one row per
    sentence, with vectors of one model or with `model`; and optionally of ``decoys``, rows of the
    source language without a translation among the targets, a few thousand, which are in no pair:
    they estimate precision for a `target_precision`. Gives a `Bitext`. The result does not depend
    on the order of the rows, the blocks or the workers. With the retrievals ``intersection`` and
    ``max`` a sentence is in at most one pair.

    By default the vectors of each side are centered by their mean, which makes one threshold fit
    many models and languages; margins, retrievals and their names are those of
    `core.mining.margin`. `MineBitext.laser(1.06)` is the setting of published work.

    Rows whose vector (or, with a `model`, text) is null, not finite or zero, rows whose id is null
    or a duplicate, and decoys with the id of a source, fail the job or are collected by
    `with_exception_handling()`. Vectors of two dimensions or models, and two equal sides, fail it.

    Memory of a worker: two shards of 65,536 vectors, or the rows of one of 64 partitions of the
    scopes, in fp32 twice, and 16 MB of products; in cells shards of about that size, by a sample,
    and sketches of 96 numbers; or one of 16 partitions of the candidates, n (2 k) / 16 rows of
    about 60 bytes (in cells 7 k n / 16 of one side before the nearest of them are kept), and the
    rows of those that may be pairs. With the retrieval ``max``
    all pairs go through one worker, which holds 60 bytes of each.

    Attributes:
      k: neighbors that means are taken over, and that are candidates.
      margin: ``distance``, ``ratio`` or ``absolute``.
      retrieval: ``intersection``, that is mutual best; ``max``, ``forward``, ``backward`` or
        ``union``.
      threshold: the minimum margin of a pair; or ``posterior``: the margin at which
        `min_posterior` is reached.
      scope: compare only rows with the same value in this column, such as the document. A scope is
        searched by one worker.
      mine_unmatched: compare the rows that are in no pair within their scope with all such rows of
        the other side afterwards, with another threshold if it is not a number; a column
        `found_in` of the pairs is ``scope`` or ``all``.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does; with a model's
        prompts.
      comparison: how sentences are compared; see `Comparison`. The ids of duplicates are in
        `source_duplicates` and `target_duplicates`.
      thresholding: how a threshold is fitted; see `Thresholding`.
      output: what is returned; see `BitextOutput`.
      columns: of the ids, texts and vectors; see `Columns`.
    """

    k: int = 4
    margin: Margin = "distance"
    retrieval: Retrieval = "intersection"
    threshold: float | str = 0.15
    scope: str | None = None
    mine_unmatched: bool = False
    model: Any = None
    comparison: Comparison = dataclasses.field(default_factory=Comparison)
    thresholding: Thresholding = dataclasses.field(default_factory=Thresholding)
    output: BitextOutput = dataclasses.field(default_factory=BitextOutput)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        check_choice("margin", self.margin, Margin)
        check_choice("retrieval", self.retrieval, Retrieval)
        check_k(self.k)
        if isinstance(self.threshold, str) and self.threshold != POSTERIOR:
            raise InputError(f'threshold is {self.threshold!r}; use a number or "posterior"')
        if self.mine_unmatched and self.scope is None:
            raise InputError(
                "mine_unmatched without scope; name the column of the scopes, or leave it out"
            )
        if self.mine_unmatched and self.output.emit != "pairs":
            raise InputError("mine_unmatched excludes the rows that are in pairs; use emit='pairs'")
        check_one_row(self.model)

    @classmethod
    def laser(cls, threshold: float, **others: Any) -> "MineBitext":
        """Mine as LASER's ``mine_bitexts`` does.

        Vectors as they are, ratio margin, max retrieval; no deduplication, which LASER does by
        lines, and no filter of lengths. Good thresholds depend on the model: 1.04-1.06 for LASER's
        own models, 1.03 for multilingual-e5-small.

        Args:
          threshold: the minimum ratio.
          **others: arguments of `MineBitext`; a settings object replaces the whole preset one.
        """
        preset: dict[str, Any] = {
            "margin": "ratio",
            "retrieval": "max",
            "comparison": Comparison(center=False, deduplicate=False),
            "output": BitextOutput(max_length_ratio=None),
        }
        return cls(**{**preset, "threshold": threshold, **others})

    def settings(self) -> dict[str, Any]:
        """Return the settings that change pairs, for reports and metadata."""
        return {
            "k": self.k,
            "margin": self.margin,
            "retrieval": self.retrieval,
            "threshold": self.threshold,
            **dataclasses.asdict(self.thresholding),
            "center": self.comparison.center,
            "scope": self.scope,
            "mine_unmatched": self.mine_unmatched,
            "search": self.comparison.search,
            "deduplicate": self.comparison.deduplicate,
            "max_length_ratio": self.output.max_length_ratio,
            "emit": self.output.emit,
        }

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> Bitext:
        """Return the pairs, a report, and the rejects."""
        check_sides(inputs, SIDES, self.step, optional=("decoys",))
        has_decoys = "decoys" in inputs
        if (self.thresholding.target_precision is None) == has_decoys:
            raise InputError(
                "target_precision and decoys go together: sentences without a translation "
                "estimate precision"
            )
        settings = self._side_settings()
        prepare = PrepareSides(settings, (*SIDES, "decoys"), ids_apart=True)
        rows, _, rejects, unique = inputs | "Prepare" >> prepare
        select = SearchColumns(settings, self.scope is not None, has_decoys)
        keeps = self.scope is not None or self.output.keep_vectors
        vectors, searched = select.separate(rows, keeps)
        search: Search = "exact" if self.scope is not None else self.comparison.search
        sampled: Search = self.comparison.search if self.mine_unmatched else search
        surveys = vectors | "Survey" >> SurveySides(self.step, search=sampled)
        after = () if unique is None else (AsList(unique),)
        plan = self._plan(rows.pipeline, "Plan", search, surveys, None, *after)
        inputs_of_search = SearchInputs(searched, vectors, plan)
        mined = inputs_of_search | "Mine" >> _MinePairs(self, select)
        if self.mine_unmatched:
            inputs_of_search = self._unmatched(rows, mined.pairs, surveys, has_decoys)
            unmatched = inputs_of_search | "MineLeft" >> _MinePairs(self, None)
            mined, plan = merge_mined(mined, unmatched), inputs_of_search.plan
        describe = beam.Map(with_metadata, self.settings(), AsSingleton(plan))
        pairs = mined.pairs | "Describe" >> describe.with_output_types(Block)
        given = inputs["source"]
        pairs = in_kind_of(given, pairs, "FromPairs")
        return Bitext(pairs, mined.report, in_kind_of(given, rejects, "FromRejects"))

    def _side_settings(self) -> SideSettings:
        return SideSettings(
            self.step,
            self.columns,
            self.scope,
            self.comparison.deduplicate,
            self.model,
            self._isolate,
        )

    def _plan(
        self, pipeline: beam.Pipeline, label: str, search: Search, *known: Any
    ) -> beam.PCollection[NeighborPlan]:
        make = FromSideInputs(
            NeighborPlan, InStep(self.step, make_plan), self.comparison.center, search, *known
        )
        return pipeline | label >> make

    def _unmatched(
        self,
        rows: beam.PCollection[Block],
        pairs: beam.PCollection[Block],
        surveys: AsSingleton,
        has_decoys: bool,
    ) -> SearchInputs:
        """Leave the rows of both sides that are in no pair, to search them without scopes."""
        settings = self._side_settings()
        left = RowsAndPairs(rows, pairs) | "Left" >> LeaveUnpaired(settings)
        select = SearchColumns(settings, scoped=False, has_decoys=has_decoys)
        vectors = left | "LeftVectors" >> beam.Map(select).with_output_types(Block)
        counts = vectors | "LeftRows" >> CountSides()
        plan = self._plan(rows.pipeline, "PlanLeft", self.comparison.search, surveys, counts)
        return SearchInputs(left, vectors, plan)


@dataclasses.dataclass(eq=False)
class _MinePairs(beam.PTransform):
    """Mine two sides that were prepared.

    Attributes:
      settings: of the mining.
      select: of rows what they are searched by, where they are searched within scopes.
    """

    settings: MineBitext
    select: SearchColumns | None

    @named_collections
    def expand(self, inputs: SearchInputs) -> Mined:
        settings, output, plan = self.settings, self.settings.output, inputs.plan
        scope = None if self.select is None else settings.scope
        only_pairs = output.emit == "pairs"
        found = inputs | "Search" >> self._search(scope)
        chosen = found | "Choose" >> ChoosePairs(settings.retrieval, only_pairs)
        fit = FitThreshold(settings.step, settings.threshold, settings.thresholding)
        fitted = AsSingleton(ChosenPairs(chosen, plan) | "FitThreshold" >> fit)
        emitted = chosen if only_pairs else found
        above = emitted | "Cut" >> beam.FlatMap(cut, fitted, output.emit).with_output_types(Block)
        described = above | "FilterLengths" >> FilterLengths(
            output.max_length_ratio if only_pairs else None
        )
        figures = {**settings.settings(), "scope": scope}
        report = FromSideInputs(
            dict, mining_report, AsSingleton(plan), figures, fitted, described.ratios
        )
        return Mined(described.pairs, plan.pipeline | "Report" >> report)

    def _search(self, scope: str | None) -> beam.PTransform:
        settings, output = self.settings, self.settings.output
        rule = PairRule(
            settings.k,
            settings.margin,
            settings.retrieval,
            output.emit == "candidates",
            settings.columns,
            output.keep_vectors,
        )
        if scope is None or self.select is None:
            return SearchBitext(rule)
        return SearchScopes(rule, scope, self.select)
