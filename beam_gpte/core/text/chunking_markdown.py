"""Divide a Markdown text into sections, and these into paragraphs, lists, code blocks and tables.

Parsed by markdown-it-py (CommonMark, with tables). A section is a heading and the text up to the
next heading of its level or above; text before the first heading is a part by itself. Code, HTML
and tables are cut by lines, everything else by sentences.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Part

_LINE_END = re.compile(r"\r\n|\r|\n")  # as the parser counts lines
_BLANK = " \t\r\n"  # white space of blank lines
LINES = 1 << 11  # parsed at once: 1 KB of tokens each, or more
MAX_LINES = 1 << 13  # of one list or quote, or of definitions of links
_CONTAINERS = ("blockquote_open", "bullet_list_open", "list_item_open", "ordered_list_open")
_VERBATIM = ("fence", "code_block", "html_block", "table_open")


def markdown_parts(text: str) -> list[Part]:
    """Divide a text into its sections of the highest level, each with its subsections.

    The parts cover the text.
    """
    ends = (match.end() for match in _LINE_END.finditer(text))
    starts = np.fromiter(itertools.chain([0], ends), np.int64)
    return _sections(list(_text_blocks(text, starts)), 0, len(text)) or [Part(0, len(text))]


def _text_blocks(text: str, starts: np.ndarray) -> Iterator["_Block"]:
    """Build the outermost blocks, which cover the text from the first to the end."""
    found = _outermost_tokens(text, starts)
    known = next(found, None)
    begin = 0
    while known is not None:
        following = next(found, None)
        end = len(text) if following is None else _begin(following)
        token, inner, lines = known
        yield _block(token, inner, lines, begin, end)
        known, begin = following, end


_Opened = tuple[Any, list[Any], np.ndarray]  # token, those inside, where lines begin in the text


def _begin(opened: _Opened) -> int:
    token, _, lines = opened
    return int(lines[token.map[0]])


def _outermost_tokens(text: str, starts: np.ndarray) -> Iterator[_Opened]:
    """Parse `LINES` at a time, or those of a larger block, and yield the tokens of blocks.

    A block that begins among the outermost is parsed as at the beginning of a text. So all blocks
    of some lines are known but the last, which may go on: it begins the next lines. A list or quote
    of more than `MAX_LINES` becomes several.
    """
    parser, first, size = _parser(), 0, LINES
    while first < len(starts):
        is_last = first + size >= len(starts)
        end = len(text) if is_last else int(starts[first + size])
        lines = np.append(starts[first : first + size], [end] * 2)  # it may count one too many
        piece = text[lines[0] : end]
        opened = _outermost(parser.parse(piece)) if piece.strip(_BLANK) else []
        if not is_last and opened and size >= MAX_LINES and opened[-1][0].map[0] == 0:
            opened = _divided(*opened[-1])
        going_on = size
        if not is_last and opened:
            going_on = opened.pop()[0].map[0]
        elif not is_last and piece.strip(_BLANK) and size < MAX_LINES:
            going_on = 0  # definitions of links are no blocks, and a block may follow
        yield from ((token, inner, lines) for token, inner in opened)
        first, size = (first, 2 * size) if going_on == 0 else (first + going_on, LINES)


def _divided(token: Any, inner: list[Any]) -> list[tuple[Any, list[Any]]]:
    """Replace a list or quote by what is in it, as deep as it takes; other blocks stay."""
    found = [(token, inner)]
    while len(found) == 1 and found[0][0].type in _CONTAINERS:
        found = _outermost(found[0][1])
    return found if len(found) > 1 else [(token, inner)]


@functools.cache
def _parser() -> Any:
    try:
        from markdown_it import MarkdownIt
        from markdown_it.parser_block import ParserBlock
        from markdown_it.rules_block import StateBlock
    except ImportError as error:
        raise InputError(
            "chunks of Markdown need markdown-it-py; pip install 'beam-gpte[chunks]'"
        ) from error

    class State(StateBlock):
        """Collect tokens, but not those inside tables."""

        def push(self, ttype: str, tag: str, nesting: Any) -> Any:
            token = super().push(ttype, tag, nesting)
            if self.parentType == "table" and tag != "table":
                self.tokens.pop()
            return token

    class Blocks(ParserBlock):
        """Parse blocks with such a state."""

        def parse(self, src: str, md: Any, env: Any, out_tokens: list[Any]) -> Any:
            state = State(src, md, env, out_tokens)
            self.tokenize(state, state.line, state.lineMax)
            return state.tokens

    parser = MarkdownIt("commonmark")
    parser.block = Blocks()
    # "commonmark" again, for these blocks; what is inside a line is not looked at
    return parser.configure("commonmark").enable("table").disable("inline")


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    part: Part
    level: int | None  # of a heading, else None


def _blocks(tokens: list[Any], starts: np.ndarray, start: int, end: int) -> list[_Block]:
    """Build blocks that cover the text from `start` to `end`, each with the blocks inside it."""
    opened = _outermost(tokens)
    begins = [min(end, max(start, int(starts[token.map[0]]))) for token, _ in opened]
    bounds = itertools.pairwise([start, *begins[1:], end])
    return [_block(*each, starts, *bound) for each, bound in zip(opened, bounds, strict=False)]


def _block(token: Any, inner: list[Any], starts: np.ndarray, start: int, end: int) -> _Block:
    level = int(token.tag[1]) if token.type == "heading_open" else None
    if token.type in _VERBATIM:
        return _Block(Part(start, end, (), "lines"), level)
    return _Block(_whole(_blocks(inner, starts, start, end), start, end), level)


def _whole(blocks: list[_Block], start: int, end: int) -> Part:
    """Put blocks that cover a span into one part; one block is it by itself."""
    if len(blocks) == 1:
        return blocks[0].part
    return Part(start, end, tuple(block.part for block in blocks))


def _outermost(tokens: list[Any]) -> list[tuple[Any, list[Any]]]:
    """Find the tokens that open a block of this level, each with the tokens inside the block."""
    opened: list[tuple[Any, list[Any]]] = []
    depth, first = 0, None
    inner: list[Any] = []
    for token in tokens:
        if depth == 0 and token.nesting >= 0:
            first, inner = token, []
        elif token.nesting >= 0 or depth > 1:
            inner.append(token)
        depth += token.nesting
        if depth == 0 and first is not None and first.map is not None and first.type != "inline":
            opened.append((first, inner))
            first = None
    return opened


def _sections(blocks: list[_Block], start: int, end: int) -> list[Part]:
    """Return the text before the first heading, and one part per section of the highest level."""
    levels = [block.level for block in blocks if block.level is not None]
    if not levels:
        return [_whole(blocks, start, end)] if blocks else []
    highest = min(levels)
    heads = [i for i, block in enumerate(blocks) if block.level == highest]
    parts = _sections(blocks[: heads[0]], start, blocks[heads[0]].part.start)
    for head, next_head in itertools.pairwise([*heads, len(blocks)]):
        first = blocks[head].part.start
        last = blocks[next_head].part.start if next_head < len(blocks) else end
        heading = dataclasses.replace(blocks[head], level=None)
        below = _sections([heading, *blocks[head + 1 : next_head]], first, last)
        only = len(below) == 1
        parts.append(below[0] if only else Part(first, last, tuple(below), separate=True))
    return parts
