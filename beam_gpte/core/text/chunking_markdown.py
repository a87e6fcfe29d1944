"""Divide a Markdown text into sections, and these into paragraphs, lists, code blocks and tables.

Parsed by markdown-it-py (CommonMark, with tables). A section is a heading and the text up to the
next heading of its level or above; text before the first heading is a part by itself. Code, HTML
and tables are cut by lines, everything else by sentences.
"""

import dataclasses
import itertools
import re
from typing import Any

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Part

_LINE_END = re.compile(r"\r\n|\r|\n")  # as the parser counts lines
_VERBATIM = ("fence", "code_block", "html_block", "table_open")


def markdown_parts(text: str) -> list[Part]:
    """Divide a text into its sections of the highest level, each with its subsections.

    The parts cover the text.
    """
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    starts += [len(text)] * 2  # the parser may count one line too many
    blocks = _blocks(_parser().parse(text), starts, 0, len(text))
    return _sections(blocks, 0, len(text)) or [Part(0, len(text))]


def _parser() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise InputError(
            "chunks of Markdown need markdown-it-py; pip install 'beam-gpte[chunks]'"
        ) from error
    return MarkdownIt("commonmark").enable("table")


@dataclasses.dataclass(frozen=True)
class _Block:
    part: Part
    level: int | None  # of a heading, else None


def _blocks(tokens: list[Any], starts: list[int], start: int, end: int) -> list[_Block]:
    """Build blocks that cover the text from `start` to `end`, each with the blocks inside it."""
    opened = _outermost(tokens)
    begins = [min(end, max(start, starts[token.map[0]])) for token, _ in opened]
    bounds = itertools.pairwise([start, *begins[1:], end])
    blocks = []
    for (token, inner), (first, last) in zip(opened, bounds, strict=False):
        level = int(token.tag[1]) if token.type == "heading_open" else None
        if token.type in _VERBATIM:
            part = Part(first, last, (), "lines")
        else:
            part = Part(
                first, last, tuple(block.part for block in _blocks(inner, starts, first, last))
            )
        blocks.append(_Block(part, level))
    return blocks


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
        return [Part(start, end, tuple(block.part for block in blocks))] if blocks else []
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
