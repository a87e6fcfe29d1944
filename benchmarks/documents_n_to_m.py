"""Make documents whose sentences are merged, split and left out, with their right alignment.

The file is as for `bitext_documents.py`: columns `lang` (de, en), `doc`, `par`, `sent`, `text`.
Paragraphs with equally many sentences on both sides are pairs of sentences, one by one; a paragraph
of one sentence on one side and two or three on the other is one bead as it is; others are left out.
Many short documents in a row make a long one. Then, at random,

- two or three sentences of one side in a row become one,
- a sentence of one side is cut in two, at a comma, a colon or a conjunction,
- a sentence is cut, and its first part joins the sentence before: a bead of 2:2,
- a sentence of one side is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

Sides = tuple[list[str], list[str]]
Range = tuple[int, int, int, int]  # the sources from and to, the targets from and to

_CUT = re.compile(r"(?<=[,;:]) | (?=(?:und|and|oder|or|sowie|which|that) )")
_SHORTEST = 20  # characters of a part
MERGED_TWO, MERGED_THREE, SHIFTED, CUT, LEFT_OUT = 0.10, 0.02, 0.03, 0.14, 0.06


class Document(NamedTuple):
    """Hold the sentences of a document and its translation, and how they belong together."""

    source: list[str]
    target: list[str]
    gold: list[Range]


def make_documents(path: Path, seed: int, count: int, parts: int) -> list[Document]:
    """Make `count` documents of `parts` short ones each, with changes drawn by the seed."""
    random = np.random.default_rng(seed)
    short = list(_short_documents(path))
    order = random.permutation(len(short))[: count * parts]
    documents = []
    for chosen in np.array_split(order, count):
        beads = [bead for number in chosen for bead in short[number]]
        documents.append(_document(list(_changed(beads, random))))
    return documents


def _short_documents(path: Path) -> Iterator[list[Sides]]:
    table = pl.read_parquet(path, columns=["lang", "doc", "par", "sent", "text"])
    table = table.with_columns(pl.col("lang", "doc").cast(pl.String)).sort("doc", "par", "sent")
    for _, document in sorted(table.partition_by("doc", as_dict=True).items()):
        beads: list[Sides] = []
        for paragraph in document.partition_by("par", maintain_order=True):
            source, target = (
                paragraph.filter(pl.col("lang") == lang)["text"].to_list() for lang in ("de", "en")
            )
            if len(source) == len(target):
                beads += [([s], [t]) for s, t in zip(source, target, strict=True)]
            elif min(len(source), len(target)) == 1 and max(len(source), len(target)) <= 3:
                beads.append((source, target))
        if beads:
            yield beads


def _changed(beads: list[Sides], random: np.random.Generator) -> Iterator[Sides]:
    i = 0
    while i < len(beads):
        drawn, side = random.random(), int(random.integers(2))
        taken, made = _change(beads[i : i + 3], drawn, side, random)
        yield made
        i += taken


def _change(
    beads: list[Sides], drawn: float, side: int, random: np.random.Generator
) -> tuple[int, Sides]:
    """Change the first of some beads, with those after it; return how many that takes."""
    singles = 0
    while singles < len(beads) and len(beads[singles][0]) == len(beads[singles][1]) == 1:
        singles += 1
    edges = np.cumsum([MERGED_TWO, MERGED_THREE, SHIFTED, CUT, LEFT_OUT])
    kind = int(np.searchsorted(edges, drawn, side="right"))
    for at, needed in ((0, 2), (1, 3)):
        if kind == at and singles >= needed:
            joined = _joined(beads[:needed])
            joined[side][:] = [" ".join(joined[side])]
            return needed, joined
    if kind == 2 and singles >= 2 and (halves := _cut(beads[1][side][0], random)):
        joined = _joined(beads[:2])
        joined[side][:] = [f"{joined[side][0]} {halves[0]}", halves[1]]
        return 2, joined
    if kind == 3 and singles and (halves := _cut(beads[0][side][0], random)):
        joined = _joined(beads[:1])
        joined[side][:] = halves
        return 1, joined
    if kind == 4 and singles:
        joined = _joined(beads[:1])
        joined[side].clear()
        return 1, joined
    return 1, beads[0]


def _joined(beads: list[Sides]) -> Sides:
    source, target = ([text for bead in beads for text in bead[side]] for side in (0, 1))
    return source, target


def _cut(text: str, random: np.random.Generator) -> list[str]:
    """Cut a text in two at one of the places where that looks natural; nothing if it has none."""
    starts = (match.start() for match in _CUT.finditer(text))
    places = [at for at in starts if _SHORTEST <= at <= len(text) - _SHORTEST]
    if not places:
        return []
    at = int(random.choice(places))
    return [text[:at].strip(), text[at:].strip()]


def _document(beads: list[Sides]) -> Document:
    gold, i, j = [], 0, 0
    for source, target in beads:
        gold.append((i, i + len(source), j, j + len(target)))
        i, j = i + len(source), j + len(target)
    return Document(*_joined(beads), gold)
