"""Make a public transform a step of Beam YAML, which a provider can call.

    configuration --> in_yaml(transform) --> _YamlStep: inputs --> transform --> Rows per output

Configuration, documentation, inputs, `error_handling` and the conversion of rows follow from the
transform.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Optional, cast

import apache_beam as beam
from apache_beam.yaml.yaml_errors import ErrorHandlingConfig

from beam_gpte.core.columns import Columns
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
    merged,
    optional,
    original,
    rejects_of,
)

GOOD = "good"  # the only output of most transforms
ERROR_HANDLING = "error_handling"


class Inputs:
    """Hold the fields of a step's rows by input.

    `rows.source` is the fields of one input, `rows["id"]` the type of a field of the first.
    """

    def __init__(self, fields: dict[str, Fields]) -> None:
        self.all = fields

    def __getattr__(self, name: str) -> Fields:
        return self.all[name]

    def __getitem__(self, name: str) -> Any:
        return next(iter(self.all.values())).get(name, str)


Outputs = Callable[[Any, Inputs], dict[str, Fields]]


@dataclasses.dataclass(frozen=True)
class _Step:
    """Describe a step to `_YamlStep`; the attributes are the arguments of `in_yaml`."""

    transform: type
    outputs: Outputs
    sides: tuple[str, ...] | None
    optional_sides: tuple[str, ...]
    other_sides: tuple[str, ...]
    prepare: Callable[[beam.PCollection], beam.PCollection]
    reject_fields: Callable[[Any], Fields]
    rejects_in: str | None

    @property
    def name(self) -> str:
        return self.transform.__name__

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that are attributes of the transform, or of one of its settings objects."""
        inside = (REJECTS,) if self.rejects_in else ()
        return (*input_names(self.transform), *inside)

    def sides_of(self, inputs: dict[str, beam.PCollection]) -> tuple[str, ...]:
        """List the inputs that the transform is applied to, given those of the user."""
        if self.sides is None:
            return tuple(name for name in inputs if name not in self.input_names)
        if any(name in inputs for name in self.other_sides):
            return self.other_sides
        return (*self.sides, *(name for name in self.optional_sides if name in inputs))


def in_yaml(
    transform: type,
    outputs: Outputs,
    sides: tuple[str, ...] | None = ("input",),
    optional_sides: tuple[str, ...] = (),
    other_sides: tuple[str, ...] = (),
    prepare: Callable[[beam.PCollection], beam.PCollection] = original,
    reject_fields: Callable[[Any], Fields] = lambda transform: {},
    rejects_in: str | None = None,
) -> Callable[..., beam.PTransform]:
    """Make a factory of YAML steps from a transform.

    Args:
      transform: a dataclass; its attributes are the configuration, except for collections, which
        are named inputs.
      outputs: given a configured transform and the fields of its inputs, returns the fields of each
        output; `GOOD` if there is only one.
      sides: the inputs that the transform is applied to; none for a source, several for what takes
        a dict, None where the user names them.
      optional_sides: further ones that may be missing.
      other_sides: other inputs that it also takes, in place of `sides`.
      prepare: applied to each side before the transform.
      reject_fields: given a configured transform, returns the fields of its rejects that its inputs
        do not have.
      rejects_in: an attribute, a settings object whose `rejects` is a named input.
    """
    step = _Step(
        transform,
        outputs,
        sides,
        optional_sides,
        other_sides,
        prepare,
        reject_fields,
        rejects_in,
    )
    settings = settings_of(transform)
    can_reject = hasattr(transform, "with_exception_handling")

    def make(**config: Any) -> beam.PTransform:
        handling = config.pop(ERROR_HANDLING, None) if can_reject else None
        error_output = _error_output(step.name, handling)
        return _YamlStep(step, configure(step.name, settings, config), error_output)

    parameters = [_parameter(name, one.default, one.annotation) for name, one in settings.items()]
    document = describe(transform, settings, _inputs_text(step))
    if can_reject:
        kind = Optional[ErrorHandlingConfig]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any
        parameters.append(_parameter(ERROR_HANDLING, None, kind))
        goes = "where bad rows go, which otherwise fail the job: {output: NAME}"
        document += f"\n  {ERROR_HANDLING}: {goes}"
    made = cast(Any, make)
    made.__name__ = made.__qualname__ = step.name
    made.__doc__ = document
    made.__signature__ = inspect.Signature(parameters)
    made._yaml_requires_inputs = sides != ()
    made.transform = transform
    return make


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _error_output(step: str, config: Any) -> str | None:
    if config is None:
        return None
    named = isinstance(config, dict) and set(config) == {"output"}
    if not named or not isinstance(config["output"], str):
        raise InputError(f"{step}: {ERROR_HANDLING} is {config!r}; use {{output: NAME}}")
    return config["output"]


def _inputs_text(step: _Step) -> str:
    sides = (*(step.other_sides or step.sides or ()), *step.optional_sides)
    names = [*(sides if len(sides) > 1 else ()), *step.input_names]
    return f"Named inputs: {', '.join(f'`{name}`' for name in names)}." if names else ""


@dataclasses.dataclass(eq=False)
class _YamlStep(beam.PTransform):
    """Apply a configured transform to the inputs of a YAML step, and give Rows with a schema.

    Attributes:
      step: what to apply.
      arguments: of the transform.
      error_output: the name of the output for rejects; None to fail at the first.
    """

    step: _Step
    arguments: dict[str, Any]
    error_output: str | None

    def expand(self, pvalue: Any) -> Any:
        inputs = self._inputs(pvalue)
        transform = self._transform(inputs)
        rows = Inputs({name: fields_of(one, self.step.name) for name, one in inputs.items()})
        schemas = self.step.outputs(transform, rows)
        if self.error_output is not None:
            transform = transform.with_exception_handling()
        sides = {name: self.step.prepare(inputs[name]) for name in self.step.sides_of(inputs)}
        named = len(sides) > 1 or self.step.sides is None
        result = _by_name((sides if named else next(iter(sides.values()), pvalue)) | transform)
        # Ids of rows are compared as strings: blocks of other results, such as pairs, then hold
        # strings where the fields say integers. What is made of rows and is blocks itself has the
        # fields' types.
        linked = len(sides) != 1 or next(iter(sides.values())).element_type is Block
        outputs = {
            name: result[name]
            | f"Rows_{name}" >> self._as_rows(fields, linked or result[name].element_type is Block)
            for name, fields in schemas.items()
        }
        if self.error_output is None:
            return outputs[GOOD] if list(outputs) == [GOOD] else outputs
        outputs[self.error_output] = result[REJECTS] | "Errors" >> AsErrors(
            self._reject_fields(transform, rows, schemas)
        )
        return outputs

    def _inputs(self, pvalue: Any) -> dict[str, beam.PCollection]:
        """Name the inputs, and check the names."""
        step = self.step
        if isinstance(pvalue, beam.PCollection):
            inputs = {"input": pvalue}
        else:
            inputs = dict(pvalue) if isinstance(pvalue, dict) else {}
        sides = step.sides_of(inputs)
        if len(sides) == 1 and step.sides is not None:
            main = [name for name in inputs if name not in step.input_names]
            if len(main) == 1:  # whatever its name
                inputs = {"input": inputs.pop(main[0]), **inputs}
        wrong = [name for name in inputs if name not in (*sides, *step.input_names)]
        missing = [name for name in sides if name not in inputs]
        if wrong or missing:
            known = dict.fromkeys((*sides, *step.optional_sides, *step.input_names))
            raise InputError(
                f"{step.name}: inputs {', '.join(inputs) or 'none'}; "
                f"it takes {', '.join(known) or 'none'}"
            )
        return inputs

    def _transform(self, inputs: dict[str, beam.PCollection]) -> Any:
        """Make the transform from its configuration and the inputs that are its attributes."""
        collections = {
            name: original(inputs[name])
            for name in input_names(self.step.transform)
            if name in inputs
        }
        for field in dataclasses.fields(self.step.transform):
            if is_required(field) and field.name not in (*self.arguments, *collections):
                raise InputError(
                    f"{self.step.name}: {field.name} is missing; "
                    "give it as an input, or in the configuration"
                )
        transform = self.step.transform(**self.arguments, **collections)
        name = self.step.rejects_in
        if name is None or REJECTS not in inputs:
            return transform
        rejects = rejects_of(inputs[REJECTS])
        options = dataclasses.replace(getattr(transform, name), rejects=rejects)
        return dataclasses.replace(transform, **{name: options})

    def _as_rows(self, fields: Fields, linked: bool) -> beam.PTransform:
        return AsReports() if fields is REPORT else AsRows(fields, self.step.sides == (), linked)

    def _reject_fields(self, transform: Any, rows: Inputs, schemas: dict[str, Fields]) -> Fields:
        parts = list(rows.all.values()) or [schemas[GOOD]]
        text = _text_column(transform)  # its values may be anything, and become strings
        texts = optional({text: str}) if any(text in part for part in parts) else {}
        return {**merged([*parts, self.step.reject_fields(transform)]), **texts}


def _text_column(transform: Any) -> str:
    columns = getattr(transform, "columns", None)
    return columns.text if isinstance(columns, Columns) else getattr(transform, "text_column", "")


def _by_name(result: Any) -> dict[str, Any]:
    if hasattr(result, "_asdict"):
        return result._asdict()
    good, rejects = result if isinstance(result, tuple) else (result, None)
    return {GOOD: good, REJECTS: rejects}
