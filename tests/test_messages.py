"""A message recommends what exists: arguments, methods, flags and names of the public interface."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import apache_beam.ml.transforms.base
import pytest

import beam_gpte
from beam_gpte.cli.arguments import make_parser, option_names
from beam_gpte.cli.beam_flags import beam_parser
from beam_gpte.cli.main import COMMANDS, program_of
from tests.test_public_names import NAMES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "beam_gpte").rglob("*.py"))
PROGRAMS = {name: program_of(name) for name in COMMANDS}
OPTIONS = {name: set(option_names(make_parser(one))) for name, one in PROGRAMS.items()}
MODULES = {ROOT / "beam_gpte/cli/programs" / f"{of}.py": name for name, (of, _) in COMMANDS.items()}
HTML = {"reports", "block_html"}
RAISED = {
    "InputError",
    "NothingWrittenError",
    "RowError",
    "step_error",
    "damage",
    "_no_row",
    "_bad_row",
}
FOREIGN = {
    "DuckDB",
    "MLTransform",
    "RunInference",
    "EmbeddableItems",
    "NamedTuples",
    "DirectRunner",
    "LazyFrame",
    "StaticEmbedding",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "SentencePiece",
    "NaN",
    "MiB",
}
# what is not public: `core.vectors.postprocess.Moments.add`, and YAML's own transform
NOT_PUBLIC = {"second", "MapToFields"}


def text_of(node: ast.AST) -> str:
    """The text of a message, with `...` for what varies."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.FormattedValue):
        return "..."
    return "".join(map(text_of, ast.iter_child_nodes(node)))


def messages(path: Path) -> Iterator[str]:
    """The messages that a module can raise, and the constants that it builds them from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        name = getattr(called, "id", getattr(called, "attr", None))
        if isinstance(node, ast.Call) and name in RAISED:
            yield "".join(text_of(argument) for argument in node.args)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            text = text_of(node.value)
            if " " in text and not HTML & {*path.parts, path.stem}:  # neither a value nor HTML
                yield text


ALL = [
    pytest.param(path, text, id=f"{path.stem}-{number}")
    for path in PACKAGE
    for number, text in enumerate(messages(path))
]


def having(pattern: str) -> list:
    return [one for one in ALL if re.search(pattern, one.values[1])]


def parameters() -> set[str]:
    """The arguments of the public classes and their methods."""
    found: set[str] = set()
    for name in NAMES:
        public = getattr(beam_gpte, name)
        if dataclasses.is_dataclass(public):
            found |= {field.name for field in dataclasses.fields(public)}
        for part in (public.__init__, *dict(vars(public)).values()):
            if inspect.isfunction(part):
                found |= set(inspect.signature(part).parameters)
    return found


@pytest.mark.parametrize(("path", "text"), having(r"\b[a-z_]\w*=(?!NAME)"))
def test_an_argument_that_is_recommended_exists(path: Path, text: str) -> None:
    text = re.sub(r"use OURS=NAME, such as \w+=\w+", "", text)  # values of a flag
    named = set(re.findall(r"(?<![-\w\"'])([a-z_]\w*)=(?!=)", text)) - {"recall", "probes"}
    assert named <= parameters() | NOT_PUBLIC


@pytest.mark.parametrize(("path", "text"), having(r"\b[A-Z][a-z]+[A-Z]\w*|\.\w+\(\)"))
def test_a_name_that_is_recommended_is_public(path: Path, text: str) -> None:
    names = set(re.findall(r"(?<![\w.])[A-Z][a-z]+[A-Z]\w*", text))
    foreign = {name for name in names if hasattr(beam, name) or hasattr(beam.window, name)}
    assert names <= set(NAMES) | foreign | FOREIGN | NOT_PUBLIC
    methods = set(re.findall(r"\.(with_\w+|as_\w+)\(", text))
    assert methods <= {"with_exception_handling"}


NEEDS = {"--types": "types_of"}  # without which a program cannot raise what names the flag


def programs_that_raise(path: Path) -> list[str]:
    """The commands whose modules are this one, or import from it."""
    if path in MODULES:
        return [MODULES[path]]
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return [
        name for one, name in MODULES.items() if f"from {module} import" in one.read_text("utf-8")
    ]


@pytest.mark.parametrize(("path", "text"), having(r"(?<![\w-])--[a-z]\w+"))
def test_a_flag_that_is_recommended_exists_in_each_program_that_can_say_so(
    path: Path, text: str
) -> None:
    of_others = re.findall(r"beam-gpte (\w+) (--\w+)", text)
    assert [one for one in of_others if one[1] not in OPTIONS[one[0]]] == []
    flags = set(re.findall(r"(?<!beam-gpte \w{5} )(?<![\w-])(--[a-z]\w+)", text))
    flags -= set(option_names(beam_parser())) | {"--no-deps", "--no", "--help"}
    programs = programs_that_raise(path)
    assert programs or not flags
    sources = {name: path.read_text("utf-8") for path, name in MODULES.items()}
    unknown = [
        (name, flag)
        for name in programs
        for flag in flags
        if NEEDS.get(flag, "") in sources[name] and flag not in OPTIONS[name]
    ]
    assert unknown == []


def test_there_are_messages_to_look_at() -> None:
    assert len(ALL) > 400
    assert len(having(r"with_exception_handling")) >= 5
    assert len(having(r"(?<![\w-])--[a-z]\w+")) >= 10
