"""Divide source code into parts: functions and classes, found by tree-sitter, and the code between.

A part is a top-level definition with the comments directly above it, whole if it fits. A class that
does not fit becomes its head and its methods; a function is divided at the functions inside it, and
by lines. Code that does not parse has fewer definitions, which is not an error.
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
    """Name a grammar's package and function, and the kinds of its nodes that are definitions."""

    module: str
    definitions: frozenset[str]
    function: str = "language"


def _language(module: str, definitions: str, function: str = "language") -> _Language:
    return _Language(f"tree_sitter_{module}", frozenset(definitions.split()), function)


_C = "function_definition struct_specifier union_specifier enum_specifier type_definition"
_JAVASCRIPT = (
    "function_declaration generator_function_declaration class_declaration method_definition "
    "export_statement lexical_declaration"
)
_TYPESCRIPT = _JAVASCRIPT + (
    " abstract_class_declaration interface_declaration enum_declaration type_alias_declaration "
    "internal_module module"
)
_LANGUAGES = {
    "c": _language("c", _C),
    "c#": _language(
        "c_sharp",
        "class_declaration struct_declaration record_declaration interface_declaration "
        "enum_declaration method_declaration constructor_declaration property_declaration "
        "namespace_declaration delegate_declaration",
    ),
    "c++": _language(
        "cpp", f"{_C} class_specifier namespace_definition template_declaration concept_definition"
    ),
    "go": _language("go", "function_declaration method_declaration type_declaration"),
    "java": _language(
        "java",
        "class_declaration interface_declaration enum_declaration record_declaration "
        "annotation_type_declaration method_declaration constructor_declaration",
    ),
    "javascript": _language("javascript", _JAVASCRIPT),
    "php": _language(
        "php",
        "function_definition class_declaration interface_declaration trait_declaration "
        "enum_declaration method_declaration namespace_definition",
        "language_php",
    ),
    "python": _language("python", "function_definition class_definition decorated_definition"),
    "ruby": _language("ruby", "method singleton_method class module"),
    "rust": _language(
        "rust",
        "function_item struct_item enum_item union_item trait_item impl_item mod_item "
        "macro_definition",
    ),
    "tsx": _language("typescript", _TYPESCRIPT, "language_tsx"),
    "typescript": _language("typescript", _TYPESCRIPT, "language_typescript"),
}
LANGUAGES = tuple(_LANGUAGES)
_ALIASES = {"cpp": "c++", "csharp": "c#", "cs": "c#", "js": "javascript", "jsx": "javascript"}
_ALIASES |= {"py": "python", "rb": "ruby", "ts": "typescript", "golang": "go", "rs": "rust"}

# definitions only if they hold a function or a class
_INLINE = ("lexical_declaration", "export_statement")
# the definitions inside these are those inside the one definition that they hold
_WRAPPERS = (*_INLINE, "decorated_definition", "template_declaration")
MAX_PARSED = 1 << 20  # characters at once
_MAX_DEPTH = 200  # nested nodes; Python's stack holds more, but an expression may nest deeper


def language_name(language: str) -> str | None:
    """Map a language's name or alias, in any case, to its name in `LANGUAGES`, or to None."""
    name = language.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in _LANGUAGES else None


def code_parts(text: str, language: str) -> list[Part]:
    """Divide a program in one of `LANGUAGES` into parts that cover it.

    One of more than `MAX_PARSED` characters is parsed in pieces, each to the end of a line, after a
    blank line if there is one: the parser takes up to 400 bytes for a character.

    Raises:
      InputError: the language's parser is not installed.
    """
    parts: list[Part] = []
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        parts += _piece_parts(text[:end], start, language) or [Part(start, end, split="lines")]
        start = end
    return parts or [Part(0, 0, split="lines")]


def _piece_end(text: str, start: int) -> int:
    end, middle = start + MAX_PARSED, start + MAX_PARSED // 2
    if end >= len(text):
        return len(text)
    for line_end in ("\n\n", "\n"):
        at = text.rfind(line_end, middle, end)
        if at >= 0:
            return at + len(line_end)
    return end


def _piece_parts(text: str, start: int, language: str) -> list[Part]:
    """Divide a program from `start` on; no part if it has no definition."""
    data = text[start:].encode()
    tree = _parser(language).parse(data)
    definitions = list(_definitions(tree.root_node, _LANGUAGES[language].definitions))
    offsets = _Offsets(data, len(text) - start, start)
    return list(_parts(text, definitions, offsets, start, len(text)))


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Definition:
    """Locate a definition and the definitions inside it.

    Attributes:
      start: first byte, comments directly above included.
      end: last byte, exclusive.
      inner: the definitions inside it.
      separate: true unless it is a function: its parts are never packed together.
    """

    start: int
    end: int
    inner: tuple["_Definition", ...]
    separate: bool


def _definitions(node: Any, kinds: frozenset[str], depth: int = 0) -> Iterator[_Definition]:
    """Yield the outermost definitions below `node`, in order."""
    first = last = None  # of adjacent comments, without a blank line between
    for child in _named_children(node) if depth < _MAX_DEPTH else ():
        if last is not None and child.start_point.row > last.end_point.row + 1:
            first = last = None
        if "comment" in child.type or child.type in ("attribute_item", "decorator"):
            first, last = first or child, child
            continue
        inner = tuple(_definitions(child, kinds, depth + 1))
        if child.type in kinds and (child.type not in _INLINE or inner or _holds_function(child)):
            held = inner[0] if len(inner) == 1 and child.type in _WRAPPERS else None
            start = (first or child).start_byte
            if held is None:
                separate = not re.search("function|method|constructor", child.type)
                yield _Definition(start, child.end_byte, inner, separate)
            else:
                yield _Definition(start, child.end_byte, held.inner, held.separate)
        else:
            yield from inner
        first = last = None


def _named_children(node: Any) -> Iterator[Any]:
    """Yield the named children of a node; a list of all would stay with it."""
    cursor = node.walk()
    more = cursor.goto_first_child()
    while more:
        if cursor.node.is_named:
            yield cursor.node
        more = cursor.goto_next_sibling()


def _holds_function(node: Any) -> bool:
    """Decide whether a declaration declares a function, as ``const f = () => ...`` does."""
    values = (child.child_by_field_name("value") for child in _named_children(node))
    return any(
        value is not None and value.type in ("arrow_function", "function_expression", "class")
        for value in values
    )


def _parts(
    text: str, definitions: Sequence[_Definition], offsets: "_Offsets", start: int, end: int
) -> Iterator[Part]:
    """Yield definitions, each with the rest of its last line, and the spans between them.

    Yields nothing if there are no definitions.
    """
    at = start
    bounds = [(offsets.character(each.start), offsets.character(each.end)) for each in definitions]
    following = [*(first for first, _ in bounds), end][1:]
    for definition, (first, last), limit in zip(definitions, bounds, following, strict=False):
        line_end = text.find("\n", last, limit)
        last = limit if line_end < 0 else line_end + 1
        if limit == end and _is_closing(text[last:end]):
            last = end
        if first > at:
            yield Part(at, first, split="lines")
        children = tuple(_parts(text, definition.inner, offsets, first, last))
        separate = definition.separate and bool(definition.inner)
        yield Part(first, last, children, "lines", separate)
        at = last
    if definitions and at < end:
        yield Part(at, end, split="lines")


def _is_closing(text: str) -> bool:
    """Decide whether a text only closes what encloses it, like a bracket."""
    return text.strip() == "end" or not any(map(str.isalnum, text))


class _Offsets:
    """Convert UTF-8 byte offsets to character offsets; fast for ascending offsets.

    Args:
      data: a part of a text.
      characters: how many it has.
      start: the character of the text that it begins with.
    """

    def __init__(self, data: bytes, characters: int, start: int) -> None:
        self._data = data
        self._ascii = len(data) == characters
        self._start = start
        self._last = (0, start)

    def character(self, byte: int) -> int:
        if self._ascii:
            return self._start + byte
        at, characters = self._last if self._last[0] <= byte else (0, self._start)
        self._last = byte, characters + len(self._data[at:byte].decode())
        return self._last[1]
