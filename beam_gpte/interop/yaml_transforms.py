"""Provide the public transforms for Beam YAML, under their names; see `transforms/providers.yaml`.

Each takes rows with a schema and returns rows with a schema. An entry gives the fields of its
outputs; configuration, documentation, inputs, `error_handling` and the conversion of rows follow
from the transform. A new transform needs

    MyTransform = in_yaml(
        beam_gpte.MyTransform, lambda transform, rows: {"good": {**rows.input, "score": np.float32}}
    )

a line in `transforms/providers.yaml` and an example; `tests/interop/test_yaml.py` names what is
missing.
"""

from typing import Any

import numpy as np

import beam_gpte
from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    CLUSTER_ID,
    CLUSTER_SIZE,
    COSINE,
    CUT_END,
    CUT_START,
    CUT_TEXT,
    DUPLICATE_OF,
    FIRST_ID,
    FOUND_BY,
    ID,
    IMAGE_SHA256,
    IS_REPRESENTATIVE,
    MARGIN,
    PARENT_HASH,
    PARENT_ID,
    REJECT_REASON,
    SCORE,
    SECOND_ID,
    SHINGLES,
    SIDES,
    SIGNATURE,
    SIGNATURE_SCOPE,
    SOURCE,
    TEXT,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.decontamination.decide import (
    BENCHMARK,
    DOCUMENT_ID,
    ITEM,
    ITEM_ID,
    PASSAGE,
)
from beam_gpte.decontamination.findings import END, START
from beam_gpte.interop.yaml_rows import (
    REPORT,
    VECTOR,
    Fields,
    arrow_type,
    corpus_fields,
    list_type,
    optional,
    rejects_of,
    stored_fields,
    unreadable_fields,
)
from beam_gpte.interop.yaml_step import GOOD, Inputs, in_yaml
from beam_gpte.mining.bitext_report import FOUND_IN
from beam_gpte.neighbors.clusters.describe import CLUSTER, REPRESENTATIVE

WRITTEN = {"path": str, "rows": np.int64}
_FLOATS = ("explained_variance", "spearman", "neighbors")
_NUMBERS = ("dim", "vocabulary", "vocabulary_of_texts", "tokens_of_texts", "compared")
DISTILLED = {"path": str, **dict.fromkeys(_NUMBERS, np.int64), **dict.fromkeys(_FLOATS, float)}
PAIR_SCORES = optional(
    {
        **dict.fromkeys(
            ("cosine", "forward_mean", "backward_mean", "margin", "char_overlap"), np.float32
        ),
        **dict.fromkeys(("forward_rank", "backward_rank"), np.int64),
        **dict.fromkeys(("posterior", "length_ratio"), float),
        "same_numbers": bool,
    }
)


def _same(transform: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: rows.input}


def _added(transform: Any, fields: Fields) -> Fields:
    """Give the added ones of fields the names that `rename` wants."""
    names = transform.added()
    return {names[name]: kind for name, kind in fields.items()}


def _embedded(transform: Any, rows: Inputs) -> dict[str, Fields]:
    added = _added(transform, {transform.embedding_column: VECTOR})
    if isinstance(transform.model, EncoderConfig) and transform.model.splits:
        hashes = _added(transform, {PARENT_HASH: str})
        added = _chunk_fields(transform, rows) | hashes | added
    if transform.token_columns:
        added |= _added(transform, {TOKENS: np.int64, TOKENS_DROPPED: np.int64})
    return {GOOD: {**rows.input, **added}}


def _sparse(transform: Any, rows: Inputs) -> dict[str, Fields]:
    kinds = (list[int], list[float])
    added = _added(transform, dict(zip(transform.adds(), kinds, strict=True)))
    return {GOOD: {**rows.input, **added}}


def _images(transform: Any, rows: Inputs) -> dict[str, Fields]:
    kept = dict(rows.input)
    if not transform.keep_images:
        kept.pop(transform.image_column, None)
    hashes: Fields = {IMAGE_SHA256: str} if transform.storage.sha256 else {}
    return {GOOD: {**kept, **_added(transform, {transform.embedding_column: VECTOR, **hashes})}}


def _chunk_fields(transform: Any, rows: Inputs) -> Fields:
    name = transform.id_column
    ids = {name: str} if name in rows.input else {}
    parents = {PARENT_ID: rows[name]} if ids else {}
    places = dict.fromkeys((CHUNK_INDEX, CHUNK_START, CHUNK_END), np.int64)
    return {**ids, **_added(transform, {**parents, **places})}


def _chunks(transform: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: {**rows.input, transform.text_column: str, **_chunk_fields(transform, rows)}}


def _quantized(transform: Any, rows: Inputs) -> dict[str, Fields]:
    codes = VECTOR if transform.to == "float16" else list[int]
    return {GOOD: {**rows.input, transform.embedding_column: codes}}


def _deduplication(transform: Any, rows: Inputs) -> dict[str, Fields]:
    steps: tuple[Any, ...] = (
        transform.steps if isinstance(transform, beam_gpte.Deduplicate) else (transform,)
    )
    id_type, score = rows[steps[0].columns.id], optional({SCORE: np.float32})
    new: Fields = {
        one.columns.embedding: VECTOR for one in steps if getattr(one, "model", None) is not None
    }
    clusters = {CLUSTER_ID: id_type, CLUSTER_SIZE: np.int64, IS_REPRESENTATIVE: bool}
    annotated: Fields = {**rows.input, **_added(transform, clusters)} if transform.annotate else {}
    return {
        **({"annotated": annotated} if annotated else {}),
        "kept": {**new, **rows.input},
        "removed": {
            **optional(new),
            **rows.input,
            **_added(transform, {DUPLICATE_OF: id_type, **score, FOUND_BY: str}),
        },
        "pairs": {FIRST_ID: id_type, SECOND_ID: id_type, **score, FOUND_BY: str},
        "report": REPORT,
    }


def _spans_cut(transform: Any, rows: Inputs) -> dict[str, Fields]:
    name = transform.columns.id
    places = {CUT_START: np.int64, CUT_END: np.int64, CUT_TEXT: str}
    cut = {name: rows[name], **places, FIRST_ID: rows[name]}
    return {GOOD: rows.input, "emptied": rows.input, "cut": cut}


def _signed(transform: Any, rows: Inputs) -> dict[str, Fields]:
    name = transform.columns.id
    scope = {} if transform.scope is None else {SIGNATURE_SCOPE: np.int64}
    return {GOOD: {name: rows[name], SIGNATURE: list[int], SHINGLES: np.int64, **scope}}


def _clustered(transform: Any, rows: Inputs) -> dict[str, Fields]:
    columns, id_type = transform.columns, rows[transform.columns.id]
    new = {} if transform.model is None else {columns.embedding: VECTOR}
    kinds = (np.int32, np.float32, id_type, np.float32)
    added = _added(transform, dict(zip(transform.adds(), kinds, strict=True)))
    clustered = {**new, **rows.input, **added}
    scope = {} if transform.scope is None else {transform.scope: rows[transform.scope]}
    table = {**scope, CLUSTER: np.int32, "rows": np.int64, REPRESENTATIVE: id_type}
    distances = dict.fromkeys(("mean_distance", "max_distance"), np.float32)
    outputs = {"rows": clustered, "clusters": {**table, **distances}}
    return outputs if transform.sample is None else {**outputs, "sample": clustered}


def _predicted(transform: Any, rows: Inputs) -> dict[str, Fields]:
    added: Fields = {transform.column: Any if transform.of is None else np.float32}
    if transform.score_column is not None:
        added[transform.score_column] = np.float32
    if transform.probabilities_column is not None:
        added[transform.probabilities_column] = VECTOR
    return {GOOD: {**rows.input, **_added(transform, added)}}


def _decided(transform: Any, rows: Inputs) -> dict[str, Fields]:
    decision = optional({DUPLICATE_OF: rows[transform.columns.id], SCORE: np.float32})
    return {GOOD: {**rows.input, **_added(transform, decision)}}


def _bitext(transform: Any, rows: Inputs) -> dict[str, Fields]:
    duplicates = {
        f"{side}_duplicates": list_type(rows.all[side].get(transform.columns.id, str))
        for side in SIDES
    }
    emit, keep_vectors = transform.output.emit, transform.output.keep_vectors
    best = {} if emit == "pairs" else {"best_forward": bool, "best_backward": bool}
    found_in = {FOUND_IN: str} if transform.mine_unmatched else {}
    sides = _side_fields(transform, rows, keep_vectors)
    return {
        "pairs": {**sides, **duplicates, **PAIR_SCORES, **optional(best), **found_in},
        "report": REPORT,
    }


def _side_fields(transform: Any, rows: Inputs, keep_vectors: bool = False) -> Fields:
    columns, pairs = transform.columns, {}
    for side in SIDES:
        fields = {name: kind for name, kind in rows.all[side].items() if name != columns.embedding}
        if keep_vectors:
            fields[columns.embedding] = VECTOR
        pairs[f"{side}_id"] = fields.pop(columns.id, str)
        named = {
            f"{side}_{TEXT if name == columns.text else name}": kind
            for name, kind in fields.items()
        }
        pairs |= optional(named)
    return pairs


def _scored_bitext(transform: Any, rows: Inputs) -> dict[str, Fields]:
    scores = _added(transform, PAIR_SCORES)
    if "pairs" in rows.all:
        sides = _side_fields(transform, rows)
        return {"pairs": {**rows.pairs, **sides, **scores}, "report": REPORT}
    columns = transform.columns
    used = (columns.id, *(f"{side}_{columns.embedding}" for side in SIDES))
    pairs = {name: kind for name, kind in rows.input.items() if name not in used}
    ids = dict.fromkeys((f"{side}_id" for side in SIDES), rows[columns.id])
    return {"pairs": {**ids, **pairs, **scores}, "report": REPORT}


def _triplets(transform: Any, rows: Inputs) -> dict[str, Fields]:
    texts = optional(dict.fromkeys(("query", "positive", "negative"), str))
    ids = {
        "query_id": rows.positives.get(transform.pairs.query_id, str),
        "positive_id": rows.positives.get(transform.pairs.document_id, str),
        "negative_id": rows.documents.get(transform.columns.id, str),
    }
    scores = {"positive_score": np.float32, "negative_score": np.float32, "rank": np.int64}
    return {GOOD: {**texts, **ids, **scores}}


def _neighbors(transform: Any, rows: Inputs) -> dict[str, Fields]:
    sides = ("query", "queries"), ("document", "documents")
    fields = [rows.all.get(name) or rows.all["input"] for _, name in sides]
    brought = (transform.options.query_columns, transform.options.document_columns)
    ids = {
        f"{side}_id": one.get(transform.columns.id, str)
        for (side, _), one in zip(sides, fields, strict=True)
    }
    columns = {
        f"{side}_{name}": one[name]
        for (side, _), one, names in zip(sides, fields, brought, strict=True)
        for name in names
        if name != transform.columns.id
    }
    return {GOOD: {**ids, SCORE: np.float32, "rank": np.int64, **columns}}


def _filtered(transform: Any, rows: Inputs) -> dict[str, Fields]:
    scores = optional({SCORE: np.float32, "rank": np.int64, MARGIN: np.float32})
    kept = {**rows.pairs, **_added(transform, scores)}
    return {"kept": kept, "removed": {**kept, **_added(transform, {REJECT_REASON: str})}}


def _document_pairs(transform: Any, rows: Inputs) -> dict[str, Fields]:
    names = {f"{side}_document": rows.all[side].get(transform.document, str) for side in SIDES}
    counts = {f"{side}_sentences": np.int64 for side in SIDES}
    return {GOOD: {**names, SCORE: float, COSINE: np.float32, **counts}}


def _decontamination(transform: Any, rows: Inputs) -> dict[str, Fields]:
    columns = transform.columns
    item = {BENCHMARK: str, ITEM_ID: rows.benchmarks.get(columns.id, str), FOUND_BY: str}
    found: Fields = {**item, START: np.int64, END: np.int64, SCORE: np.float32}
    texts: Fields = {PASSAGE: str, ITEM: str}
    return {
        "kept": rows.corpus,
        "removed": {**rows.corpus, **_added(transform, found)},
        "matches": {DOCUMENT_ID: rows.corpus.get(columns.id, str), **found, **texts},
        "report": REPORT,
    }


def _beads(transform: Any, rows: Inputs) -> dict[str, Fields]:
    ids = {
        f"{side}_ids": list_type(rows.all[side].get(transform.columns.id, str)) for side in SIDES
    }
    texts = dict.fromkeys((f"{side}_text" for side in SIDES), str)
    return {GOOD: {transform.document: rows[transform.document], **ids, **texts, "cost": float}}


def _watched(transform: Any, rows: Inputs) -> dict[str, Fields]:
    if transform.columns is None:
        raise InputError(
            "WatchCorpus: columns is missing, and rows of YAML have a schema; name what to read "
            "beside id and text, as in {stars: int64}, or {} for nothing"
        )
    names = [ID] if transform.id_column is None else [SOURCE, transform.id_column]
    columns = {name: arrow_type(kind) for name, kind in transform.columns.items()}
    time = {} if transform.time_column is None else {transform.time_column: Any}
    return {
        GOOD: optional({**dict.fromkeys((*names, transform.text_column), str), **columns, **time})
    }


def _written(transform: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: WRITTEN}


ReadCorpus = in_yaml(
    beam_gpte.ReadCorpus,
    lambda transform, rows: {GOOD: corpus_fields(transform)},
    sides=(),
    reject_fields=lambda transform: unreadable_fields(),
)
ReadVectors = in_yaml(
    beam_gpte.ReadVectors, lambda transform, rows: {GOOD: stored_fields(transform)}, sides=()
)
WatchCorpus = in_yaml(
    beam_gpte.WatchCorpus, _watched, sides=(), reject_fields=lambda transform: unreadable_fields()
)
RejectDuplicateIds = in_yaml(beam_gpte.RejectDuplicateIds, _same)
SplitSentences = in_yaml(beam_gpte.SplitSentences, _chunks)
ChunkText = in_yaml(beam_gpte.ChunkText, _chunks)
EmbedText = in_yaml(beam_gpte.EmbedText, _embedded)
EmbedImages = in_yaml(beam_gpte.EmbedImages, _images)
EmbedSparse = in_yaml(beam_gpte.EmbedSparse, _sparse)
DistillStatic = in_yaml(
    beam_gpte.DistillStatic,
    lambda transform, rows: {GOOD: DISTILLED},
)
QuantizeVectors = in_yaml(beam_gpte.QuantizeVectors, _quantized)
FitPostprocess = in_yaml(
    beam_gpte.FitPostprocess,
    lambda transform, rows: {GOOD: {"method": str, "components": np.int64}},
)
ApplyPostprocess = in_yaml(
    beam_gpte.ApplyPostprocess,
    lambda transform, rows: {GOOD: {**rows.input, transform.embedding_column: VECTOR}},
)
FitHead = in_yaml(
    beam_gpte.FitHead, lambda transform, rows: {GOOD: {"kind": str, "scale": float, "shift": float}}
)
ApplyHead = in_yaml(beam_gpte.ApplyHead, _predicted)
FitVectorMap = in_yaml(
    beam_gpte.FitVectorMap,
    lambda transform, rows: {GOOD: {"report": str}},
    ("source", "target"),
    other_sides=("input",),
)
ApplyVectorMap = in_yaml(
    beam_gpte.ApplyVectorMap,
    lambda transform, rows: {GOOD: {**rows.input, transform.embedding_column: VECTOR}},
)
ClusterVectors = in_yaml(beam_gpte.ClusterVectors, _clustered)
DeduplicateExact = in_yaml(beam_gpte.DeduplicateExact, _deduplication)
DeduplicateLexical = in_yaml(beam_gpte.DeduplicateLexical, _deduplication)
DeduplicateSemantic = in_yaml(beam_gpte.DeduplicateSemantic, _deduplication)
Deduplicate = in_yaml(beam_gpte.Deduplicate, _deduplication)
DeduplicateStream = in_yaml(beam_gpte.DeduplicateStream, _decided)
SignTexts = in_yaml(beam_gpte.SignTexts, _signed)
CutRepeatedSpans = in_yaml(beam_gpte.CutRepeatedSpans, _spans_cut)
IdentifyLanguage = in_yaml(
    beam_gpte.IdentifyLanguage,
    lambda transform, rows: {
        GOOD: {
            **rows.input,
            **_added(transform, optional({"language": str, "language_score": np.float32})),
        }
    },
)
MineBitext = in_yaml(beam_gpte.MineBitext, _bitext, SIDES, optional_sides=("decoys",))
ScoreBitext = in_yaml(beam_gpte.ScoreBitext, _scored_bitext, other_sides=("pairs", *SIDES))
NearestNeighbors = in_yaml(
    beam_gpte.NearestNeighbors, _neighbors, ("queries", "documents"), other_sides=("input",)
)
PairDocuments = in_yaml(beam_gpte.PairDocuments, _document_pairs, SIDES)
AlignDocuments = in_yaml(beam_gpte.AlignDocuments, _beads, SIDES, optional_sides=("documents",))
MineHardNegatives = in_yaml(
    beam_gpte.MineHardNegatives, _triplets, ("queries", "documents", "positives")
)
FilterPairs = in_yaml(beam_gpte.FilterPairs, _filtered, ("queries", "documents", "pairs"))
Decontaminate = in_yaml(
    beam_gpte.Decontaminate,
    _decontamination,
    ("corpus", "benchmarks"),
    optional_sides=("clean",),
)
EmbedTokens = in_yaml(
    beam_gpte.EmbedTokens,
    lambda transform, rows: {
        GOOD: {**rows.input, **_added(transform, {transform.output_column: list_type(VECTOR)})}
    },
)
Rerank, RerankTokens, ScoreTranslations = (
    in_yaml(
        scored,
        lambda transform, rows: {
            GOOD: {**rows.input, **_added(transform, {transform.score_column: np.float32})}
        },
    )
    for scored in (beam_gpte.Rerank, beam_gpte.RerankTokens, beam_gpte.ScoreTranslations)
)
WriteVectorsToParquet = in_yaml(beam_gpte.WriteVectorsToParquet, _written, rejects_in="replacing")
WriteVectorsToDuckDB = in_yaml(beam_gpte.WriteVectorsToDuckDB, _written, rejects_in="replacing")
DeleteVectors = in_yaml(beam_gpte.DeleteVectors, _written)
CompactVectors = in_yaml(beam_gpte.CompactVectors, _written, sides=())
WriteTmx = in_yaml(beam_gpte.WriteTmx, _written)
WriteMoses = in_yaml(beam_gpte.WriteMoses, _written)
WriteRejects = in_yaml(beam_gpte.WriteRejects, _written, prepare=rejects_of)
WriteSummary = in_yaml(beam_gpte.WriteSummary, lambda transform, rows: {GOOD: REPORT}, sides=None)
