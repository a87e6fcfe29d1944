"""Align the sentences of a document and its translation: beads of n:m sentences, in order.

Thompson and Koehn, "Vecalign: improved sentence alignment in linear time and space" (EMNLP 2019). A
bead joins p adjacent sentences with q adjacent sentences, or skips one sentence. The alignment is
the sequence of beads of minimum total cost that takes every sentence of both documents once;
`bead_costs` says what one costs. The sentences are aligned one to one first, without their lengths:
that shows how much longer a translation is.

Documents of up to `WHOLE` pairs of positions are aligned exactly. Longer ones are aligned from
coarse to fine: adjacent sentences are averaged two by two until the documents are short, these are
aligned one to one, and each finer level is searched in a band around the path before it, see
`bands`. Time and memory grow with n + m.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.bands import Band, band_around, whole_band
from beam_gpte.core.mining.bead_costs import BeadCosts, Sentences, halved, length_ratio

WHOLE = 1 << 20  # pairs of positions that are all searched: 1 MB of the kinds of beads


class Bead(NamedTuple):
    """Pair a range of source sentences with a range of target sentences; stops are exclusive.

    One of the two is empty where a sentence is skipped.
    """

    source_start: int
    source_stop: int
    target_start: int
    target_stop: int
    cost: float


def align(source: Sentences, target: Sentences, skip: float, whole: int = WHOLE) -> list[Bead]:
    """Align two documents; of equally cheap last beads choose fewer sources, then fewer targets.

    In a gap, skipped sources come before skipped targets.

    Args:
      source: the sentences of the document.
      target: those of its translation.
      skip: the cost of a skipped sentence, see `skip_cost`.
      whole: the number of pairs of positions up to which all are searched.

    Returns:
      The beads in order.

    Raises:
      InputError: the dimensions of the two sides differ.
    """
    if source.dim != target.dim:
        raise InputError(
            f"vectors of {source.dim} and {target.dim} dimensions on the two sides; embed both "
            "sides with the same model"
        )
    if not len(source) or not len(target):
        band = whole_band(len(source), len(target))
        return _beads(BeadCosts(source, target), [], skip, band)
    alone = source.alone(), target.alone()
    band = _band(*alone, skip, whole)
    ones = _beads(BeadCosts(*alone), [(1, 1)], skip, band)
    pairs = [(b.source_start, b.target_start) for b in ones if b.cost < skip]
    costs = BeadCosts(source, target, length_ratio(source, target, pairs))
    sizes = range(1, source.max_span + 1), range(1, target.max_span + 1)
    return _beads(costs, [*itertools.product(*sizes)], skip, band)


def _band(source: Sentences, target: Sentences, skip: float, whole: int) -> Band:
    """Choose the positions to search: all of short documents, else those around a coarser path."""
    if (len(source) + 1) * (len(target) + 1) <= whole or min(len(source), len(target)) < 2:
        return whole_band(len(source), len(target))
    coarse = halved(source), halved(target)
    band = _band(*coarse, skip, whole)
    path = [(0, 0)]
    for bead in _beads(BeadCosts(*coarse), [(1, 1)], skip, band):
        i, j = 2 * bead.source_stop, 2 * bead.target_stop
        path.append((min(i, len(source)), min(j, len(target))))
    return band_around(path, len(source), len(target))


def _beads(
    costs: BeadCosts, sizes: Sequence[tuple[int, int]], skip: float, band: Band
) -> list[Bead]:
    """Find the cheapest path within a band, of beads of these sizes and skips."""
    kinds = [*sizes, (1, 0), (0, 1)]
    last = _last_beads(costs, kinds, skip, band)
    beads = []
    i, j = len(band.first) - 1, int(band.last[-1])
    while i or j:
        p, q = kinds[last[i][j - band.first[i]]]
        beads.append(Bead(i - p, i, j - q, j, costs.of(i, p, j, q) if p and q else skip))
        i, j = i - p, j - q
    return _in_order(beads[::-1])


def _in_order(beads: list[Bead]) -> list[Bead]:
    """Put the skipped sources of a gap before its skipped targets; all orders cost the same.

    Which order is cheaper by a last bit depends on the band.
    """
    ordered: list[Bead] = []
    for is_gap, some in itertools.groupby(beads, _is_skip):
        run = list(some)
        if is_gap:
            i, j, cost = run[0].source_start, run[0].target_start, run[0].cost
            last = run[-1]
            sources = [Bead(k, k + 1, j, j, cost) for k in range(i, last.source_stop)]
            stop = last.source_stop
            run = sources + [Bead(stop, stop, k, k + 1, cost) for k in range(j, last.target_stop)]
        ordered += run
    return ordered


def _is_skip(bead: Bead) -> bool:
    return bead.source_start == bead.source_stop or bead.target_start == bead.target_stop


def _last_beads(
    costs: BeadCosts, kinds: list[tuple[int, int]], skip: float, band: Band
) -> list[np.ndarray]:
    """Find the kind of the last bead of the first i and the first j sentences, by i, then j."""
    largest = max(p for p, _ in kinds)
    last: list[np.ndarray] = []
    # float64, by j: costs of aligning the first i and the first j sentences, the last i first
    totals: list[np.ndarray] = []
    for i, (low, high) in enumerate(zip(band.first.tolist(), band.last.tolist(), strict=True)):
        total = np.full(high - low + 1, np.inf)
        kind_of = np.zeros(len(total), np.min_scalar_type(len(kinds)))
        if i == 0:
            total[0] = 0
        ending = costs.ending_at(i, low, high)
        for kind, (p, q) in enumerate(kinds[:-1]):
            if p > i:
                continue
            before = int(band.first[i - p])
            start, stop = max(low, before + q), min(high, int(band.last[i - p]) + q) + 1
            if start >= stop:
                continue
            here = slice(start - low, stop - low)
            reached = totals[p - 1][start - q - before : stop - q - before]
            reached = reached + (ending[p - 1, q - 1, here] if q else skip)
            cheaper = reached < total[here]
            total[here][cheaper], kind_of[here][cheaper] = reached[cheaper], kind
        # skip any number of targets: total[j] = min over h <= j of total[h] + (j - h) skip, which
        # is a running minimum
        skips = skip * np.arange(len(total))
        level = total - skips
        lowest = np.minimum.accumulate(level)
        cheaper = lowest < level
        total[cheaper], kind_of[cheaper] = (lowest + skips)[cheaper], len(kinds) - 1
        totals = [total, *totals][:largest]
        last.append(kind_of)
    return last
