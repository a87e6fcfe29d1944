"""Spare Beam 2.77 what it repeats for every step of a pipeline, and for every request to S3.

What builds and translates a pipeline, a quarter of the CPU time of a small job, imports included:

- `get_function_args_defaults`: which arguments a method has. It builds a signature, one object per
  parameter. The names and defaults of a plain function are in its code, where
  `inspect.signature` takes them from too.
- `get_dofn_specs`: which states and timers a `DoFn` uses. It wraps each of some 30 methods at every
  inspection, to look at their defaults. A DoFn without a parameter of Beam among these uses none.
- `PipelineOptions.__init__`: what a list of flags says. It builds and runs a parser for each view
  of the options, and a step takes several views of the type and the setup options. What these two
  say depends on the flags alone: it is remembered by them, and copied. `_visible_option_list`,
  called to read an option, lists and sorts the attributes of an object of argparse's.
- `IOTypeHints.from_callable`: which types a function is annotated with. What was found for a plain
  function is remembered as long as its code, its defaults and its annotations are the same objects.
- `_check_fn_use_yield_and_return`: whether a function both yields and returns, for which its source
  is read. The answer is remembered by the code.

And `Client.__init__` of S3 makes a new client for each request, in 0.09 CPU seconds. A client is
used again with the same options and AWS variables, in the same process, within a minute: so that
credentials that change in a file are seen.

In all other cases (decorated and built-in functions, DoFns with states, other options) Beam's own
function is called. Each is replaced only if its source is that of Beam 2.77: a changed Beam is left
alone.
`benchmarks/startup.py` measures all; `benchmarks/beam_2_77_cache.patch` has the first three.
"""

import argparse
import copy
import functools
import hashlib
import inspect
import logging
import os
import sys
import time
import types
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    S3Options,
    SetupOptions,
    TypeOptions,
)
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators

Function = Callable[..., Any]
Named = tuple[Any, str]  # a module or class, and the name of its function

# where `inspect.signature` finds another signature than that of a function's code
_SIGNATURES = frozenset(
    ("__wrapped__", "__signature__", "__text_signature__", "_partialmethod", "__partialmethod__")
)
_INSPECT = "_inspect_"  # and the name of a method: what Beam calls instead
# What every step asks for. Others, such as CrossLanguageOptions, depend on the environment too.
_CONSTANT_OPTIONS = (TypeOptions, SetupOptions)
_ATOMS = (bool, float, int, str, type(None))  # nobody can change these
_MAX_REMEMBERED = 256  # lists of flags; a process has one or two
_CLIENT_SECONDS = 60  # that a client of S3 is used for


def _quick_arguments(original: Function) -> Function:
    def get_function_args_defaults(f: Any) -> tuple[list[str], list[Any]]:
        skipped = int(type(f) is types.MethodType)  # the bound argument
        function = f.__func__ if skipped else f
        if type(function) is not types.FunctionType or not _SIGNATURES.isdisjoint(vars(function)):
            return original(f)
        code, defaults = function.__code__, function.__defaults__ or ()
        is_usual = len(defaults) + skipped <= code.co_argcount
        if not is_usual or any(default is inspect.Parameter.empty for default in defaults):
            return original(f)
        return list(code.co_varnames[skipped : code.co_argcount]), list(defaults)

    return get_function_args_defaults


def _quick_specs(original: Function) -> Function:
    def get_dofn_specs(dofn: Any) -> tuple[set, set]:
        if isinstance(dofn, core.DoFn) and not _has_beam_parameters(dofn):
            return set(), set()
        return original(dofn)

    return get_dofn_specs


def _has_beam_parameters(dofn: core.DoFn) -> bool:
    """Return whether a method has a state, a timer, a window or the like as a default."""
    for name in _maybe_with_defaults(dofn):
        method = getattr(dofn, name, None)
        if not isinstance(method, types.MethodType) or _has_no_defaults(dofn, name, method):
            continue
        _, defaults = core.get_function_arguments(dofn, name)
        if any(isinstance(default, core._DoFnParam) for default in defaults):
            return True
    return False


def _maybe_with_defaults(dofn: core.DoFn) -> set[str]:
    """Name the attributes that may be methods with defaults, in the classes and the instance."""
    parts = [vars(kind) for kind in type(dofn).__mro__[:-1]] + [vars(dofn)]
    names = {
        name
        for part in parts
        for name, value in part.items()
        if type(value) is not types.FunctionType or value.__defaults__ or vars(value)
    }
    inspected = (name for part in parts for name in part if name.startswith(_INSPECT))
    return names.union(name.removeprefix(_INSPECT) for name in inspected)


def _has_no_defaults(dofn: core.DoFn, name: str, method: types.MethodType) -> bool:
    """Return whether it is sure without Beam's inspection that a method has no defaults."""
    function = method.__func__
    return (
        type(function) is types.FunctionType
        and function.__defaults__ is None
        and not vars(function)
        and not hasattr(dofn, f"{_INSPECT}{name}")
    )


def _quick_options(original: Function) -> Function:
    @functools.lru_cache(maxsize=_MAX_REMEMBERED)
    def parsed(kind: Any, flags: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
        options = kind.__new__(kind)
        original(options, list(flags))
        values = vars(options._visible_options)
        return values, [name for name, value in values.items() if type(value) not in _ATOMS]

    def init(self: PipelineOptions, flags: Any = None, **kwargs: Any) -> None:
        kind: Any = type(self)
        given = sys.argv[1:] if flags is None else flags  # as the parser does
        is_constant = kind in _CONSTANT_OPTIONS and isinstance(given, list | tuple)
        if kwargs or not is_constant or not all(type(flag) is str for flag in given):
            original(self, flags, **kwargs)
            return
        logging.basicConfig()  # which Beam's function calls first
        values, changeable = parsed(kind, tuple(given))
        self._flags, self._visible_options = flags, argparse.Namespace()
        copied = {name: copy.deepcopy(values[name]) for name in changeable}
        visible = vars(self._visible_options)
        visible.update(values, **copied)
        self._all_options = {name: visible[name] for name in self._visible_option_list()}

    return init


def _quick_names(original: Function) -> Function:
    def _visible_option_list(self: PipelineOptions) -> list[str]:
        visible = self._visible_options
        if type(visible) is not argparse.Namespace:
            return original(self)  # type: ignore[no-any-return]
        return sorted(name for name in vars(visible) if name[0] != "_")

    return _visible_option_list


def _remembered_hints(original: Function) -> Function:
    known: MutableMapping[Any, dict[bool, tuple[list[Any], Any]]] = weakref.WeakKeyDictionary()

    def from_callable(fn: Any) -> Any:
        is_bound = type(fn) is types.MethodType
        function = fn.__func__ if is_bound else fn
        is_plain = type(function) is types.FunctionType and not vars(function)
        if not is_plain or decorators._disable_from_callable:
            return original(fn)
        annotations = function.__annotations__
        read = [function.__code__, function.__defaults__, *annotations, *annotations.values()]
        before, hints = known.get(function, {}).get(is_bound, ([], None))
        if len(before) != len(read) or any(a is not b for a, b in zip(before, read, strict=True)):
            hints = original(fn)
            known.setdefault(function, {})[is_bound] = read, hints
        if hints is None:
            return None
        inputs, outputs = ((args, dict(named)) for args, named in hints[:2])
        return hints._replace(input_types=inputs, output_types=outputs)

    return from_callable


def _remembered_checks(original: Function) -> Function:
    known: MutableMapping[types.CodeType, bool] = weakref.WeakKeyDictionary()

    def _check_fn_use_yield_and_return(fn: Any) -> Any:
        function = fn.__func__ if type(fn) is types.MethodType else fn
        if type(function) is not types.FunctionType or vars(function):
            return original(fn)
        if function.__code__ not in known:
            known[function.__code__] = original(fn)
        return known[function.__code__]

    return _check_fn_use_yield_and_return


def _shared_clients(original: Function) -> Function:
    @functools.lru_cache(maxsize=8)
    def made(options: Any, *_: Any) -> dict[str, Any]:
        client = boto3_client.Client.__new__(boto3_client.Client)
        original(client, dict(options))
        return vars(client)

    def init(self: Any, options: Any) -> None:
        if isinstance(options, PipelineOptions):
            options = vars(options.view_as(S3Options)._visible_options)
        given = sorted((name, value) for name, value in options.items() if name[:3] == "s3_")
        variables = sorted(item for item in os.environ.items() if item[0][:4] == "AWS_")
        minute = time.monotonic() // _CLIENT_SECONDS
        vars(self).update(made(tuple(given), tuple(variables), os.getpid(), minute))

    return init


def replace(quicker: Callable[[Function], Function], sha256: str, *functions: Named) -> bool:
    """Replace a function of Beam, if its source is the known one.

    Args:
      quicker: makes the replacement of a function.
      sha256: of the sources of `functions`.
      *functions: that to be replaced, and others that its replacement relies on.

    Returns:
      Whether it is replaced: not if it has been replaced before, by this module or another.
    """
    owner, name = functions[0]
    try:
        found = [getattr(one, its_name) for one, its_name in functions]
        source = "".join(map(inspect.getsource, found))
    except (AttributeError, OSError, TypeError):  # another Beam, or one without its sources
        return False
    if hasattr(found[0], "__wrapped__") or hashlib.sha256(source.encode()).hexdigest() != sha256:
        return False
    setattr(owner, name, functools.wraps(found[0])(quicker(found[0])))
    return True


replace(
    _quick_arguments,
    "5e41a60ff81fe8ca96ab6ec705dcd571f5c2f574a43a9e8db00010e19976191b",
    (core, "get_function_args_defaults"),
)
replace(
    _quick_specs,
    "c41a66a41877af8a32f3059f03bb2a1eda185f20cc4e95d683198cdbe80ef4f3",
    (userstate, "get_dofn_specs"),
    (core, "get_function_arguments"),
)
replace(
    _quick_options,
    "f0124740959f5bdc905c784179aed4e9db7570db1a5e4d280d9182ce18376ae9",
    (PipelineOptions, "__init__"),
    (TypeOptions, "_add_argparse_args"),
    (SetupOptions, "_add_argparse_args"),
)
replace(
    _quick_names,
    "a7edd7ce74aaef5fcb2e626eb49c5ecb34360b627eaa69e65b73ec86be251003",
    (PipelineOptions, "_visible_option_list"),
)
replace(
    _remembered_hints,
    "1054b56191e9eaa6d45a45d9d60e42555d5e6d28b2e52f93f01095f0d322797d",
    (decorators.IOTypeHints, "from_callable"),
)
replace(
    _remembered_checks,
    "b736b8d259633ba8cfa9d7ce636d36f23b5a7e3b671a11b395c8b10407fad67a",
    (core, "_check_fn_use_yield_and_return"),
    (core, "_get_function_body_without_inners"),
)
replace(
    _shared_clients,
    "1cf60e5ab4b1b18021cf0464d836b40cd65aab307ae9148c2f66326f3d9b6d8b",
    (boto3_client.Client, "__init__"),
)
