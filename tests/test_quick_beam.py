"""What Beam's quicker functions give is what its own give; a changed Beam is left alone."""

import functools
import hashlib
import inspect
import runpy
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    SetupOptions,
    TypeOptions,
)
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators

from beam_gpte import _quick_beam
from beam_gpte.dedup.stream_state import DecideRows

REPLACED = [
    (core, "get_function_args_defaults"),
    (userstate, "get_dofn_specs"),
    (PipelineOptions, "__init__"),
    (PipelineOptions, "_visible_option_list"),
    (decorators.IOTypeHints, "from_callable"),
    (core, "_check_fn_use_yield_and_return"),
    (boto3_client.Client, "__init__"),
]
FLAGS = [
    [],
    ["--runner=FnApiRunner", "--runtime_type_check", "left over"],
    ["--extra_package", "a.tar.gz", "--extra_package=b.tar.gz", "--type_check_additional=all"],
    ("--setup_file=setup.py", "--no_pipeline_type_check"),
]


def outcome(function: Callable, *arguments: Any) -> Any:
    """The result of a call, or the kind of its error."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


def loaded_functions() -> Iterator[Any]:
    """All functions and classes of Beam's transforms and of this package, and their methods."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("apache_beam.transforms", "beam_gpte")):
            for value in list(vars(module).values()):
                if callable(value) and getattr(value, "__module__", None) == name:
                    yield value
                    for part in vars(value).values() if isinstance(value, type) else ():
                        yield part
                        yield types.MethodType(part, value) if callable(part) else value


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


@functools.wraps(len)
def wrapped(*arguments: Any) -> Any:
    return len(*arguments)


def signed(*arguments: Any) -> Any:
    return arguments


signed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter("signed", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=3)]
)


class Unusual:
    """Methods of all kinds."""

    def only_positional(self, first: int, /, second: int = 2, *rest: int, key: int = 4) -> None:
        pass

    def of_default_self(self: Any = None, other: int = 1) -> None:
        pass

    def without_default(self, default: Any = inspect.Parameter.empty) -> None:
        pass

    def of_anything(*arguments: Any, **named: Any) -> None:
        pass

    def of_nothing() -> None:  # type: ignore[misc]  # cannot be called on an instance
        pass

    @classmethod
    def of_class(cls, other: int = 1) -> None:
        pass

    @staticmethod
    def static(other: int, more: tuple = ()) -> None:
        pass

    partial = functools.partialmethod(only_positional, 1)

    def __call__(self, called: int = 0) -> None:
        pass


class WithTimers(Unusual):
    bound_elsewhere = [].append
    nested = types.MethodType(functools.partial(max, 1), 2)


@pytest.mark.parametrize(("owner", "name"), REPLACED, ids=[name for _, name in REPLACED])
def test_the_functions_of_this_beam_are_replaced_and_keep_their_names(
    owner: Any, name: str
) -> None:
    replaced = getattr(owner, name)
    assert replaced.__module__.startswith("apache_beam.")
    assert inspect.signature(replaced) == inspect.signature(replaced.__wrapped__)
    assert replaced.__doc__ == replaced.__wrapped__.__doc__


def test_arguments_are_those_that_beam_gives_for_each_function_of_beam_and_of_ours() -> None:
    quick = core.get_function_args_defaults
    functions = list(loaded_functions())
    assert len(functions) > 1000
    for function in functions:
        ours, own = outcome(quick, function), outcome(quick.__wrapped__, function)
        assert repr(ours) == repr(own), function


@pytest.mark.parametrize(
    "owner", [Unusual(), Unusual, WithTimers()], ids=["instance", "class", "timers"]
)
def test_arguments_of_unusual_functions_are_those_that_beam_gives(owner: Any) -> None:
    quick = core.get_function_args_defaults
    functions = [wrapped, signed, owner, len, str.upper, functools.partial(signed, 1), lambda: 1]
    functions += [getattr(owner, name) for name in dir(owner) if callable(getattr(owner, name))]
    for function in functions:
        assert outcome(quick, function) == outcome(quick.__wrapped__, function)


def test_arguments_can_be_changed_without_an_effect_on_later_ones() -> None:
    names, defaults = core.get_function_args_defaults(Unusual().of_class)
    names.append("more"), defaults.clear()
    assert core.get_function_args_defaults(Unusual().of_class) == (["other"], [1])


def test_states_and_timers_are_those_that_beam_finds_for_each_dofn() -> None:
    quick = userstate.get_dofn_specs
    dofns = [kind.__new__(kind) for kind in subclasses(beam.DoFn)]
    assert any(isinstance(dofn, DecideRows) for dofn in dofns)
    dofns += [beam.Map(len).fn, beam.Map(Unusual().of_class).fn, "not a DoFn"]
    with_state = []
    for dofn in dofns:
        ours = outcome(quick, dofn)
        assert ours == outcome(quick.__wrapped__, dofn)
        if isinstance(ours, tuple) and any(ours):
            with_state.append(type(dofn))
    assert DecideRows in with_state


def test_a_method_that_an_instance_has_of_another_dofn_counts_as_beam_counts_it() -> None:
    dofn = beam.Map(len).fn
    assert userstate.get_dofn_specs(dofn) == (set(), set())
    dofn.borrowed = DecideRows.__new__(DecideRows).process
    states, timers = userstate.get_dofn_specs(dofn)
    assert states
    assert timers
    assert (states, timers) == userstate.get_dofn_specs.__wrapped__(dofn)


@pytest.mark.parametrize(("owner", "name"), REPLACED[4:6], ids=["hints", "checks"])
def test_types_and_checks_are_those_that_beam_finds_at_first_and_later(
    owner: Any, name: str
) -> None:
    quick = getattr(owner, name)
    ours = [
        f
        for f in loaded_functions()
        if str(getattr(f, "__module__", None)).startswith("beam_gpte.elements")
    ]
    assert len(ours) > 100
    for function in (*ours, wrapped, signed, len, functools.partial(signed, 1), hinted):
        beams = repr(outcome(quick.__wrapped__, function))
        assert [repr(outcome(quick, function)) for _ in range(2)] == [beams, beams], function


def hinted(first: int, *, second: str = "2") -> list[int]:
    return [first]


def test_types_are_those_of_the_present_annotations_and_can_be_changed() -> None:
    hints = decorators.IOTypeHints.from_callable(hinted)
    hints.input_types[1].clear()
    again = decorators.IOTypeHints.from_callable(hinted)
    assert again.input_types == ((int,), {"second": str})
    hinted.__annotations__["first"] = float
    try:
        assert decorators.IOTypeHints.from_callable(hinted).input_types[0] == (float,)
    finally:
        hinted.__annotations__["first"] = int


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("kind", [TypeOptions, SetupOptions, DirectOptions])
def test_options_are_those_that_beam_parses(kind: Any, flags: Any) -> None:
    for _ in range(2):
        quick, own = kind(flags), kind.__new__(kind)
        PipelineOptions.__init__.__wrapped__(own, flags)
        assert quick._flags is flags
        for name in ("_all_options", "_visible_options"):
            ours, beams = getattr(quick, name), getattr(own, name)
            assert type(ours) is type(beams)
            items = [(one if isinstance(one, dict) else vars(one)).items() for one in (ours, beams)]
            assert list(items[0]) == list(items[1])


def test_options_without_flags_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, is_checked in ((["--runtime_type_check"], True), ([], False)):
        monkeypatch.setattr(sys, "argv", ["program", *given])
        options = PipelineOptions()
        assert options.view_as(TypeOptions).runtime_type_check == is_checked
        assert options._flags is None


def test_options_can_be_changed_without_an_effect_on_later_ones() -> None:
    flags = ["--extra_package=a"]
    first = PipelineOptions(flags).view_as(SetupOptions)
    first.extra_packages.append("b")
    first.setup_file = "setup.py"
    assert first.view_as(SetupOptions).extra_packages == ["a", "b"]
    later = PipelineOptions(flags).view_as(SetupOptions)
    assert (later.extra_packages, later.setup_file) == (["a"], None)


def test_wrong_flags_fail_as_in_beam() -> None:
    with pytest.raises(ValueError, match="not a single string"):
        TypeOptions("--runtime_type_check")
    with pytest.raises(SystemExit):
        SetupOptions(["--setup_file"])
    assert TypeOptions([], runtime_type_check=True).runtime_type_check


def test_a_function_is_replaced_only_if_its_source_is_known() -> None:
    known = hashlib.sha256(inspect.getsource(loaded_functions).encode()).hexdigest()
    functions = {"known": loaded_functions, "changed": outcome, "built in": len, "wrapped": wrapped}
    owner = types.SimpleNamespace(**functions)
    tried = {
        name: _quick_beam.replace(lambda original: signed, known, (owner, name))
        for name in (*functions, "gone")
    }
    assert [name for name, is_replaced in tried.items() if is_replaced] == ["known"]
    assert owner.known(1, 2) == (1, 2)
    assert owner.known.__wrapped__ is loaded_functions
    del owner.known, functions["known"]
    assert vars(owner) == functions


def test_no_function_is_replaced_twice() -> None:
    before = [getattr(owner, name) for owner, name in REPLACED]
    runpy.run_path(_quick_beam.__file__)
    assert [getattr(owner, name) for owner, name in REPLACED] == before


def test_clients_of_s3_are_shared_with_the_same_options_variables_and_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    flags = ["--s3_endpoint_url=http://localhost:1"]
    first, second = (boto3_client.Client(PipelineOptions(flags)) for _ in range(2))
    assert first is not second  # each has the download that it is at
    assert first.client is second.client
    assert (
        boto3_client.Client({"s3_region_name": "eu-west-1"}).client.meta.region_name == "eu-west-1"
    )
    assert first.client.meta.endpoint_url == "http://localhost:1"
    other = boto3_client.Client(PipelineOptions(["--s3_endpoint_url=http://localhost:2"]))
    assert other.client.meta.endpoint_url == "http://localhost:2"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "c")
    assert boto3_client.Client(PipelineOptions(flags)).client is not first.client
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert boto3_client.Client(PipelineOptions(flags)).client is not first.client
