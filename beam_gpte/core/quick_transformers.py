"""Spare a program what transformers imports for training and compiling, and encoding never uses.

The module of a first model brings torch's compiler, sharded tensors, accelerate and SciPy: 3.6 of
its 3.9 CPU seconds. transformers itself asks whether they are there before it imports them, so that
it runs without; while a model is loaded it hears that they are not. The compiler has no such
question: its place is taken by a module with the decorators that mark what is not to be compiled.
Whoever asks that module for anything else gets torch's own. And `transformers.models` reads the
2,000 files of all models to list their names, as `transformers` did before: it is a plain package.

Only in a program (`core.process`), where nothing else can want them: modules of
transformers that were loaded so cannot train on several devices. `benchmarks/programs.py` measures
a start.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
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
