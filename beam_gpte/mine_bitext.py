"""Two corpora give the sentences that translate one another: `{"source": german, "target": english} | MineBitext()`.

source --> Check, Deduplicate, Embed --> vectors --+--> SurveySides --> SearchBitext --> Choose --> histogram --> cut
target --> Check, Deduplicate, Embed --> vectors --+                                        |                      |
                                                                                            +--> above the threshold
rows, copies of both ----------------------------------------------------------------------> AttachRows --> FilterLengths
                                                                                                                 |
                                                                                                               pairs
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton

from beam_gpte.attach_rows import SIDES, AttachRows
from beam_gpte.bitext_search import BEST_BACKWARD, BEST_FORWARD, SearchBitext
from beam_gpte.bitext_survey import DECOY, MiningPlan, SurveySides
from beam_gpte.bitext_threshold import Cut, FitThreshold
from beam_gpte.block import Block
from beam_gpte.by_id import Keyed, block_of, frame_of
from beam_gpte.core import margin as mining
from beam_gpte.core.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.join import SCOPE, VECTOR
from beam_gpte.core.margin import MARGIN, SOURCE_ID, TARGET_ID
from beam_gpte.deduplicate_exact import DeduplicateExact
from beam_gpte.deduplication import SplitByVerdict
from beam_gpte.ids import RejectDuplicateIds, id_array
from beam_gpte.pair_lengths import SOURCE_TEXT, TARGET_TEXT, FilterLengths
from beam_gpte.rejects import merge_rejects, reject_outputs, split_rejects
from beam_gpte.rows import as_blocks
from beam_gpte.schemas import EMBEDDING, ID, STEP, TEXT
from beam_gpte.score_pairs import vector_array
from beam_gpte.with_vectors import EmbedWhereMissing, VectorDefects, check_text, unit_vectors

POSTERIOR = "posterior"
METADATA = b"beam_gpte.bitext"  # metadata of the column `margin`: JSON with settings, model and fingerprint
EMIT = ("pairs", "candidates")
_FIRST = (SOURCE_ID, TARGET_ID, SOURCE_TEXT, TARGET_TEXT, mining.COSINE, MARGIN)
LEAST_SHARE = 0.05  # of the smaller side, that is mutually best; fewer are found between texts that have nothing in common


class Bitext(NamedTuple):
    """The result of mining.

    Attributes:
      pairs: blocks of `source_id`, `target_id`, `source_text`, `target_text`, `cosine`, `forward_mean`, `backward_mean`,
        `margin`, `forward_rank`, `backward_rank` (null where the one is not among the other's k nearest), `posterior`
        (float64, null where the margins do not tell pairs from chance), `length_ratio`, `same_numbers`, `char_overlap`,
        `source_copies`, `target_copies`, and the other columns of both sides as `source_...` and `target_...`. The column
        `margin` has metadata that say how they were found.
      report: one dict, with the figures of the run and warnings.
      rejects: rows that could not be mined, with step and reason; empty unless `with_exception_handling()` was called.
    """

    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class MineBitext(beam.PTransform):
    """Find the pairs of a source and a target sentence that translate one another; gives a `Bitext`.

    Takes a dict of two collections of any kind of rows, ``source`` and ``target``, one sentence a row, with vectors of one
    model or with `model`. The search is exact, and the result the same whatever the order, the blocks and the workers.

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
      threshold: the least margin of a pair; or ``posterior``: where `least_posterior` is reached, by `core.mixture`.
      least_posterior: for ``threshold="posterior"``.
      target_precision: the least margin at which this share of the pairs is estimated to be right, in place of `threshold`;
        needs `decoys`.
      decoys: rows of the source language without a translation among the targets, a few thousand; they are in no pair.
      center: take each side's mean off its vectors.
      scope: only rows with the same value in this column meet, such as the document. A scope is searched by one worker.
      deduplicate: of sentences with the same text (`DeduplicateExact`) only the one with the smallest id is mined; the ids
        of the others are in `source_copies` and `target_copies`. With a scope, texts are compared as they are, within it.
      max_length_ratio: drop pairs whose characters' ratio, divided by the median, is larger or smaller than one over it;
        None for no limit.
      emit: ``pairs``; ``candidates``: each row with all its k nearest, whatever the margin, and whether it is the best.
      model: embed the texts of rows that have no `embedding_column` first, as `EmbedText` does; with a model's prompts.
    """

    k: int = 4
    margin: mining.Margin = "distance"
    retrieval: mining.Retrieval = "intersection"
    threshold: float | str = 0.15
    least_posterior: float = 0.9
    target_precision: float | None = None
    decoys: beam.PCollection | None = None
    center: bool = True
    scope: str | None = None
    deduplicate: bool = True
    max_length_ratio: float | None = 2.0
    emit: str = "pairs"
    model: Any = None
    id_column: str = ID
    text_column: str = TEXT
    embedding_column: str = EMBEDDING

    _isolate = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("margin", get_args(mining.Margin)),
            ("retrieval", get_args(mining.Retrieval)),
            ("emit", EMIT),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        if self.k < 1:
            raise InputError(f"k is {self.k}; use 1 or more")
        if isinstance(self.threshold, str) and self.threshold != POSTERIOR:
            raise InputError(f'threshold is {self.threshold!r}; use a number or "posterior"')
        if not 0 < self.least_posterior < 1:
            raise InputError(f"least_posterior is {self.least_posterior}; use a number between 0 and 1")
        if self.max_length_ratio is not None and self.max_length_ratio <= 1:
            raise InputError(f"max_length_ratio is {self.max_length_ratio}; use a number above 1, or None")
        if (self.target_precision is None) != (self.decoys is None):
            raise InputError("target_precision and decoys go together: sentences without a translation estimate precision")
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise InputError(f"target_precision is {self.target_precision}; use a number between 0 and 1")
        if isinstance(self.model, EncoderConfig) and self.model.long_text in ("chunks", "late_chunks"):
            raise InputError(f"long_text {self.model.long_text!r} makes several rows of one; use truncate or windows")

    @classmethod
    def laser(cls, threshold: float, **others: Any) -> "MineBitext":
        """The setting of LASER's ``mine_bitexts``: vectors as they are, ratio margin, max retrieval; no deduplication, which
        it does by lines, and no filter. Good thresholds depend on the model: 1.04-1.06 for LASER's own, 1.03 for
        multilingual-e5-small.
        """
        preset: dict[str, Any] = {"margin": "ratio", "retrieval": "max", "center": False}
        return cls(**{**preset, "deduplicate": False, "max_length_ratio": None, "threshold": threshold, **others})

    def with_exception_handling(self) -> "MineBitext":
        """Set bad rows aside, in `rejects`, instead of failing at the first one."""
        twin = dataclasses.replace(self)
        twin._isolate = True
        return twin

    def settings(self) -> dict[str, Any]:
        left_out = ("decoys", "model", "id_column", "text_column", "embedding_column")
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in left_out}

    def expand(self, inputs: Any) -> Any:
        if not isinstance(inputs, Mapping) or set(inputs) != {"source", "target"}:
            raise InputError('give {"source": ..., "target": ...} | MineBitext(...)')
        for name, side in inputs.items():
            if not (side.is_bounded and side.windowing.is_default()):
                raise InputError(f"{name}: a bitext is mined from whole corpora, not from a stream or windows")
        sides = {name: inputs[name] | f"Prepare_{name}" >> PrepareSide(self, name) for name in ("source", "target")}
        vectors = [sides[name].vectors for name in ("source", "target")]
        rejects = [sides[name].rejects for name in ("source", "target")]
        if self.decoys is not None:
            decoys = self.decoys | "Prepare_decoys" >> PrepareSide(self, "source", decoys=True)
            vectors[0] = (vectors[0], decoys.vectors) | "WithDecoys" >> beam.Flatten()
            rejects.append(decoys.rejects)
        plan = tuple(vectors) | "Survey" >> SurveySides(self.center)
        candidates = (*vectors, plan) | "Search" >> SearchBitext(self.k, self.margin, self.scope is not None)
        chosen = candidates | "Choose" >> _Choose(self.retrieval)
        fit = FitThreshold(self.threshold, self.least_posterior, self.target_precision)
        cut = (chosen, plan) | "FitThreshold" >> fit
        emitted = chosen if self.emit == "pairs" else candidates
        above = emitted | "Cut" >> beam.FlatMap(_above, AsSingleton(cut), self.emit).with_output_types(Block)
        rows = (part for name in ("source", "target") for part in (sides[name].rows, sides[name].copies))
        attach = AttachRows(self.id_column, self.text_column, self.embedding_column)
        whole = (above, *rows) | "AttachRows" >> attach
        limit = self.max_length_ratio if self.emit == "pairs" else None
        pairs, lengths = whole | "FilterLengths" >> FilterLengths(limit)
        named = pairs | "Describe" >> beam.Map(_with_metadata, self.settings(), AsSingleton(plan)).with_output_types(Block)
        make = beam.Map(_report, self.settings(), AsSingleton(cut), AsSingleton(lengths))
        report = plan | "Report" >> make.with_output_types(dict)
        return Bitext(named, report, merge_rejects(rejects))


class _Side(NamedTuple):
    """Rows that can be mined; their `vectors` as `SearchBitext` takes them; `copies`, rows that were removed, with what they
    are a `duplicate_of`."""

    rows: beam.PCollection
    vectors: beam.PCollection
    copies: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class PrepareSide(beam.PTransform):
    """Check, deduplicate and embed one side's rows; messages call the transform `step` and the side `called`."""

    mining: MineBitext
    side: str
    decoys: bool = False
    step: str = "MineBitext"
    called: str | None = None

    def expand(self, rows: beam.PCollection) -> Any:
        own, isolate, called = self.mining, self.mining._isolate, self.called or self.side
        scope = () if own.scope is None else (own.scope,)
        defects = VectorDefects(own.embedding_column, scope, own.text_column if own.model else None, own.id_column)
        text_column = own.text_column if own.deduplicate else None
        check = beam.FlatMap(_check, defects, text_column, f"{self.step} {called}", isolate)
        good, refused = as_blocks(rows) | "Check" >> reject_outputs(check)
        rejects = [refused]
        unique: Any = RejectDuplicateIds(own.id_column)
        if isolate:
            good, same_id = good | unique.with_exception_handling()
            rejects.append(same_id)
        else:
            good = good | unique
        if own.deduplicate:
            exact = DeduplicateExact(
                (own.text_column, *scope) if scope else (), "first", None, own.id_column, own.text_column
            )
            judged = exact.judge(good, has_reference=False)
            split = (good, judged.verdicts) | "NoCopies" >> SplitByVerdict(own.id_column, exact.name)
            good, copies = split.kept, split.removed
        else:
            copies = good | "NoCopies" >> beam.FlatMap(lambda block: ()).with_output_types(Block)
        if own.model is not None:
            names = own.text_column, own.id_column, own.embedding_column
            good, failed = good | "Embed" >> EmbedWhereMissing(own.model, *names, isolate)
            rejects += [] if failed is None else [failed]
        describe = _Describe(own, SOURCE_ID if self.side == "source" else TARGET_ID, self.decoys)
        vectors = good | "Vectors" >> beam.Map(describe).with_output_types(Block)
        named = merge_rejects(rejects) | "NameSide" >> beam.Map(_name_side, called).with_output_types(Block)
        return _Side(good, vectors, copies, named)


def _check(block: Block, defects: VectorDefects, text_column: str | None, step: str, isolate: bool) -> Iterator[Any]:
    found = defects(block)
    if text_column is not None:
        found = pc.coalesce(found, check_text(block, text_column))
    yield from split_rejects(block, found, step, isolate, defects.id_column)


def _name_side(block: Block, side: str) -> Block:
    steps = [step if side in step else f"{step}, {side}" for step in block.column(STEP).to_pylist()]
    return block.without_columns([STEP]).with_column(pa.field(STEP, pa.string()), pa.array(steps, pa.string()))


class _Describe:
    """What a row is searched by: its id under the name of its side, its unit vector, its scope, whether it is a decoy."""

    def __init__(self, own: MineBitext, id_name: str, decoys: bool) -> None:
        self._names = own.id_column, own.embedding_column, own.scope
        self._id_name = id_name
        self._decoy = decoys if own.decoys is not None and id_name == SOURCE_ID else None

    def __call__(self, block: Block) -> Block:
        id_column, embedding_column, scope = self._names
        columns: dict[str, Any] = {self._id_name: id_array(block, id_column)}
        if scope is not None:
            columns[SCOPE] = block.column(scope).cast(pa.large_string()).fill_null("")
        if self._decoy is not None:
            columns[DECOY] = pa.array([self._decoy] * len(block))
        array = vector_array(unit_vectors(block, embedding_column))
        field = pa.field(VECTOR, array.type, metadata=block.schema.field(embedding_column).metadata)
        return Block.from_pydict(columns).with_column(field, array)


@dataclasses.dataclass(eq=False)
class _Choose(beam.PTransform):
    """The candidates that a retrieval takes for pairs."""

    retrieval: mining.Retrieval

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


def _best(block: Block, retrieval: mining.Retrieval) -> Iterator[Block]:
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
    return block_of(mining.greedy_one_to_one(frame_of(element[1])))


def _above(block: Block, cut: Cut, emit: str) -> Iterator[Block]:
    frame = frame_of([block])
    if DECOY in frame.columns:
        frame = frame.filter(~pl.col(DECOY)).drop(DECOY)
    if emit == "pairs":
        frame = frame.filter(pl.col(MARGIN) >= pl.lit(cut.threshold, pl.Float32)).drop(BEST_FORWARD, BEST_BACKWARD)
    if not len(frame):
        return
    told = [None] * len(frame) if cut.mixture is None else cut.mixture.posterior(frame[MARGIN].to_numpy())
    yield block_of(frame.with_columns(pl.Series(POSTERIOR, told, pl.Float64)))


def _with_metadata(block: Block, settings: dict[str, Any], plan: MiningPlan) -> Block:
    known = plan.metadata
    about = {**settings, **({} if known is None else {"model": known.model, "fingerprint": known.fingerprint})}
    names = [name for name in _FIRST if name in block.schema.names]
    margin = pa.field(MARGIN, pa.float32(), metadata={METADATA: json.dumps(about, sort_keys=True).encode()})
    block = block.without_columns([MARGIN]).with_column(margin, block.column(MARGIN))
    return Block(block.batch.select([*names, *(name for name in block.schema.names if name not in names)]))


def _report(plan: MiningPlan, settings: dict[str, Any], cut: Cut, lengths: dict[str, Any]) -> dict[str, Any]:
    known, mixture = plan.metadata, cut.mixture
    smaller = min(plan.rows)
    warnings = [] if cut.note is None else [cut.note]
    share = cut.chosen / smaller if smaller else 0.0
    if settings["retrieval"] == "intersection" and smaller >= 100 and share < LEAST_SHARE:
        warnings.append(
            f"only {share:.1%} of the smaller side are mutually best: do vectors and texts belong together, and do both "
            "sides use the same model and prompt?"
        )
    for name, rows in zip(SIDES, plan.rows, strict=True):
        if not rows:
            warnings.append(f"no rows on the {name} side")
    return {
        **settings,
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
