"""Derive the configuration of a YAML step from its transform: typed, documented and checked.

    dataclass --> settings_of --> {name: Setting} --> configure --> arguments of the dataclass

An attribute that is a PCollection is a named input, not configuration. A settings object, such as
`Columns` or `EncoderConfig`, is a mapping of its attributes, configured the same way; one with a
`url` is an `EndpointConfig` where a model is named; a tuple is a list; an Arrow type is its name.
Attributes of any other type have no form in YAML.
"""

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import apache_beam as beam
import docstring_parser
import pyarrow as pa
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.dedup.deduplicate import DeduplicationStep
from beam_gpte.dedup.exact import DeduplicateExact
from beam_gpte.dedup.lexical import DeduplicateLexical
from beam_gpte.dedup.semantic import DeduplicateSemantic
from beam_gpte.sources.declared_columns import typed_columns

_STEPS: dict[Any, Any] = {
    step.__name__: step for step in (DeduplicateExact, DeduplicateLexical, DeduplicateSemantic)
}
# Descriptions of attributes whose form in YAML is not the one that the docstring describes.
_YAML_FORMS = {
    "model": "a hub name, a folder, a URI, or a mapping of what EncoderConfig takes: "
    "{model: ..., prompt_name: query}, or of what EndpointConfig takes: {url: ..., model: ...}",
    "steps": f"mappings of a type ({', '.join(_STEPS)}) and what it takes",
}
# Descriptions of attributes that several transforms share and some do not document.
_SHARED = {
    "id_column": "the field of the ids",
    "text_column": "the field of the texts",
    "embedding_column": "the field of the vectors",
    "columns": "the fields of the ids, texts and vectors",
    "path": "the folder, local or on any Beam file system",
}
_MODELS = ("model", "query_model")  # a settings object, whatever their annotation
_ARROW_TYPES = Mapping[str, pa.DataType]
_NEW_NAMES = Mapping[str, str]  # of `rename`, and headers
_PARAMETERS = Mapping[str, Any]  # of a request, as they are
_MAPPINGS = (_ARROW_TYPES, _NEW_NAMES, _PARAMETERS)
_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Describe one entry of a configuration.

    Attributes:
      name: of the attribute.
      kinds: the types that a value may have, `NoneType` for null.
      default: `inspect.Parameter.empty` if it is required.
      description: one line.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    description: str

    @property
    def is_required(self) -> bool:
        """Whether a configuration must have this entry."""
        return self.default is inspect.Parameter.empty

    @property
    def annotation(self) -> Any:
        """The type for Beam's schemas."""
        kinds = [kind for kind in self.kinds if kind is not types.NoneType]
        one = _annotation(kinds[0]) if len(kinds) == 1 else Any
        if one is Any or self.is_required:
            return one
        return Optional[one]  # noqa: UP045  # Beam 2.77 takes `X | None` for Any

    def convert(self, step: str, value: Any) -> Any:
        """Convert a value from YAML to the argument that the transform takes.

        Args:
          step: the transform that errors name, and the path to this entry.
          value: from YAML.

        Raises:
          InputError: it has none of the types, or an entry of a mapping is wrong.
        """
        path = f"{step}: {self.name}"
        for kind in self.kinds:
            if _has_type(value, kind):
                return _to_argument(path, step, value, kind)
        raise InputError(f"{path} is {value!r}; use {' or '.join(map(_type_name, self.kinds))}")


@functools.cache
def settings_of(configured: type) -> Mapping[str, Setting]:
    """List the configuration of a transform or a settings object, a dataclass, by name."""
    classes = filter(dataclasses.is_dataclass, reversed(configured.__mro__))
    params = [param for one in classes for param in _docstring(one).params]
    documented = {
        name: param.description or "" for param in params for name in param.arg_name.split(", ")
    }
    settings = {}
    for field in sorted(dataclasses.fields(configured), key=lambda field: field.kw_only is True):
        kinds = _yaml_kinds(field)
        if set(kinds) - {types.NoneType}:
            default = None if field.default is dataclasses.MISSING else field.default
            if is_required(field) and field.name not in input_names(configured):
                default = inspect.Parameter.empty
            description = _description(field.name, kinds, documented)
            settings[field.name] = Setting(field.name, kinds, default, description)
    return settings


def _description(name: str, kinds: tuple[Any, ...], documented: Mapping[str, str]) -> str:
    if name in _YAML_FORMS and kinds != (str,):
        return _YAML_FORMS[name]
    text = " ".join((documented.get(name) or _SHARED.get(name, "")).split())
    objects = [kind for kind in kinds if _is_settings_object(kind)]
    if not objects or len(set(kinds) - {types.NoneType}) == 1:
        return text  # the schema has the keys
    keys = [one.name for one in settings_of(objects[0]).values() if one.is_required]
    form = f"a mapping of what {objects[0].__name__} takes: {{{': ..., '.join(keys)}: ...}}"
    return f"{text.removesuffix('.')}; in YAML also {form}"


def is_required(field: dataclasses.Field) -> bool:
    """Check whether an attribute has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def input_names(configured: type) -> tuple[str, ...]:
    """List the attributes that are collections, and named inputs in YAML."""
    return tuple(
        field.name
        for field in dataclasses.fields(configured)
        if any(beam.PCollection in (part, typing.get_origin(part)) for part in _parts(field.type))
    )


def configure(
    step: str, settings: Mapping[str, Setting], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Convert a configuration to the arguments of the transform.

    Args:
      step: the transform, and for a settings object the path to it, which errors name.
      settings: from `settings_of`.
      config: from YAML.

    Raises:
      InputError: a name is unknown or missing, or a value has the wrong type.
    """
    for name in config:
        if name not in settings:
            raise InputError(f"{step}: there is no {name!r}; it takes {', '.join(settings)}")
    for name, setting in settings.items():
        if setting.is_required and name not in config:
            raise InputError(f"{step}: {name} is missing: {setting.description}")
    return {name: settings[name].convert(step, value) for name, value in config.items()}


def describe(transform: type, settings: Mapping[str, Setting], more: str = "") -> str:
    """Write a docstring as Beam's YAML tools read it."""
    docs = _docstring(transform)
    lines = [docs.short_description or "", "", docs.long_description or "", "", more, "", "Args:"]
    lines += [f"  {setting.name}: {setting.description}" for setting in settings.values()]
    return "\n".join(lines)


def _docstring(documented: Any) -> docstring_parser.Docstring:
    return docstring_parser.parse(
        inspect.cleandoc(documented.__doc__ or ""), docstring_parser.DocstringStyle.GOOGLE
    )


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Flatten unions."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(annotation) for kind in _parts(part))
    return (annotation,)


def _yaml_kinds(field: dataclasses.Field) -> tuple[Any, ...]:
    """List the types of an attribute that have a form in YAML."""
    if field.name in _MODELS and Any in _parts(field.type):
        return (str, EncoderConfig, EndpointConfig, types.NoneType)
    parts = _parts(field.type) if field.init else ()
    kinds = (str if typing.get_origin(part) is typing.Literal else part for part in parts)
    return tuple(kind for kind in kinds if _in_yaml(kind))


def _in_yaml(kind: Any) -> bool:
    if kind in _NAMES or kind in _MAPPINGS or _is_settings_object(kind):
        return True
    return typing.get_origin(kind) in (tuple, collections.abc.Sequence)


def _is_settings_object(kind: Any) -> bool:
    """Check for a frozen dataclass whose required attributes all have a form in YAML."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return False
    required = [field for field in dataclasses.fields(kind) if is_required(field)]
    frozen = typing.cast(Any, kind).__dataclass_params__.frozen
    return frozen and all(map(_yaml_kinds, required))


def _is_steps(kind: Any) -> bool:
    return DeduplicationStep in typing.get_args(kind)


def _has_type(value: Any, kind: Any) -> bool:
    """Check whether a value from YAML has a type."""
    if kind == _PARAMETERS:
        return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    if kind in (_ARROW_TYPES, _NEW_NAMES):
        return isinstance(value, Mapping) and all(isinstance(one, str) for one in value.values())
    if kind in (EncoderConfig, EndpointConfig):
        return isinstance(value, Mapping) and ("url" in value) == (kind is EndpointConfig)
    if _is_settings_object(kind):
        return isinstance(value, Mapping)
    if typing.get_origin(kind) is not None:
        item = Mapping if _is_steps(kind) else typing.get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_has_type(one, item) for one in value)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, int | float if kind is float else kind)


def _to_argument(path: str, step: str, value: Any, kind: Any) -> Any:
    """Convert a value that has the type `kind`."""
    if _is_settings_object(kind):
        arguments = configure(path, settings_of(kind), value)
        try:
            return kind(**arguments)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if kind == _ARROW_TYPES:
        return typed_columns([f"{column}:{name}" for column, name in value.items()])
    if _is_steps(kind):
        return tuple(_deduplication_step(step, one) for one in value)
    return tuple(value) if isinstance(value, list) else value


def _deduplication_step(step: str, config: Mapping[str, Any]) -> DeduplicationStep:
    rest = dict(config)
    kind = rest.pop("type", None)
    if kind not in _STEPS:
        raise InputError(f"{step}: a step of type {kind!r}; use {', '.join(_STEPS)}")
    return _STEPS[kind](**configure(f"{step}: {kind}", settings_of(_STEPS[kind]), rest))


def _type_name(kind: Any) -> str:
    if _is_settings_object(kind):
        return f"a mapping of what {kind.__name__} takes"
    if typing.get_origin(kind) in (tuple, collections.abc.Sequence):
        item = "a mapping" if _is_steps(kind) else _NAMES.get(typing.get_args(kind)[0], "a mapping")
        return f"a list of {item.split(' ')[-1]}s"
    return _NAMES.get(kind, "a mapping")


def _annotation(kind: Any) -> Any:
    """Give the type of a value in Beam's schemas: of a settings object, a row that documents it."""
    if _is_settings_object(kind):
        fields = settings_of(kind)
        return RowTypeConstraint.from_fields(
            [(name, one.annotation) for name, one in fields.items()],
            field_descriptions={name: one.description for name, one in fields.items()},
        )
    if kind == _ARROW_TYPES:
        return Mapping[str, str]
    return Sequence[Mapping[str, Any]] if _is_steps(kind) else kind
