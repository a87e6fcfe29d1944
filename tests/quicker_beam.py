"""What Beam works out again and again while it builds a pipeline is remembered, for tests, which build hundreds.

Three functions of Beam 2.77 take a third of the time of a small pipeline, and give the same for the same arguments: which
arguments a method has and which states and timers a DoFn uses, asked for every method of every DoFn at every look at it,
and what options a list of flags gives, for which Beam makes a parser of its own each time. Nothing here changes what they
say.
"""

import argparse
import functools
import types
import weakref
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate

_Arguments = tuple[list[str], list[Any]]


@functools.cache
def remember() -> None:
    """Once a process, however often it is called: tests and pages both do."""
    core.get_function_args_defaults = _remember_arguments(core.get_function_args_defaults)
    userstate.get_dofn_specs = _remember_specs(userstate.get_dofn_specs)
    PipelineOptions.__init__ = _remember_options(PipelineOptions.__init__)  # type: ignore[method-assign]


def _remember_arguments(ask: Any) -> Any:
    known: weakref.WeakKeyDictionary[Any, _Arguments] = weakref.WeakKeyDictionary()

    def arguments(function: Any) -> _Arguments:
        if not isinstance(function, types.MethodType) or not isinstance(
            function.__func__, types.FunctionType
        ):
            return ask(function)
        found = known.get(function.__func__)
        if found is None:
            found = known[function.__func__] = ask(function)
        return list(found[0]), list(found[1])

    return arguments


def _remember_specs(ask: Any) -> Any:
    known: dict[type, tuple[set, set]] = {}

    def specs(dofn: core.DoFn) -> tuple[set, set]:
        if isinstance(dofn, core.CallableWrapperDoFn):  # of all its methods only this one differs
            special = any(
                isinstance(default, core._DoFnParam) for default in dofn._inspect_process()[1]
            )
            return ask(dofn) if special else (set(), set())
        if type(dofn) not in known:
            known[type(dofn)] = ask(dofn)
        states, timers = known[type(dofn)]
        return set(states), set(timers)

    return specs


def _remember_options(make: Any) -> Any:
    known: dict[tuple[type, tuple[str, ...]], dict[str, Any]] = {}

    def init(self: PipelineOptions, flags: Any = None, **more: Any) -> None:
        if (
            flags is None or isinstance(flags, str) or more
        ):  # None stands for the arguments of this process
            make(self, flags, **more)
            return
        key = type(self), tuple(flags)
        if key not in known:
            make(self, flags)
            known[key] = _copied(vars(self._visible_options))
            return
        self._flags = flags
        self._visible_options = argparse.Namespace(**_copied(known[key]))
        self._all_options = dict(vars(self._visible_options))

    return init


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, list) else value for name, value in options.items()
    }
