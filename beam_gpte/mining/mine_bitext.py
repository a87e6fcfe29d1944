"""Two corpora give the sentences that translate one another: `{"source": german, "target": english} | MineBitext()`.

source --> PrepareSide --> vectors --+--> SurveySides, PlanMining --> SearchBitext --> Choose --> histogram --> cut
target --> PrepareSide --> vectors --+                                                   |                      |
                                                                                         +--> above the threshold
rows, copies of both -------------------------------------------------------------------> AttachRows --> FilterLengths
                                                                                                              |
                                                                                                            pairs
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import DECOY, EMBEDDING, ID, MARGIN, SCOPE, SIDES, TEXT
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.margin import Margin, Retrieval, greedy_one_to_one
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import RejectingTransform, merge_rejects
from beam_gpte.mining.attach_rows import AttachRows
from beam_gpte.mining.bitext_report import (
    FOUND_IN,
    POSTERIOR,
    Bitext,
    merged_report,
    mining_report,
    with_metadata,
)
from beam_gpte.mining.pair_checks import FilterLengths
from beam_gpte.mining.plan import PlanMining, Search, SurveySides
from beam_gpte.mining.search import BEST_BACKWARD, BEST_FORWARD, SearchBitext
from beam_gpte.mining.sides import PrepareSide, SideSettings, WithoutPaired, check_sides
from beam_gpte.mining.threshold import FittedThreshold, FitThreshold
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of

EMIT = ("pairs", "candidates")


@dataclasses.dataclass(eq=False)
class MineBitext(RejectingTransform):
    """Find the pairs of a source and a target sentence that translate one another; gives a `Bitext`.

    Takes a dict of two collections of any kind of rows, ``source`` and ``target``, one sentence a row, with vectors of one
    model or with `model`. The result is the same whatever the order, the blocks and the workers. With the retrievals
    ``intersection`` and ``max`` a sentence is in at most one pair.

    As it is, every side's vectors are centred by their mean, which makes one threshold fit many models and languages;
    margins, retrieval and their names are those of `core.margin`. `MineBitext.laser(1.06)` is the setting of published work.

    Rows whose vector (or, with a `model`, text) is null, not finite or zero, and rows whose id is null or taken, fail the
    job or are set aside by `with_exception_handling()`. Vectors of two lengths or models, and two equal sides, fail it.

    Memory of a worker: two shards of 65,536 vectors, or all of one scope, in fp32 twice, and 16 MB of products; or one of 16
    partitions of the candidates, n (2 k) / 16 rows of about 60 bytes. With the retrieval ``max`` one worker holds a row of
    60 bytes for each sentence.

    Attributes:
      k: neighbours that means are taken over, and that are candidates.
      margin: ``distance``, ``ratio`` or ``absolute``.
      retrieval: ``intersection``, that is mutual best; ``max``, ``forward``, ``backward`` or ``union``.
      threshold: the least margin of a pair; or ``posterior``: where `min_posterior` is reached, by `core.mixture`.
      min_posterior: for ``threshold="posterior"``.
      target_precision: the least margin at which this share of the pairs is estimated to be right, in place of `threshold`;
        needs `decoys`.
      decoys: rows of the source language without a translation among the targets, a few thousand; they are in no pair.
      center: take each side's mean off its vectors.
      scope: only rows with the same value in this column meet, such as the document. A scope is searched by one worker.
      mine_unmatched: rows that are in no pair within their scope meet all such rows of the other side after that, with a threshold
        of their own if it is not a number; a column `found_in` of the pairs is ``scope`` or ``all``.
      search: ``exact``; ``cells``, in which some pairs are missed; or ``auto``: exact as long as that costs no more than
        embedding would (2.2 million rows a side at 384 dimensions), see `core.mining_cells`. Scopes are searched exactly.
      deduplicate: of sentences with the same text (`DeduplicateExact`) only the one with the smallest id is mined; the ids
        of the others are in `source_copies` and `target_copies`. With a scope, of those within it.
      max_length_ratio: drop pairs whose characters' ratio, divided by the median, is larger or smaller than one over it;
        None for no limit.
      emit: ``pairs``; ``candidates``: each row with all its k nearest, whatever the margin, and whether it is the best.
      keep_vectors: pairs keep the vectors of both rows, as `source_embedding` and `target_embedding`.
      model: embed the texts of rows that have no `embedding_column` first, as `EmbedText` does; with a model's prompts.
    """

    k: int = 4
    margin: Margin = "distance"
    retrieval: Retrieval = "intersection"
    threshold: float | str = 0.15
    min_posterior: float = 0.9
    target_precision: float | None = None
    decoys: beam.PCollection | None = None
    center: bool = True
    scope: str | None = None
    mine_unmatched: bool = False
    search: Search = "auto"
    deduplicate: bool = True
    max_length_ratio: float | None = 2.0
    emit: str = "pairs"
    keep_vectors: bool = False
    model: Any = None
    id_column: str = ID
    text_column: str = TEXT
    embedding_column: str = EMBEDDING

    def __post_init__(self) -> None:
        for name, choices in (
            ("margin", get_args(Margin)),
            ("retrieval", get_args(Retrieval)),
            ("emit", EMIT),
            ("search", get_args(Search)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        if self.k < 1:
            raise InputError(f"k is {self.k}; use 1 or more")
        if isinstance(self.threshold, str) and self.threshold != POSTERIOR:
            raise InputError(f'threshold is {self.threshold!r}; use a number or "posterior"')
        if not 0 < self.min_posterior < 1:
            raise InputError(f"min_posterior is {self.min_posterior}; use a number between 0 and 1")
        if self.mine_unmatched and self.scope is None:
            raise InputError(
                "mine_unmatched is for what a scope leaves; name the scope's column, or leave it out"
            )
        if self.mine_unmatched and self.emit != "pairs":
            raise InputError("mine_unmatched takes rows in pairs out; use emit='pairs'")
        if self.max_length_ratio is not None and self.max_length_ratio <= 1:
            raise InputError(
                f"max_length_ratio is {self.max_length_ratio}; use a number above 1, or None"
            )
        if (self.target_precision is None) != (self.decoys is None):
            raise InputError(
                "target_precision and decoys go together: sentences without a translation estimate precision"
            )
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise InputError(
                f"target_precision is {self.target_precision}; use a number between 0 and 1"
            )
        if isinstance(self.model, EncoderConfig) and self.model.long_text in (
            "chunks",
            "late_chunks",
        ):
            raise InputError(
                f"long_text {self.model.long_text!r} makes several rows of one; use truncate or windows"
            )

    @classmethod
    def laser(cls, threshold: float, **others: Any) -> "MineBitext":
        """The setting of LASER's ``mine_bitexts``: vectors as they are, ratio margin, max retrieval; no deduplication, which
        it does by lines, and no filter. Good thresholds depend on the model: 1.04-1.06 for LASER's own, 1.03 for
        multilingual-e5-small.
        """
        preset: dict[str, Any] = {"margin": "ratio", "retrieval": "max", "center": False}
        return cls(
            **{
                **preset,
                "deduplicate": False,
                "max_length_ratio": None,
                "threshold": threshold,
                **others,
            }
        )

    def settings(self) -> dict[str, Any]:
        left_out = (
            "decoys",
            "keep_vectors",
            "model",
            "id_column",
            "text_column",
            "embedding_column",
        )
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in left_out
        }

    def expand(self, inputs: Any) -> Any:
        check_sides(inputs, SIDES, "MineBitext")
        columns = self.id_column, self.text_column, self.embedding_column
        own = SideSettings(
            "MineBitext", self.scope, self.deduplicate, self.model, self._isolate, *columns
        )
        has_decoys = None if self.decoys is None else False
        source = inputs["source"] | "Prepare_source" >> PrepareSide(own, "source", has_decoys)
        target = inputs["target"] | "Prepare_target" >> PrepareSide(own, "target")
        rejects, decoys = [source.rejects, target.rejects], None
        if self.decoys is not None:
            aside = self.decoys | "Prepare_decoys" >> PrepareSide(own, "source", True)
            rejects.append(aside.rejects)
            decoys = aside.vectors
        sources = (
            source.vectors
            if decoys is None
            else (source.vectors, decoys) | "WithDecoys" >> beam.Flatten()
        )
        surveys = (sources, target.vectors) | "Survey" >> SurveySides()
        searched: Search = "exact" if self.scope is not None else self.search
        plan = surveys | "Plan" >> PlanMining(self.center, searched)
        first = (source, target, sources, plan) | "Mine" >> _MineSides(self, self.scope is not None)
        pairs, report = first
        if self.mine_unmatched:
            left = (source, first.pairs) | "Left_source" >> WithoutPaired(own, "source", has_decoys)
            others = (target, first.pairs) | "Left_target" >> WithoutPaired(own, "target")
            sources = left.vectors
            if decoys is not None:
                bare = decoys | "NoScope" >> beam.Map(_without_scope).with_output_types(Block)
                sources = (sources, bare) | "LeftWithDecoys" >> beam.Flatten()
            plan = surveys | "PlanLeft" >> PlanMining(
                self.center, self.search, (sources, others.vectors)
            )
            second = (left, others, sources, plan) | "MineLeft" >> _MineSides(self, False)
            placed = tuple(
                mined.pairs
                | f"Found_{place}" >> beam.Map(_with_place, place).with_output_types(Block)
                for place, mined in (("scope", first), ("all", second))
            )
            pairs = placed | "BothPairs" >> beam.Flatten()
            merge = beam.Map(merged_report, AsSingleton(second.report)).with_output_types(dict)
            report = first.report | "BothReports" >> merge
        describe = beam.Map(with_metadata, self.settings(), AsSingleton(plan)).with_output_types(
            Block
        )
        return Bitext(pairs | "Describe" >> describe, report, merge_rejects(rejects))


@dataclasses.dataclass(eq=False)
class _MineSides(beam.PTransform):
    """`(source, target, vectors of the sources and decoys, plan)`, sides that were prepared, give pairs and a report."""

    own: MineBitext
    scoped: bool

    def expand(self, inputs: Any) -> Any:
        own, (source, target, sources, plan) = self.own, inputs
        candidates = (sources, target.vectors, plan) | "Search" >> SearchBitext(
            own.k, own.margin, self.scoped
        )
        chosen = candidates | "Choose" >> _Choose(own.retrieval)
        cut = (chosen, plan) | "FitThreshold" >> FitThreshold(
            own.threshold, own.min_posterior, own.target_precision
        )
        emitted = chosen if own.emit == "pairs" else candidates
        above = emitted | "Cut" >> beam.FlatMap(
            _above, AsSingleton(cut), own.emit
        ).with_output_types(Block)
        attach = AttachRows(
            own.id_column, own.text_column, None if own.keep_vectors else own.embedding_column
        )
        whole = (
            above,
            source.rows,
            source.copies,
            target.rows,
            target.copies,
        ) | "AttachRows" >> attach
        pairs, lengths = whole | "FilterLengths" >> FilterLengths(
            own.max_length_ratio if own.emit == "pairs" else None
        )
        settings = {**own.settings(), "scope": own.scope if self.scoped else None}
        make = FromSideInputs(
            dict, mining_report, AsSingleton(plan), settings, AsSingleton(cut), lengths
        )
        return _Mined(pairs, plan.pipeline | "Report" >> make)


class _Mined(NamedTuple):
    pairs: beam.PCollection
    report: beam.PCollection


@dataclasses.dataclass(eq=False)
class _Choose(beam.PTransform):
    """The candidates that a retrieval takes for pairs."""

    retrieval: Retrieval

    def expand(self, candidates: beam.PCollection[Block]) -> beam.PCollection[Block]:
        chosen = candidates | "Best" >> beam.FlatMap(_best, self.retrieval).with_output_types(Block)
        if self.retrieval != "max":
            return chosen
        return (
            chosen
            | "OneKey" >> beam.WithKeys(0).with_output_types(Keyed)
            | "OneWorker" >> beam.GroupByKey()
            | "Greedy" >> beam.Map(_greedy).with_output_types(Block)
        )


def _best(block: Block, retrieval: Retrieval) -> Iterator[Block]:
    forward, backward = block.column(BEST_FORWARD), block.column(BEST_BACKWARD)
    wanted = {
        "forward": lambda: forward,
        "backward": lambda: backward,
        "intersection": lambda: pc.and_(forward, backward),
        "union": lambda: pc.or_(forward, backward),
        "max": lambda: pc.or_(forward, backward),
    }[retrieval]()
    if pc.any(wanted).as_py():
        yield block.filter(wanted)


def _greedy(element: tuple[int, Iterable[Block]]) -> Block:
    return block_of(greedy_one_to_one(frame_of(element[1])))


def _above(block: Block, cut: FittedThreshold, emit: str) -> Iterator[Block]:
    frame = frame_of([block])
    if DECOY in frame.columns:
        frame = frame.filter(~pl.col(DECOY)).drop(DECOY)
    if emit == "pairs":
        frame = frame.filter(pl.col(MARGIN) >= pl.lit(cut.threshold, pl.Float32)).drop(
            BEST_FORWARD, BEST_BACKWARD
        )
    if not len(frame):
        return
    told = (
        [None] * len(frame)
        if cut.mixture is None
        else cut.mixture.posterior(frame[MARGIN].to_numpy())
    )
    yield block_of(frame.with_columns(pl.Series(POSTERIOR, told, pl.Float64)))


def _without_scope(block: Block) -> Block:
    return block.without_columns([SCOPE])


def _with_place(block: Block, place: str) -> Block:
    return block.with_column(
        pa.field(FOUND_IN, pa.string()), pa.array([place] * len(block), pa.string())
    )
