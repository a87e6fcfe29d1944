"""The parts of source code: functions and classes, by tree-sitter, and what stands between them.

A part is a definition of the top level with the comments right above it, whole if it fits. A class that does not fit becomes
its head and its methods, a function what it is made of, by the functions in it and by lines. Code that does not parse has
fewer definitions; it is no error.
"""

import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Part


@dataclasses.dataclass(frozen=True)
class _Language:
    """A grammar: the package that has it, and the kinds of its nodes that are definitions."""

    module: str
    definitions: frozenset[str]
    function: str = "language"


def _language(module: str, definitions: str, function: str = "language") -> _Language:
    return _Language(f"tree_sitter_{module}", frozenset(definitions.split()), function)


_C = "function_definition struct_specifier union_specifier enum_specifier type_definition"
_JAVASCRIPT = (
    "function_declaration generator_function_declaration class_declaration method_definition export_statement "
    "lexical_declaration"
)
_TYPESCRIPT = _JAVASCRIPT + (
    " abstract_class_declaration interface_declaration enum_declaration type_alias_declaration internal_module module"
)
_LANGUAGES = {
    "c": _language("c", _C),
    "c#": _language(
        "c_sharp",
        "class_declaration struct_declaration record_declaration interface_declaration enum_declaration method_declaration "
        "constructor_declaration property_declaration namespace_declaration delegate_declaration",
    ),
    "c++": _language(
        "cpp", f"{_C} class_specifier namespace_definition template_declaration concept_definition"
    ),
    "go": _language("go", "function_declaration method_declaration type_declaration"),
    "java": _language(
        "java",
        "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration "
        "method_declaration constructor_declaration",
    ),
    "javascript": _language("javascript", _JAVASCRIPT),
    "php": _language(
        "php",
        "function_definition class_declaration interface_declaration trait_declaration enum_declaration method_declaration "
        "namespace_definition",
        "language_php",
    ),
    "python": _language("python", "function_definition class_definition decorated_definition"),
    "ruby": _language("ruby", "method singleton_method class module"),
    "rust": _language(
        "rust",
        "function_item struct_item enum_item union_item trait_item impl_item mod_item macro_definition",
    ),
    "tsx": _language("typescript", _TYPESCRIPT, "language_tsx"),
    "typescript": _language("typescript", _TYPESCRIPT, "language_typescript"),
}
LANGUAGES = tuple(_LANGUAGES)
_ALIASES = {
    "cpp": "c++",
    "csharp": "c#",
    "cs": "c#",
    "js": "javascript",
    "jsx": "javascript",
    "py": "python",
    "rb": "ruby",
}
_ALIASES |= {"ts": "typescript", "golang": "go", "rs": "rust"}
_INLINE = (
    "lexical_declaration",
    "export_statement",
)  # definitions if they hold a function or a class
_WRAPPERS = (
    *_INLINE,
    "decorated_definition",
    "template_declaration",
)  # what is in them is what is in the one they hold
_DEEPEST = 200  # below a node; Python's stack holds more, an expression may nest deeper


def language_name(language: str) -> str | None:
    """The name in `LANGUAGES` of a language under whatever name or case; None for one that is not among them."""
    name = language.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in _LANGUAGES else None


def code_parts(text: str, language: str) -> list[Part]:
    """The parts of a program in one of `LANGUAGES`; they cover it.

    Raises:
      InputError: the language's parser is not installed.
    """
    data = text.encode()
    tree = _parser(language).parse(data)
    definitions = list(_definitions(tree.root_node, _LANGUAGES[language].definitions))
    offsets = _Offsets(data, text)
    return list(_parts(text, definitions, offsets, 0, len(text))) or [
        Part(0, len(text), split="lines")
    ]


@functools.cache
def _parser(language: str) -> Any:
    known = _LANGUAGES[language]
    try:
        import tree_sitter

        grammar = getattr(importlib.import_module(known.module), known.function)()
    except ImportError as error:
        raise InputError(
            f"chunks of {language} need {known.module}; pip install 'beam-gpte[chunks]'"
        ) from error
    return tree_sitter.Parser(tree_sitter.Language(grammar))


@dataclasses.dataclass(frozen=True)
class _Definition:
    """Bytes from start to end, comments right above included, and the definitions in it; `apart` if it is no function."""

    start: int
    end: int
    inner: tuple["_Definition", ...]
    apart: bool


def _definitions(node: Any, kinds: frozenset[str], depth: int = 0) -> Iterator[_Definition]:
    """The outermost definitions below `node`, in order."""
    comments: list[Any] = []  # that follow one another, without a blank line
    for child in node.named_children if depth < _DEEPEST else ():
        if comments and child.start_point.row > comments[-1].end_point.row + 1:
            comments = []
        if "comment" in child.type or child.type in ("attribute_item", "decorator"):
            comments.append(child)
            continue
        inner = tuple(_definitions(child, kinds, depth + 1))
        if child.type in kinds and (child.type not in _INLINE or inner or _holds_function(child)):
            held = inner[0] if len(inner) == 1 and child.type in _WRAPPERS else None
            apart = (
                not re.search("function|method|constructor", child.type)
                if held is None
                else held.apart
            )
            first = comments[0] if comments else child
            yield _Definition(
                first.start_byte, child.end_byte, inner if held is None else held.inner, apart
            )
        else:
            yield from inner
        comments = []


def _holds_function(node: Any) -> bool:
    """Whether a declaration is of a function, as ``const f = () => ...`` is."""
    values = [child.child_by_field_name("value") for child in node.named_children]
    return any(
        value is not None and value.type in ("arrow_function", "function_expression", "class")
        for value in values
    )


def _parts(
    text: str, definitions: Sequence[_Definition], offsets: "_Offsets", start: int, end: int
) -> Iterator[Part]:
    """Definitions, with the rest of their last line, and what stands between them; nothing if there are no definitions."""
    at = start
    bounds = [(offsets.character(one.start), offsets.character(one.end)) for one in definitions]
    following = [*(first for first, _ in bounds), end][1:]
    for one, (first, last), limit in zip(definitions, bounds, following, strict=False):
        line_end = text.find("\n", last, limit)
        last = limit if line_end < 0 else line_end + 1
        if limit == end and _closes(text[last:end]):
            last = end
        if first > at:
            yield Part(at, first, split="lines")
        yield Part(
            first,
            last,
            tuple(_parts(text, one.inner, offsets, first, last)),
            "lines",
            one.apart and bool(one.inner),
        )
        at = last
    if definitions and at < end:
        yield Part(at, end, split="lines")


def _closes(text: str) -> bool:
    """Whether a text is but the end of what is around it: a bracket."""
    return text.strip() == "end" or not any(map(str.isalnum, text))


class _Offsets:
    """Where bytes of UTF-8 are among characters; asked in ascending order mostly."""

    def __init__(self, data: bytes, text: str) -> None:
        self._data = data
        self._plain = len(data) == len(text)
        self._known = (0, 0)

    def character(self, byte: int) -> int:
        if self._plain:
            return byte
        at, characters = self._known if self._known[0] <= byte else (0, 0)
        self._known = byte, characters + len(self._data[at:byte].decode())
        return self._known[1]
