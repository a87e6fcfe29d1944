"""The parts of a Markdown text: sections by their headings, and in them paragraphs, lists, code blocks and tables.

By markdown-it-py (CommonMark, with tables). A section is a heading and what follows it up to the next heading of its level
or above; text before the first heading is a part of its own. Code, HTML and tables are cut by lines, all else by sentences.
"""

import dataclasses
import itertools
import re
from typing import Any

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Part

_LINE_END = re.compile(r"\r\n|\r|\n")  # what the parser counts
_VERBATIM = ("fence", "code_block", "html_block", "table_open")


def markdown_parts(text: str) -> list[Part]:
    """The sections of the highest level, each with its subsections; they cover the text."""
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    starts += [len(text)] * 2  # the parser may count a line more than there is
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
    level: int | None  # of a heading


def _blocks(tokens: list[Any], starts: list[int], start: int, end: int) -> list[_Block]:
    """Blocks that cover the text from `start` to `end`, each with the blocks in it."""
    opened: list[tuple[Any, list[Any]]] = []
    depth, first = 0, None
    inner: list[Any] = []
    for token in tokens:  # blocks of this level with the tokens in them
        if depth == 0 and token.nesting >= 0:
            first, inner = token, []
        elif token.nesting >= 0 or depth > 1:
            inner.append(token)
        depth += token.nesting
        if depth == 0 and first is not None and first.map is not None and first.type != "inline":
            opened.append((first, inner))
            first = None
    begins = [min(end, max(start, starts[token.map[0]])) for token, _ in opened]
    bounds = [start, *begins[1:], end]
    found = []
    for (token, below), (own, stop) in zip(opened, itertools.pairwise(bounds), strict=False):
        level = int(token.tag[1]) if token.type == "heading_open" else None
        verbatim = token.type in _VERBATIM
        children = (
            () if verbatim else tuple(block.part for block in _blocks(below, starts, own, stop))
        )
        found.append(_Block(Part(own, stop, children, "lines" if verbatim else "sentences"), level))
    return found


def _sections(blocks: list[_Block], start: int, end: int) -> list[Part]:
    """What stands before the first heading, and a part for each section of the highest level there is."""
    levels = [block.level for block in blocks if block.level is not None]
    if not levels:
        return [Part(start, end, tuple(block.part for block in blocks))] if blocks else []
    heads = [i for i, block in enumerate(blocks) if block.level == min(levels)]
    parts = _sections(blocks[: heads[0]], start, blocks[heads[0]].part.start)
    for head, following in itertools.pairwise([*heads, len(blocks)]):
        own = blocks[head:following]
        stop = blocks[following].part.start if following < len(blocks) else end
        below = _sections(
            [dataclasses.replace(own[0], level=None), *own[1:]], own[0].part.start, stop
        )
        parts.append(
            below[0] if len(below) == 1 else Part(own[0].part.start, stop, tuple(below), apart=True)
        )
    return parts
