"""The public transforms for Beam YAML, under their own names: what `transforms/providers.yaml` points at.

Each takes rows with a schema and gives rows with a schema. An entry says what fields its outputs have; configuration,
documentation, inputs, `error_handling` and the rows themselves follow from the transform. A new transform needs

    MyTransform = in_yaml(beam_gpte.MyTransform, lambda own, rows: {"good": {**rows.input, "score": np.float32}})

a line in `transforms/providers.yaml` and an example; `tests/interop/test_yaml.py` names what is missing.
"""

from typing import Any

import numpy as np

import beam_gpte
from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    DUPLICATE_OF,
    FIRST_ID,
    FOUND_BY,
    ID,
    PARENT_ID,
    REJECT_REASON,
    SCORE,
    SECOND_ID,
    SOURCE,
    TEXT,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.interop.yaml_rows import (
    REPORT,
    VECTOR,
    Fields,
    arrow_type,
    corpus_fields,
    optional,
    rejects_of,
    stored_fields,
    unreadable_fields,
)
from beam_gpte.interop.yaml_step import GOOD, Inputs, in_yaml
from beam_gpte.mining.filter_pairs import MARGIN

WRITTEN = {"path": str, "rows": np.int64}
TWO_SIDES = ("source", "target")
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


def _same(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: rows.input}


def _embedded(own: Any, rows: Inputs) -> dict[str, Fields]:
    added: Fields = {own.embedding_column: VECTOR}
    if isinstance(own.model, EncoderConfig) and own.model.long_text in ("chunks", "late_chunks"):
        added = _chunk_fields(own, rows) | added
    if own.token_columns:
        added |= {TOKENS: np.int64, TOKENS_DROPPED: np.int64}
    return {GOOD: {**rows.input, **added}}


def _chunk_fields(own: Any, rows: Inputs) -> Fields:
    ids = (
        {own.id_column: str, PARENT_ID: rows[own.id_column]} if own.id_column in rows.input else {}
    )
    return {**ids, CHUNK_INDEX: np.int64, CHUNK_START: np.int64, CHUNK_END: np.int64}


def _chunks(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: {**rows.input, own.text_column: str, **_chunk_fields(own, rows)}}


def _quantized(own: Any, rows: Inputs) -> dict[str, Fields]:
    codes = VECTOR if own.to == "float16" else list[int]
    return {GOOD: {**rows.input, own.embedding_column: codes}}


def _deduplication(own: Any, rows: Inputs) -> dict[str, Fields]:
    steps: tuple[Any, ...] = own.steps if isinstance(own, beam_gpte.Deduplicate) else (own,)
    id_type, score = rows[steps[0].id_column], optional({SCORE: np.float32})
    new: Fields = {
        step.embedding_column: VECTOR for step in steps if getattr(step, "model", None) is not None
    }
    return {
        "kept": {**new, **rows.input},
        "removed": {**optional(new), **rows.input, DUPLICATE_OF: id_type, **score, FOUND_BY: str},
        "pairs": {FIRST_ID: id_type, SECOND_ID: id_type, **score, FOUND_BY: str},
        "report": REPORT,
    }


def _decided(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {
        GOOD: {**rows.input, **optional({DUPLICATE_OF: rows[own.id_column], SCORE: np.float32})}
    }


def _bitext(own: Any, rows: Inputs) -> dict[str, Fields]:
    copies: Fields = {
        f"{side}_copies": list[rows.all[side].get(own.id_column, str)] for side in TWO_SIDES
    }  # type: ignore[misc]
    best = {} if own.emit == "pairs" else {"best_forward": bool, "best_backward": bool}
    return {
        "pairs": {**_of_sides(own, rows), **copies, **PAIR_SCORES, **optional(best)},
        "report": REPORT,
    }


def _of_sides(own: Any, rows: Inputs) -> Fields:
    pairs: Fields = {}
    for side in TWO_SIDES:
        fields = {
            name: kind for name, kind in rows.all[side].items() if name != own.embedding_column
        }
        if getattr(own, "keep_vectors", False):
            fields[own.embedding_column] = VECTOR
        pairs[f"{side}_id"] = fields.pop(own.id_column, str)
        named = {
            f"{side}_{TEXT if name == own.text_column else name}": kind
            for name, kind in fields.items()
        }
        pairs |= optional(named)
    return pairs


def _scored_bitext(own: Any, rows: Inputs) -> dict[str, Fields]:
    if "pairs" in rows.all:
        return {"pairs": {**rows.pairs, **_of_sides(own, rows), **PAIR_SCORES}, "report": REPORT}
    inside = (own.id_column, *(f"{side}_{own.embedding_column}" for side in TWO_SIDES))
    pairs = {name: kind for name, kind in rows.input.items() if name not in inside}
    ids = dict.fromkeys((f"{side}_id" for side in TWO_SIDES), rows[own.id_column])
    return {"pairs": {**ids, **pairs, **PAIR_SCORES}, "report": REPORT}


def _triplets(own: Any, rows: Inputs) -> dict[str, Fields]:
    texts = optional(dict.fromkeys(("query", "positive", "negative"), str))
    pair = {
        "query_id": rows.positives.get(own.query_id, str),
        "positive_id": rows.positives.get(own.document_id, str),
    }
    scores = {"positive_score": np.float32, "negative_score": np.float32, "rank": np.int64}
    return {
        GOOD: {**texts, **pair, "negative_id": rows.documents.get(own.id_column, str), **scores}
    }


def _filtered(own: Any, rows: Inputs) -> dict[str, Fields]:
    kept = {**rows.pairs, **optional({SCORE: np.float32, "rank": np.int64, MARGIN: np.float32})}
    return {"kept": kept, "removed": {**kept, REJECT_REASON: str}}


def _beads(own: Any, rows: Inputs) -> dict[str, Fields]:
    ids = {
        f"{side}_ids": list[rows.all[side].get(own.id_column, str)] for side in ("source", "target")
    }  # type: ignore[misc]
    return {
        GOOD: {
            own.document: rows[own.document],
            **ids,
            "source_text": str,
            "target_text": str,
            "cost": float,
        }
    }


def _watched(own: Any, rows: Inputs) -> dict[str, Fields]:
    if own.columns is None:
        raise InputError(
            "WatchCorpus: columns is missing, and rows of YAML have a schema; name what to read beside id and text, as in "
            "{stars: int64}, or {} for nothing"
        )
    names = [ID] if own.id_column is None else [SOURCE, own.id_column]
    columns = {name: arrow_type(kind) for name, kind in own.columns.items()}
    time = {} if own.time_column is None else {own.time_column: Any}
    return {GOOD: optional({**dict.fromkeys((*names, own.text_column), str), **columns, **time})}


def _written(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: WRITTEN}


ReadCorpus = in_yaml(
    beam_gpte.ReadCorpus,
    lambda own, rows: {GOOD: corpus_fields(own)},
    sides=(),
    rejects=lambda own: unreadable_fields(),
)
ReadVectors = in_yaml(beam_gpte.ReadVectors, lambda own, rows: {GOOD: stored_fields(own)}, sides=())
WatchCorpus = in_yaml(
    beam_gpte.WatchCorpus, _watched, sides=(), rejects=lambda own: unreadable_fields()
)
RejectDuplicateIds = in_yaml(beam_gpte.RejectDuplicateIds, _same)
SplitSentences = in_yaml(beam_gpte.SplitSentences, _chunks)
ChunkText = in_yaml(beam_gpte.ChunkText, _chunks)
EmbedText = in_yaml(beam_gpte.EmbedText, _embedded)
QuantizeVectors = in_yaml(beam_gpte.QuantizeVectors, _quantized)
FitPostprocess = in_yaml(
    beam_gpte.FitPostprocess, lambda own, rows: {GOOD: {"method": str, "components": np.int64}}
)
ApplyPostprocess = in_yaml(
    beam_gpte.ApplyPostprocess,
    lambda own, rows: {GOOD: {**rows.input, own.embedding_column: VECTOR}},
)
DeduplicateExact = in_yaml(beam_gpte.DeduplicateExact, _deduplication)
DeduplicateLexical = in_yaml(beam_gpte.DeduplicateLexical, _deduplication)
DeduplicateSemantic = in_yaml(beam_gpte.DeduplicateSemantic, _deduplication)
Deduplicate = in_yaml(beam_gpte.Deduplicate, _deduplication)
DeduplicateStream = in_yaml(beam_gpte.DeduplicateStream, _decided)
IdentifyLanguage = in_yaml(
    beam_gpte.IdentifyLanguage,
    lambda own, rows: {
        GOOD: {**rows.input, **optional({"language": str, "language_score": np.float32})}
    },
)
MineBitext = in_yaml(beam_gpte.MineBitext, _bitext, TWO_SIDES)
ScoreBitext = in_yaml(beam_gpte.ScoreBitext, _scored_bitext, instead=("pairs", *TWO_SIDES))
AlignDocuments = in_yaml(beam_gpte.AlignDocuments, _beads, TWO_SIDES)
MineHardNegatives = in_yaml(
    beam_gpte.MineHardNegatives, _triplets, ("queries", "documents", "positives")
)
FilterPairs = in_yaml(beam_gpte.FilterPairs, _filtered, ("queries", "documents", "pairs"))
Rerank = in_yaml(
    beam_gpte.Rerank, lambda own, rows: {GOOD: {**rows.input, own.score_column: np.float32}}
)
WriteVectorsToParquet = in_yaml(beam_gpte.WriteVectorsToParquet, _written)
WriteVectorsToDuckDB = in_yaml(beam_gpte.WriteVectorsToDuckDB, _written)
WriteRejects = in_yaml(beam_gpte.WriteRejects, _written, prepare=rejects_of)
WriteSummary = in_yaml(beam_gpte.WriteSummary, lambda own, rows: {GOOD: REPORT}, sides=None)
