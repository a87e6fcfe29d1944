"""A public transform as a step of Beam YAML: `in_yaml` makes of it what a provider can call.

Configuration, documentation, inputs, `error_handling` and the rows themselves follow from the transform.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Optional, cast

import apache_beam as beam
from apache_beam.yaml.yaml_errors import ErrorHandlingConfig

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import REJECTS
from beam_gpte.interop.yaml_config import configure, describe, input_names, is_required, settings_of
from beam_gpte.interop.yaml_rows import (
    REPORT,
    AsErrors,
    AsReports,
    AsRows,
    Fields,
    fields_of,
    given,
    merged,
)

GOOD = "good"  # the only output of most transforms


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
    sides: tuple[str, ...] | None = ("input",),
    rejects: Callable[[Any], Fields] | None = None,
    prepare: Callable[[beam.PCollection], beam.PCollection] = given,
    instead: tuple[str, ...] = (),
) -> Callable[..., beam.PTransform]:
    """A transform as Beam YAML makes it out of a configuration.

    Args:
      transform: a dataclass; its attributes are the configuration, those that are collections named inputs.
      outputs: given the transform and the fields of its inputs, the fields of each output; `GOOD` if there is one only.
      sides: the inputs; none for a source, several for what takes a dict, None where the user names them.
      rejects: fields of its rejects that its inputs do not have.
      prepare: what becomes of its rows before it.
      instead: other inputs that it takes as well, in place of `sides`.
    """
    step, settings, can_fail = (
        transform.__name__,
        settings_of(transform),
        hasattr(transform, "with_exception_handling"),
    )

    def make(**config: Any) -> beam.PTransform:
        error_output = _error_output(step, config.pop("error_handling", None)) if can_fail else None
        arguments = configure(step, settings, config)
        return _InYaml(
            transform, arguments, outputs, sides, rejects, prepare, instead, error_output
        )

    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.annotation
        )
        for name, one in settings.items()
    ]
    more = _inputs_text(instead or sides or (), input_names(transform))
    document = describe(transform, settings, more)
    if can_fail:
        kind = Optional[ErrorHandlingConfig]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any
        parameters.append(
            inspect.Parameter(
                "error_handling", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
            )
        )
        document += (
            "\n  error_handling: where bad rows go, which fail the job otherwise: {output: NAME}"
        )
    made = cast(Any, make)
    made.__name__ = made.__qualname__ = step
    made.__doc__ = document
    made.__signature__ = inspect.Signature(parameters)
    made._yaml_requires_inputs = sides != ()
    made.transform = transform
    return make


def _error_output(step: str, config: Any) -> str | None:
    if config is None:
        return None
    if (
        not isinstance(config, dict)
        or set(config) != {"output"}
        or not isinstance(config["output"], str)
    ):
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
    sides: tuple[str, ...] | None
    rejects: Callable[[Any], Fields] | None
    prepare: Callable[[beam.PCollection], beam.PCollection]
    instead: tuple[str, ...]
    error_output: str | None

    def expand(self, pvalue: Any) -> Any:
        step = self.transform.__name__
        inputs = self._inputs(pvalue)
        others = {
            name: given(inputs[name]) for name in input_names(self.transform) if name in inputs
        }
        for field in dataclasses.fields(self.transform):
            if is_required(field) and field.name not in (*self.arguments, *others):
                raise InputError(
                    f"{step}: {field.name} is missing; give it as an input, or in the configuration"
                )
        own: Any = self.transform(**self.arguments, **others)
        rows = Inputs({name: fields_of(pcoll, step) for name, pcoll in inputs.items()})
        schemas = self.outputs(own, rows)
        if self.error_output is not None:
            own = own.with_exception_handling()
        sides = {name: self.prepare(inputs[name]) for name in self._taken(inputs)}
        many = len(sides) > 1 or self.sides is None
        result = _named((sides if many else next(iter(sides.values()), pvalue)) | own)
        # of rows, ids are compared as text: blocks beside them, as of pairs, have strings where the fields say integers
        linked = len(sides) != 1 or next(iter(sides.values())).element_type is Block
        made = {
            name: result[name] | f"Rows_{name}" >> self._rows(fields, linked)
            for name, fields in schemas.items()
        }
        if self.error_output is None:
            return made[GOOD] if list(made) == [GOOD] else made
        made[self.error_output] = result[REJECTS] | "Errors" >> AsErrors(
            self._reject_fields(own, rows, schemas)
        )
        return made

    def _rows(self, fields: Fields, linked: bool) -> beam.PTransform:
        return AsReports() if fields is REPORT else AsRows(fields, self.sides == (), linked)

    def _taken(self, inputs: dict[str, beam.PCollection]) -> tuple[str, ...]:
        if self.sides is None:
            return tuple(name for name in inputs if name not in input_names(self.transform))
        return self.instead if any(name in inputs for name in self.instead) else self.sides

    def _inputs(self, pvalue: Any) -> dict[str, beam.PCollection]:
        step, optional_names = self.transform.__name__, input_names(self.transform)
        if isinstance(pvalue, beam.PCollection):
            inputs = {"input": pvalue}
        else:
            inputs = dict(pvalue) if isinstance(pvalue, dict) else {}
        sides = self._taken(inputs)
        if len(sides) == 1 and self.sides is not None:
            main = [name for name in inputs if name not in optional_names]
            if len(main) == 1:
                inputs = {"input": inputs.pop(main[0]), **inputs}
        wrong = [name for name in inputs if name not in (*sides, *optional_names)]
        missing = [name for name in sides if name not in inputs]
        if wrong or missing:
            names = ", ".join((*sides, *optional_names)) or "none"
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
