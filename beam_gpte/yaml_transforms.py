"""The public transforms for Beam YAML, under their own names: what `transforms/providers.yaml` points at.

Each takes rows with a schema and gives rows with a schema. An entry says what fields its outputs have; configuration,
documentation, inputs, `error_handling` and the rows themselves follow from the transform. A new transform needs

    MyTransform = in_yaml(beam_gpte.MyTransform, lambda own, rows: {"good": {**rows.input, "score": np.float32}})

a line in `transforms/providers.yaml` and an example; `tests/test_yaml.py` names what is missing.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Optional, cast

import apache_beam as beam
import numpy as np
from apache_beam.yaml.yaml_errors import ErrorHandlingConfig

import beam_gpte
from beam_gpte.block import Block
from beam_gpte.core.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.rejects import REJECTS
from beam_gpte.schemas import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    DUPLICATE_OF,
    FIRST_ID,
    FOUND_BY,
    PARENT_ID,
    SCORE,
    SECOND_ID,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.yaml_config import configure, describe, input_names, is_required, settings_of
from beam_gpte.yaml_rows import (
    REPORT,
    VECTOR,
    AsErrors,
    AsReports,
    AsRows,
    Fields,
    corpus_fields,
    fields_of,
    given,
    merged,
    optional,
    rejects_of,
    unreadable_fields,
)

GOOD = "good"  # the only output of most transforms
WRITTEN = {"path": str, "rows": np.int64}


class Inputs:
    """The fields of a step's rows, by input: `rows.input`, `rows.source`; `rows["id"]` is the type of one of the first."""

    def __init__(self, fields: dict[str, Fields]) -> None:
        self.all = fields

    def __getattr__(self, name: str) -> Fields:
        return self.all[name]

    def __getitem__(self, name: str) -> Any:
        return next(iter(self.all.values())).get(name, str)


Outputs = Callable[[Any, Inputs], dict[str, Fields]]


def in_yaml(
    transform: type,
    outputs: Outputs,
    sides: tuple[str, ...] = ("input",),
    rejects: Callable[[Any], Fields] | None = None,
    prepare: Callable[[beam.PCollection], beam.PCollection] = given,
) -> Callable[..., beam.PTransform]:
    """A transform as Beam YAML makes it out of a configuration.

    Args:
      transform: a dataclass; its attributes are the configuration, those that are collections named inputs.
      outputs: given the transform and the fields of its inputs, the fields of each output; `GOOD` if there is one only.
      sides: the inputs; none for a source, two for what takes a dict of two.
      rejects: fields of its rejects that its inputs do not have.
      prepare: what becomes of its rows before it.
    """
    step, settings, can_fail = transform.__name__, settings_of(transform), hasattr(transform, "with_exception_handling")

    def make(**config: Any) -> beam.PTransform:
        error_output = _error_output(step, config.pop("error_handling", None)) if can_fail else None
        arguments = configure(step, settings, config)
        return _InYaml(transform, arguments, outputs, sides, rejects, prepare, error_output)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.annotation)
        for name, one in settings.items()
    ]
    more = _inputs_text(sides, input_names(transform))
    document = describe(transform, settings, more)
    if can_fail:
        kind = Optional[ErrorHandlingConfig]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any
        parameters.append(inspect.Parameter("error_handling", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
        document += "\n  error_handling: where bad rows go, which fail the job otherwise: {output: NAME}"
    made = cast(Any, make)
    made.__name__ = made.__qualname__ = step
    made.__doc__ = document
    made.__signature__ = inspect.Signature(parameters)
    made._yaml_requires_inputs = bool(sides)
    made.transform = transform
    return make


def _error_output(step: str, config: Any) -> str | None:
    if config is None:
        return None
    if not isinstance(config, dict) or set(config) != {"output"} or not isinstance(config["output"], str):
        raise InputError(f"{step}: error_handling is {config!r}; use {{output: NAME}}")
    return config["output"]


def _inputs_text(sides: tuple[str, ...], others: tuple[str, ...]) -> str:
    named = [*(sides if len(sides) > 1 else ()), *others]
    return f"Named inputs: {', '.join(f'`{name}`' for name in named)}." if named else ""


@dataclasses.dataclass(eq=False)
class _InYaml(beam.PTransform):
    transform: type
    arguments: dict[str, Any]
    outputs: Outputs
    sides: tuple[str, ...]
    rejects: Callable[[Any], Fields] | None
    prepare: Callable[[beam.PCollection], beam.PCollection]
    error_output: str | None

    def expand(self, pvalue: Any) -> Any:
        step = self.transform.__name__
        inputs = self._inputs(pvalue)
        others = {name: given(inputs[name]) for name in input_names(self.transform) if name in inputs}
        for field in dataclasses.fields(self.transform):
            if is_required(field) and field.name not in (*self.arguments, *others):
                raise InputError(f"{step}: {field.name} is missing; give it as an input, or in the configuration")
        own: Any = self.transform(**self.arguments, **others)
        rows = Inputs({name: fields_of(pcoll, step) for name, pcoll in inputs.items()})
        schemas = self.outputs(own, rows)
        if self.error_output is not None:
            own = own.with_exception_handling()
        sides = {name: self.prepare(inputs[name]) for name in self.sides}
        result = _named((sides if len(sides) > 1 else next(iter(sides.values()), pvalue)) | own)
        # of rows, ids are compared as text: blocks beside them, as of pairs, have strings where the fields say integers
        linked = len(self.sides) != 1 or sides["input"].element_type is Block
        made = {name: result[name] | f"Rows_{name}" >> self._rows(fields, linked) for name, fields in schemas.items()}
        if self.error_output is None:
            return made[GOOD] if list(made) == [GOOD] else made
        made[self.error_output] = result[REJECTS] | "Errors" >> AsErrors(self._reject_fields(own, rows, schemas))
        return made

    def _rows(self, fields: Fields, linked: bool) -> beam.PTransform:
        return AsReports() if fields is REPORT else AsRows(fields, not self.sides, linked)

    def _inputs(self, pvalue: Any) -> dict[str, beam.PCollection]:
        step, optional_names = self.transform.__name__, input_names(self.transform)
        if isinstance(pvalue, beam.PCollection):
            inputs = {"input": pvalue}
        else:
            inputs = dict(pvalue) if isinstance(pvalue, dict) else {}
        if len(self.sides) == 1:
            main = [name for name in inputs if name not in optional_names]
            if len(main) == 1:
                inputs = {"input": inputs.pop(main[0]), **inputs}
        wrong = [name for name in inputs if name not in (*self.sides, *optional_names)]
        missing = [name for name in self.sides if name not in inputs]
        if wrong or missing:
            names = ", ".join((*self.sides, *optional_names)) or "none"
            raise InputError(f"{step}: inputs {', '.join(inputs) or 'none'}; it takes {names}")
        return inputs

    def _reject_fields(self, own: Any, rows: Inputs, schemas: dict[str, Fields]) -> Fields:
        parts = list(rows.all.values()) or [schemas[GOOD]]
        text = getattr(own, "text_column", None)  # made safe: any value, as a string
        own_text: Fields = {str(text): Optional[str]} if any(text in part for part in parts) else {}  # noqa: UP045
        more = self.rejects(own) if self.rejects is not None else {}
        return {**merged([*parts, more]), **own_text}


def _named(result: Any) -> dict[str, Any]:
    if hasattr(result, "_asdict"):
        return result._asdict()
    good, rejects = result if isinstance(result, tuple) else (result, None)
    return {GOOD: good, REJECTS: rejects}


def _same(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: rows.input}


def _embedded(own: Any, rows: Inputs) -> dict[str, Fields]:
    added: Fields = {own.embedding_column: VECTOR}
    if isinstance(own.model, EncoderConfig) and own.model.long_text in ("chunks", "late_chunks"):
        ids = {own.id_column: str, PARENT_ID: rows[own.id_column]} if own.id_column in rows.input else {}
        added = {**ids, CHUNK_INDEX: np.int64, CHUNK_START: np.int64, CHUNK_END: np.int64, **added}
    if own.token_columns:
        added |= {TOKENS: np.int64, TOKENS_DROPPED: np.int64}
    return {GOOD: {**rows.input, **added}}


def _quantized(own: Any, rows: Inputs) -> dict[str, Fields]:
    codes = VECTOR if own.to == "float16" else list[int]
    return {GOOD: {**rows.input, own.embedding_column: codes}}


def _deduplication(own: Any, rows: Inputs) -> dict[str, Fields]:
    steps: tuple[Any, ...] = own.steps if isinstance(own, beam_gpte.Deduplicate) else (own,)
    id_type, score = rows[steps[0].id_column], optional({SCORE: np.float32})
    new: Fields = {step.embedding_column: VECTOR for step in steps if getattr(step, "model", None) is not None}
    return {
        "kept": {**new, **rows.input},
        "removed": {**optional(new), **rows.input, DUPLICATE_OF: id_type, **score, FOUND_BY: str},
        "pairs": {FIRST_ID: id_type, SECOND_ID: id_type, **score, FOUND_BY: str},
        "report": REPORT,
    }


def _judged(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: {**rows.input, **optional({DUPLICATE_OF: rows[own.id_column], SCORE: np.float32})}}


def _bitext(own: Any, rows: Inputs) -> dict[str, Fields]:
    pairs: Fields = {}
    for side in ("source", "target"):
        vectors: Fields = {own.embedding_column: VECTOR} if own.keep_vectors else {}
        fields = {name: kind for name, kind in rows.all[side].items() if name != own.embedding_column} | vectors
        id_type = fields.pop(own.id_column, str)
        named = {f"{side}_{'text' if name == own.text_column else name}": kind for name, kind in fields.items()}
        pairs |= {f"{side}_id": id_type, **optional(named), f"{side}_copies": list[id_type]}  # type: ignore[valid-type]
    scores = dict.fromkeys(("cosine", "forward_mean", "backward_mean", "margin"), np.float32)
    told = {"posterior": float, "length_ratio": float, "same_numbers": bool, "char_overlap": np.float32}
    ranks = {"forward_rank": np.int64, "backward_rank": np.int64}
    best = {} if own.emit == "pairs" else {"best_forward": bool, "best_backward": bool}
    return {"pairs": {**pairs, **optional({**scores, **ranks, **told, **best})}, "report": REPORT}


def _beads(own: Any, rows: Inputs) -> dict[str, Fields]:
    ids = {f"{side}_ids": list[rows.all[side].get(own.id_column, str)] for side in ("source", "target")}  # type: ignore[misc]
    return {GOOD: {own.document: rows[own.document], **ids, "source_text": str, "target_text": str, "cost": float}}


def _written(own: Any, rows: Inputs) -> dict[str, Fields]:
    return {GOOD: WRITTEN}


TWO_SIDES = ("source", "target")

ReadCorpus = in_yaml(
    beam_gpte.ReadCorpus, lambda own, rows: {GOOD: corpus_fields(own)}, sides=(), rejects=lambda own: unreadable_fields()
)
RejectDuplicateIds = in_yaml(beam_gpte.RejectDuplicateIds, _same)
EmbedText = in_yaml(beam_gpte.EmbedText, _embedded)
QuantizeVectors = in_yaml(beam_gpte.QuantizeVectors, _quantized)
FitPostprocess = in_yaml(beam_gpte.FitPostprocess, lambda own, rows: {GOOD: {"method": str, "components": np.int64}})
ApplyPostprocess = in_yaml(
    beam_gpte.ApplyPostprocess, lambda own, rows: {GOOD: {**rows.input, own.embedding_column: VECTOR}}
)
DeduplicateExact = in_yaml(beam_gpte.DeduplicateExact, _deduplication)
DeduplicateLexical = in_yaml(beam_gpte.DeduplicateLexical, _deduplication)
DeduplicateSemantic = in_yaml(beam_gpte.DeduplicateSemantic, _deduplication)
Deduplicate = in_yaml(beam_gpte.Deduplicate, _deduplication)
DeduplicateStream = in_yaml(beam_gpte.DeduplicateStream, _judged)
IdentifyLanguage = in_yaml(
    beam_gpte.IdentifyLanguage,
    lambda own, rows: {GOOD: {**rows.input, **optional({"language": str, "language_score": np.float32})}},
)
MineBitext = in_yaml(beam_gpte.MineBitext, _bitext, TWO_SIDES)
AlignDocuments = in_yaml(beam_gpte.AlignDocuments, _beads, TWO_SIDES)
WriteVectorsToParquet = in_yaml(beam_gpte.WriteVectorsToParquet, _written)
WriteVectorsToDuckDB = in_yaml(beam_gpte.WriteVectorsToDuckDB, _written)
WriteRejects = in_yaml(beam_gpte.WriteRejects, _written, prepare=rejects_of)
