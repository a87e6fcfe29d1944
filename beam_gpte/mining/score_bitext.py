"""A list of pairs gets the scores that mining would give them: `pairs | ScoreBitext()`.

source, target --> PrepareSide --> vectors --> SurveySides, PlanMining --> FindNeighbors --> forward --+   +-- backward
                                                                                                       |   |
pairs --> NameKept, both sides --> by source: forward mean and rank, vector <--------------------------+   |
                                        |                                                                  |
                                        +--> by target: backward mean and rank, cosine, margin <-----------+
                                                                |
                                                                +--> AttachRows --> DescribeTexts --> pairs
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    COSINE,
    DUPLICATE_OF,
    EMBEDDING,
    FOUND_BY,
    ID,
    MARGIN,
    SCORE,
    SIDE_IDS,
    SIDES,
    TEXT,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.margin import Margin
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import RejectingTransform, merge_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.mining.attach_rows import AttachRows
from beam_gpte.mining.bitext_report import POSTERIOR, Bitext, with_metadata
from beam_gpte.mining.pair_checks import CHAR_OVERLAP, LENGTH_RATIO, SAME_NUMBERS, FilterLengths
from beam_gpte.mining.pair_scores import MEANS, RANKS, JoinSide, NameKept
from beam_gpte.mining.plan import MiningPlan, PlanMining, Search, SurveySides
from beam_gpte.mining.search import FindNeighbors
from beam_gpte.mining.sides import PrepareSide, SideSettings, check_sides
from beam_gpte.mining.threshold import FittedThreshold, FitThreshold
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds, id_array

STEP = "ScoreBitext"
ADDED = (*MEANS, *RANKS, COSINE, MARGIN, POSTERIOR, LENGTH_RATIO, SAME_NUMBERS, CHAR_OVERLAP)


@dataclasses.dataclass(eq=False)
class ScoreBitext(RejectingTransform):
    """Score pairs that are there already, such as a corpus from elsewhere; nothing is filtered. Gives a `Bitext`.

    Takes one of two:

    * pairs alone, rows with an id, `source_text` and `target_text`, and `source_embedding` and `target_embedding` or a
      `model`: the neighbours of a sentence are looked for among all sentences of the pairs' other side. `source_id` and
      `target_id` of the result are both the pair's id.
    * a dict of ``pairs``, rows with `source_id` and `target_id`, and of ``source`` and ``target``, the corpora that these
      name, as `MineBitext` takes them: neighbours are looked for in the corpora. A pair may come twice.

    The result's pairs have the columns of `MineBitext`'s except copies, and the pairs' own columns, where they have other
    names; `forward_rank` is null where the target is none of the source's k nearest, means and margin are null where a row
    has no neighbours. A pair that `MineBitext` gives with the same settings gets the same numbers.

    Bad rows are those of `MineBitext`, and pairs that name an id which is not there, or one of a bad row: they fail the job,
    or are set aside by `with_exception_handling()`.

    Memory of a worker: that of `MineBitext`; or one of 16 partitions of the pairs, with a vector each.

    Attributes:
      k: neighbours that means are taken over.
      margin: ``distance``, ``ratio`` or ``absolute``.
      center: take each side's mean off its vectors.
      deduplicate: of sentences with the same text only one is a neighbour.
      search: as for `MineBitext`.
      model: embeds texts without vectors, as `EmbedText` does.
    """

    k: int = 4
    margin: Margin = "distance"
    center: bool = True
    deduplicate: bool = True
    search: Search = "auto"
    model: Any = None
    id_column: str = ID
    text_column: str = TEXT
    embedding_column: str = EMBEDDING

    def __post_init__(self) -> None:
        for name, choices in (("margin", get_args(Margin)), ("search", get_args(Search))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        if self.k < 1:
            raise InputError(f"k is {self.k}; use 1 or more")

    def settings(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("k", "margin", "center", "deduplicate", "search")
        }

    def expand(self, inputs: Any) -> Any:
        columns, rejects = (self.id_column, self.text_column, self.embedding_column), []
        own = SideSettings(STEP, None, self.deduplicate, self.model, self._isolate, *columns)
        alone = not isinstance(inputs, Mapping)
        if alone:
            parted = inputs | "Part" >> _PartPairs(self)
            rejects.append(parted.rejects)
            inputs = {"pairs": parted.pairs, "source": parted.source, "target": parted.target}
        check_sides(inputs, ("pairs", *SIDES), STEP)
        sides = [inputs[name] | f"Prepare_{name}" >> PrepareSide(own, name) for name in SIDES]
        rejects += [] if alone else [side.rejects for side in sides]
        vectors = tuple(side.vectors for side in sides)
        plan = vectors | "Survey" >> SurveySides() | "Plan" >> PlanMining(self.center, self.search)
        found = (*vectors, plan) | "Find" >> FindNeighbors(self.k)
        pairs = as_blocks(inputs["pairs"]) | "OwnColumns" >> beam.Map(
            _own_columns
        ).with_output_types(Block)
        for i, side in enumerate(sides):
            pairs = (pairs, side.copies, side.rejects) | f"NameKept_{SIDES[i]}" >> NameKept(
                i, self.id_column
            )
        for i, nearest in enumerate((found.forward, found.backward)):
            meet = JoinSide(STEP, i, self.k, self.margin, self._isolate)
            met = (pairs, nearest, sides[i].vectors, plan) | f"Meet_{SIDES[i]}" >> meet
            pairs = met.good
            rejects.append(met.rejects)
        cut = (pairs, plan) | "FitMixture" >> FitThreshold(-math.inf, 0.5, None)
        told = pairs | "Posterior" >> beam.Map(_with_posterior, AsSingleton(cut)).with_output_types(
            Block
        )
        rows = [
            (side.rows, side.copies) | f"AllRows{i}" >> _AllRows() for i, side in enumerate(sides)
        ]
        whole = (told, *rows) | "AttachRows" >> AttachRows(*columns, copies=False)
        described, lengths = whole | "DescribeTexts" >> FilterLengths(None)
        describe = beam.Map(with_metadata, self.settings(), AsSingleton(plan)).with_output_types(
            Block
        )
        make = FromSideInputs(
            dict, _report, AsSingleton(plan), self.settings(), AsSingleton(cut), lengths
        )
        report = plan.pipeline | "Report" >> make
        return Bitext(described | "Describe" >> describe, report, merge_rejects(rejects))


class _Parted(NamedTuple):
    pairs: beam.PCollection
    source: beam.PCollection
    target: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class _PartPairs(beam.PTransform):
    """Pairs with texts become pairs of ids, and the rows of either side."""

    own: ScoreBitext

    def expand(self, rows: beam.PCollection) -> Any:
        own, unique = self.own, RejectDuplicateIds(self.own.id_column)
        blocks = as_blocks(rows)
        rejects = blocks | "NoRejects" >> beam.FlatMap(lambda block: ()).with_output_types(Block)
        if own._isolate:
            blocks, rejects = blocks | unique.with_exception_handling()
        else:
            blocks = blocks | unique
        names = own.id_column, own.text_column, own.embedding_column
        pairs = blocks | "Ids" >> beam.Map(
            _pair_of_ids, own.id_column, own.embedding_column
        ).with_output_types(Block)
        source, target = (
            blocks | f"Rows_{side}" >> beam.Map(_side_rows, side, *names).with_output_types(Block)
            for side in SIDES
        )
        return _Parted(pairs, source, target, rejects)


def _pair_of_ids(block: Block, id_column: str, embedding_column: str) -> Block:
    ids = id_array(block, id_column)
    for name in SIDE_IDS:
        block = block.with_column(pa.field(name, ids.type), ids)
    vectors = [f"{side}_{embedding_column}" for side in SIDES]
    return block.without_columns([id_column, *vectors])


def _side_rows(
    block: Block, side: str, id_column: str, text_column: str, embedding_column: str
) -> Block:
    names = {
        id_column: id_column,
        f"{side}_{TEXT}": text_column,
        f"{side}_{embedding_column}": embedding_column,
    }
    present = [name for name in names if name in block.schema.names]
    return Block(block.batch.select(present).rename_columns([names[name] for name in present]))


def _own_columns(block: Block) -> Block:
    """Pairs without what is added to them."""
    for name in SIDE_IDS:
        ids = id_array(block, name)
        block = block.with_column(pa.field(name, ids.type), ids)
    return block.without_columns(ADDED)


@dataclasses.dataclass(eq=False)
class _AllRows(beam.PTransform):
    """`(rows, copies)` of a side are all its rows."""

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        rows, copies = inputs
        bare = copies | "Bare" >> beam.Map(_without_decision).with_output_types(Block)
        return (rows, bare) | "All" >> beam.Flatten()


def _without_decision(block: Block) -> Block:
    return block.without_columns([DUPLICATE_OF, SCORE, FOUND_BY])


def _with_posterior(block: Block, cut: FittedThreshold) -> Block:
    margins = block.column(MARGIN).to_numpy(zero_copy_only=False)
    told = pa.nulls(len(block), pa.float64())
    if cut.mixture is not None:
        told = pa.array(cut.mixture.posterior(margins), from_pandas=True)
    return block.with_column(pa.field(POSTERIOR, pa.float64()), told)


def _report(
    plan: MiningPlan, settings: dict[str, Any], cut: FittedThreshold, lengths: dict[str, Any]
) -> dict[str, Any]:
    known = plan.metadata
    told = {name: value for name, value in lengths.items() if name != "dropped_by_length"}
    return {
        **settings,
        **plan.search_settings(),
        **({} if known is None else {"model": known.model, "fingerprint": known.fingerprint}),
        "source_rows": plan.rows[0],
        "target_rows": plan.rows[1],
        "mixture": None if cut.mixture is None else dataclasses.asdict(cut.mixture),
        **told,
        "warnings": [] if cut.note is None else [cut.note],
    }
