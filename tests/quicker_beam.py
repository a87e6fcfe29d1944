"""Cache what Beam computes repeatedly while it builds pipelines; the tests build hundreds.

Three functions of Beam 2.77 take a third of the time of a small pipeline, and return the same for
the same arguments: which arguments a method has and which states and timers a DoFn uses, computed
for every method of every DoFn at every inspection, and what options a list of flags gives, for
which Beam builds a parser each time. Nothing here changes what they return.
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
def cache_all() -> None:
    """Cache the three functions in this process; tests and pages both call this, once counts."""
    core.get_function_args_defaults = _cached_arguments(core.get_function_args_defaults)
    userstate.get_dofn_specs = _cached_specs(userstate.get_dofn_specs)
    PipelineOptions.__init__ = _cached_options(PipelineOptions.__init__)  # type: ignore[method-assign]


def _cached_arguments(compute: Any) -> Any:
    known: weakref.WeakKeyDictionary[Any, _Arguments] = weakref.WeakKeyDictionary()

    def arguments(function: Any) -> _Arguments:
        if not isinstance(function, types.MethodType) or not isinstance(
            function.__func__, types.FunctionType
        ):
            return compute(function)
        found = known.get(function.__func__)
        if found is None:
            found = known[function.__func__] = compute(function)
        return list(found[0]), list(found[1])

    return arguments


def _cached_specs(compute: Any) -> Any:
    known: dict[type, tuple[set, set]] = {}

    def specs(dofn: core.DoFn) -> tuple[set, set]:
        if isinstance(dofn, core.CallableWrapperDoFn):  # of all its methods only this one differs
            special = any(
                isinstance(default, core._DoFnParam) for default in dofn._inspect_process()[1]
            )
            return compute(dofn) if special else (set(), set())
        if type(dofn) not in known:
            known[type(dofn)] = compute(dofn)
        states, timers = known[type(dofn)]
        return set(states), set(timers)

    return specs


def _cached_options(make: Any) -> Any:
    known: dict[tuple[type, tuple[str, ...]], dict[str, Any]] = {}

    def init(self: PipelineOptions, flags: Any = None, **more: Any) -> None:
        # None represents the arguments of this process
        if flags is None or isinstance(flags, str) or more:
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
