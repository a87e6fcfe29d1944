"""The configuration of a YAML step: the attributes of a transform, typed, documented and checked.

An attribute that is a PCollection is no configuration but a named input. A model is a name, or a mapping of what
`EncoderConfig` takes; a tuple is a list; an Arrow type is its name.
"""

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import apache_beam as beam
import docstring_parser
import pyarrow as pa

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.deduplicate import DeduplicationStep
from beam_gpte.dedup.exact import DeduplicateExact
from beam_gpte.dedup.lexical import DeduplicateLexical
from beam_gpte.dedup.semantic import DeduplicateSemantic
from beam_gpte.sources.watch_corpus import typed_columns

_STEPS: dict[Any, Any] = {
    step.__name__: step for step in (DeduplicateExact, DeduplicateLexical, DeduplicateSemantic)
}
# What several transforms have and some do not describe.
_COMMON = {
    "id_column": "the field of the ids",
    "text_column": "the field of the texts",
    "embedding_column": "the field of the vectors",
    "path": "the folder, local or on any Beam file system",
    "model": "a hub name, a folder, a URI, or a mapping of what EncoderConfig takes: {model: ..., prompt_name: query}",
    "steps": "mappings of a type (DeduplicateExact, DeduplicateLexical or DeduplicateSemantic) and what it takes",
}
_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    types.NoneType: "null",
}
_MODELS = ("model", "query_model")
_OWN = ("model", "steps")  # of another form in YAML than the transform's docstring says


@dataclasses.dataclass(frozen=True)
class Setting:
    """One entry of a configuration.

    Attributes:
      kinds: the types that a value may have, `NoneType` for null.
      default: `inspect.Parameter.empty` where it has to be given.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    description: str

    @property
    def annotation(self) -> Any:
        """The type as Beam's schemas know it."""
        named = [kind for kind in self.kinds if kind is not types.NoneType]
        one = named[0] if len(named) == 1 else Any
        return one if one is Any or self.default is inspect.Parameter.empty else Optional[one]  # noqa: UP045

    def convert(self, step: str, value: Any) -> Any:
        """`value` as the transform takes it.

        Raises:
          InputError: it is of none of the types.
        """
        for kind in self.kinds:
            if _is_of(value, kind):
                return tuple(value) if isinstance(value, list) else value
        names = " or ".join(_name(kind) for kind in self.kinds)
        raise InputError(f"{step}: {self.name} is {value!r}; use {names}")


def settings_of(transform: type) -> dict[str, Setting]:
    """The configuration of a transform, a dataclass, by name."""
    classes = filter(dataclasses.is_dataclass, reversed(transform.__mro__))
    params = [param for one in classes for param in _docs(one).params]
    docs = {
        name: param.description or "" for param in params for name in param.arg_name.split(", ")
    }
    found = {}
    for field in dataclasses.fields(transform):
        kinds = tuple(kind for kind in _kinds(field.name, field.type) if _in_yaml(kind))
        if kinds and set(kinds) != {types.NoneType}:
            default = None if field.default is dataclasses.MISSING else field.default
            if is_required(field) and field.name not in input_names(transform):
                default = inspect.Parameter.empty
            told = (None if field.name in _OWN else docs.get(field.name)) or _COMMON.get(
                field.name, ""
            )
            found[field.name] = Setting(field.name, kinds, default, " ".join(told.split()))
    return found


def is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def input_names(transform: type) -> tuple[str, ...]:
    """The attributes that are collections, and inputs in YAML."""
    return tuple(
        field.name
        for field in dataclasses.fields(transform)
        if beam.PCollection in _kinds(field.name, field.type)
    )


def configure(
    step: str, settings: Mapping[str, Setting], config: Mapping[str, Any]
) -> dict[str, Any]:
    """A configuration as arguments of the transform.

    Raises:
      InputError: a name is unknown or missing, or a value is of the wrong type.
    """
    for name in config:
        if name not in settings:
            raise InputError(f"{step}: there is no {name!r}; it takes {', '.join(settings)}")
    for name, setting in settings.items():
        if setting.default is inspect.Parameter.empty and name not in config:
            raise InputError(f"{step}: {name} is missing: {setting.description}")
    return {
        name: _made(step, name, settings[name].convert(step, value))
        for name, value in config.items()
    }


def describe(transform: type, settings: Mapping[str, Setting], more: str = "") -> str:
    """A docstring as Beam's YAML tools read it."""
    docs = _docs(transform)
    lines = [docs.short_description or "", "", docs.long_description or "", "", more, "", "Args:"]
    lines += [f"  {setting.name}: {setting.description}" for setting in settings.values()]
    return "\n".join(lines)


def _docs(transform: Any) -> docstring_parser.Docstring:
    return docstring_parser.parse(
        inspect.cleandoc(transform.__doc__ or ""), docstring_parser.DocstringStyle.GOOGLE
    )


def _kinds(name: str, annotation: Any) -> tuple[Any, ...]:
    if name in _MODELS:
        none = annotation is Any or types.NoneType in typing.get_args(annotation)
        return (str, Mapping[str, Any], *((types.NoneType,) if none else ()))
    if name == "steps":
        return (Sequence[Mapping[str, Any]],)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(annotation) for kind in _kinds("", part))
    if typing.get_origin(annotation) is typing.Literal:
        return (str,)
    if typing.get_origin(annotation) is beam.PCollection:
        return (beam.PCollection,)
    if annotation == Mapping[str, pa.DataType]:
        return (Mapping[str, str],)
    return (annotation,)


def _in_yaml(kind: Any) -> bool:
    if typing.get_origin(kind) is collections.abc.Mapping:
        return typing.get_args(kind)[1] in (str, Any)
    plain = kind in (str, int, float, bool, types.NoneType)
    return plain or typing.get_origin(kind) in (tuple, collections.abc.Sequence)


def _is_of(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and (
            inner[1] is Any or all(_is_of(item, inner[1]) for item in value.values())
        )
    if origin is not None:
        return isinstance(value, list | tuple) and all(_is_of(item, inner[0]) for item in value)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, int | float if kind is float else kind)


def _name(kind: Any) -> str:
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (tuple, collections.abc.Sequence):
        return f"a list of {_NAMES.get(inner[0], 'mapping')}s"
    name = _NAMES.get(kind, "mapping")
    return name if name in ("null", "true or false") else f"a{'n' * (name[0] == 'i')} {name}"


def _made(step: str, name: str, value: Any) -> Any:
    if name in _MODELS and isinstance(value, Mapping):
        settings = settings_of(EncoderConfig)
        return EncoderConfig(**configure(f"{step}: {name}", settings, value))
    if name == "columns" and isinstance(value, Mapping):
        return typed_columns([f"{column}:{kind}" for column, kind in value.items()])
    if name == "steps":
        return tuple(_step(step, mapping) for mapping in value)
    return value


def _step(step: str, mapping: Mapping[str, Any]) -> DeduplicationStep:
    rest = dict(mapping)
    kind = rest.pop("type", None)
    if kind not in _STEPS:
        raise InputError(f"{step}: a step of type {kind!r}; use {', '.join(_STEPS)}")
    return _STEPS[kind](**configure(f"{step}: {kind}", settings_of(_STEPS[kind]), rest))
