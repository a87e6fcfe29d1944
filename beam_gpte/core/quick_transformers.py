"""Spare a program what transformers imports for training and compiling, and encoding never uses.

The module of a first model brings torch's compiler, sharded tensors, accelerate and SciPy: 3.6 of
its 3.9 CPU seconds. transformers itself asks whether they are there before it imports them, so that
it runs without; while a model is loaded it hears that they are not. The compiler has no such
question: its place is taken by a module with the decorators that mark what is not to be compiled.
Whoever asks that module for anything else gets torch's own. And `transformers` looks for the names
of all models in the 1,700 files that define them, line by line, to find where each file lists its
own: it gets the file from there on. `transformers.models` would do it again: it is a plain package.

Only in a program (`core.process`), where nothing else can want them: modules of
transformers that were loaded so cannot train on several devices. `benchmarks/programs.py` measures
a start.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from beam_gpte.core.process import is_program

_QUESTIONS = (
    "is_accelerate_available",
    "is_scipy_available",
    "is_sklearn_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)
_PLACES = ("utils.import_utils", "utils")  # where transformers has the questions
_MODELS = "transformers.models"
_NAMES = "transformers.utils.import_utils"
_COMPILER = "torch._dynamo"
_TRACING = "torch._dynamo._trace_wrapped_higher_order_op"


def quick_transformers() -> contextlib.AbstractContextManager[None]:
    """Make a context in which transformers imports what encoding uses; in a program only.

    One thread at a time may be in it, again and again.
    """
    is_inner = isinstance(sys.modules.get(_COMPILER), _Compiler)
    return _spared() if is_program() and not is_inner else contextlib.nullcontext()


@contextlib.contextmanager
def _spared() -> Iterator[None]:
    importlib.import_module("torch")  # which would meet the stand-ins
    sys.meta_path.insert(0, _QuickNames())
    try:
        importlib.import_module("transformers")
    finally:
        sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, _QuickNames)]
    places = [importlib.import_module(f"transformers.{name}") for name in _PLACES]
    asked = [(place, name) for place in places for name in _QUESTIONS if hasattr(place, name)]
    answers = [getattr(place, name) for place, name in asked]
    for place, name in asked:
        setattr(place, name, _no)
    if _COMPILER not in sys.modules:
        sys.modules |= {_COMPILER: _Compiler(_COMPILER), _TRACING: _Tracing(_TRACING)}
    models = _Models(_MODELS)
    models.__path__ = [f"{path}/models" for path in sys.modules["transformers"].__path__]
    sys.modules.setdefault(_MODELS, models)
    try:
        yield
    finally:
        for (place, name), answer in zip(asked, answers, strict=True):
            setattr(place, name, answer)
        _remove_stand_ins()


class _QuickNames:
    """Import the module that reads files for names such that it is quick."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _NAMES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_replace(module: types.ModuleType) -> None:
            execute(module)
            if fetch := vars(module).get("fetch__all__"):
                vars(module)["fetch__all__"] = _from_the_list_on(fetch)

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def _from_the_list_on(fetch: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Give a function that looks for a list of names from where the last one begins."""

    def fetch_quickly(content: str) -> list[str]:
        begins = content.rfind("\n__all__")
        return fetch(content if begins < 0 else content[begins + 1 :])

    return fetch_quickly


def _no(*_: Any, **__: Any) -> bool:
    return False


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """Leave a function as it is: a decorator for a compiler that never runs."""
    return function if callable(function) else _as_it_is


class _Compiler(types.ModuleType):
    """Stand for torch's compiler until anything but a decorator is asked for."""

    disable = allow_in_graph = assume_constant_result = staticmethod(_as_it_is)

    def __getattr__(self, name: str) -> Any:
        return _of_original(self, name)


class _Tracing(types.ModuleType):
    """Stand for the module that traces the indices of masks."""

    class TransformGetItemToIndex:
        """Become torch's own when a mask is made with it."""

        def __new__(cls) -> Any:
            return _original(_TRACING).TransformGetItemToIndex()

    def __getattr__(self, name: str) -> Any:
        return _of_original(self, name)


class _Models(types.ModuleType):
    """Be the package of all models, whose names `transformers` has too."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(sys.modules["transformers"], name)


def _of_original(module: types.ModuleType, name: str) -> Any:
    is_package = module.__name__ == _COMPILER
    if name.startswith("__") and not (name == "__path__" and is_package):
        raise AttributeError(name)  # `inspect` and imports ask every module for `__file__`
    return getattr(_original(module.__name__), name)


def _original(name: str) -> types.ModuleType:
    _remove_stand_ins()
    return importlib.import_module(name)


def _remove_stand_ins() -> None:
    for name, kind in ((_COMPILER, _Compiler), (_TRACING, _Tracing)):
        if isinstance(sys.modules.get(name), kind):
            del sys.modules[name]
