r"""Measure what the search in cells costs and finds, against the exact search of a sample.

    python benchmarks/bitext_cells.py FILE.parquet [--rows 200000] [--sampled 1000]

The file is that of `bitext.py`, with vectors. Sides of any size are made of it, as follows. A tenth
of the rows are translations: the sum of two known translations, plus a random vector with the
covariance of all known ones, the same on both sides. The others are the sum of two rows of their
side, plus a random vector with the covariance of that side, 0.7 times as long. So
translations are as far apart as those of the file; the random parts keep cells from being those of
the file's rows.

Recall: the mutual best pairs of sampled sources by the exact search, those of a margin of at least
0.15, and those that are known translations; and how many of them are mutual best pairs of the
search in cells. Half of the sampled sources are known translations.

Cost: CPU seconds of one thread of the search in cells (centering, fitting and routing included) of
half and of all rows. Those of all are predicted from the half: what a row costs, and what products
cost, which is measured apart. Then those of 10 million a side.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bitext import K, side, vectors
from bitext_growth import centered, parts_of_cells, search

from beam_gpte.core.process import claim_process
from beam_gpte.core.vectors.cells import NEAREST, SKETCH_DIMS, cells_for, products_share
from beam_gpte.core.vectors.neighbors import nearest_neighbors
from beam_gpte.core.vectors.similarity import unit_rows

TRANSLATIONS = 0.1
# Of translations of Debian's descriptions that cells were not fitted to, 97.7 and 98.8 % share
# one of 1,024 cells (nearest 6 and 8, 6,500 rows a side); of those made with 0.5 98.3, 99.5,
# with 1 95.9, 98.4 %.
NOISE = 0.7
THRESHOLD = 0.15
MANY = 10_000_000


class Made(NamedTuple):
    """Hold two sides, centered, and which target translates each source, -1 for none."""

    sides: list[np.ndarray]
    partner: np.ndarray


def made(path: Path, rows: int) -> Made:
    random = np.random.default_rng(0)
    known, pools = _known(path)
    count = int(TRANSLATIONS * rows)
    pairs = random.integers(0, len(known[0]), (2, count))
    drawn = random.standard_normal((count, 2 * known[0].shape[1]), np.float32)
    noise = np.split(drawn @ _root(np.concatenate(known, axis=1)), 2, axis=1)
    sides, orders = [], []
    for at in (0, 1):
        together = _blend(known[at], pairs, noise[at])
        others = random.integers(0, len(pools[at]), (2, rows - count))
        drawn = random.standard_normal((rows - count, known[0].shape[1]), np.float32)
        whole = np.concatenate([together, _blend(pools[at], others, drawn @ _root(pools[at]))])
        orders.append(random.permutation(rows))
        sides.append(centered(whole[orders[-1]]).astype(np.float32))
    place = np.argsort(orders[1])
    return Made(sides, np.where(orders[0] < count, place[orders[0]], -1))


def _blend(of: np.ndarray, pairs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return unit_rows(unit_rows(of[pairs[0]] + of[pairs[1]]) + NOISE * unit_rows(noise))


def _root(rows: np.ndarray) -> np.ndarray:
    """Return a matrix whose product with standard normals has the covariance of the rows."""
    numbers = rows.astype(np.float64)
    values, directions = np.linalg.eigh(numbers.T @ numbers / len(rows))
    return (directions * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)


def _known(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the known translations, and all rows, of both sides, centered."""
    names = ("source", "target")
    gold = [side(path, name)["gold"].to_pylist() for name in names]
    pools = [centered(vectors(path, name, None)) for name in names]
    places = [{value: at for at, value in enumerate(of) if value is not None} for of in gold]
    both = sorted(places[0].keys() & places[1].keys())
    return [
        pool[[at[value] for value in both]] for pool, at in zip(pools, places, strict=True)
    ], pools


def _nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the K largest products of each row, by all products."""
    found = []
    for start in range(0, len(rows), 256):
        products = rows[start : start + 256] @ others.T
        at = np.argpartition(products, -K, axis=1)[:, -K:]
        found.append((at, np.take_along_axis(products, at, axis=1)))
    ids, cosines = zip(*found, strict=True)
    return np.concatenate(ids), np.concatenate(cosines)


def exact_pairs(made: Made, sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the mutual best pairs of sampled sources: sources, targets, margins."""
    source, target = made.sides
    near, cosines = _nearest(source[sampled], target)
    targets = np.unique(near)
    back, back_cosines = _nearest(target[targets], source)
    back_means = back_cosines.mean(axis=1)
    margins = cosines - (cosines.mean(axis=1)[:, None] + _at(targets, near, back_means)) / 2
    rows, best = np.arange(len(sampled)), margins.argmax(axis=1)
    partner = near[rows, best]
    backs, back_cosines = (
        values[np.searchsorted(targets, partner)] for values in (back, back_cosines)
    )
    sources = np.unique(backs)
    means = _nearest(source[sources], target)[1].mean(axis=1)
    # the mean of the target is the same in all of its margins
    mutual = backs[rows, (back_cosines - _at(sources, backs, means) / 2).argmax(axis=1)] == sampled
    return sampled[mutual], partner[mutual], margins[rows, best][mutual]


def _at(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.searchsorted(keys, wanted)]


def mutual_best(found: list[Any]) -> np.ndarray:
    """Return the mutual best target of each source, -1 for none, given neighbors of both sides."""
    means = [
        np.ma.masked_invalid(one.cosines).mean(axis=1).filled(0).astype(np.float32) for one in found
    ]
    best = []
    for at in (0, 1):
        near, cosines = found[at].ids, found[at].cosines
        there = np.isfinite(cosines)
        margins = cosines - means[1 - at][np.where(there, near, 0)] / 2
        place = np.where(there, margins, -np.inf).argmax(axis=1)[:, None]
        ids = np.take_along_axis(np.where(there, near, -1), place, axis=1)[:, 0]
        best.append(ids)
    back = np.where(best[0] >= 0, best[1][np.maximum(best[0], 0)], -1)
    return np.where(back == np.arange(len(back)), best[0], -1)


def timed(sides: list[np.ndarray]) -> tuple[float, float, list[Any]]:
    """Search in cells: CPU seconds, products in cells, neighbors."""
    began = time.process_time()
    centered_sides = [centered(one) for one in sides]
    parts, sketch = parts_of_cells(centered_sides)
    found = search(centered_sides, parts, sketch)
    seconds = time.process_time() - began
    rows = len(sides[0])
    compared = sum(len(source) * len(target) for source, target in parts)
    print(
        f"{rows} a side in {cells_for(rows, rows)} cells, {NEAREST} of a row: {seconds:.1f} CPU s, "
        f"1/{rows * rows / compared:.0f} of the products, estimated "
        f"1/{1 / products_share(rows, rows):.0f}",
        flush=True,
    )
    return seconds, float(compared), found


class Costs(NamedTuple):
    """Hold CPU seconds: of a product of two sketches in a cell, and of one with a centroid."""

    product: float
    routing: float

    def of(self, rows: int, products: float) -> float:
        """Return the seconds of all products of so many rows a side."""
        return products * self.product + 2.0 * rows * cells_for(rows, rows) * self.routing


def measured_costs(dim: int) -> Costs:
    """Measure them apart from what a row costs: by cells of 8,192 and of 16,384 rows."""
    random = np.random.default_rng(0)
    sketch = np.linalg.qr(random.standard_normal((dim, SKETCH_DIMS)))[0].astype(np.float32)
    few, many = 8192, 16_384
    sides = [unit_rows(random.standard_normal((many, dim), np.float32)) for _ in range(2)]

    def seconds(rows: int) -> float:
        ids = np.arange(rows)
        began = time.process_time()
        nearest_neighbors(sides[0][:rows], ids, sides[1][:rows], ids, K, sketch)
        return time.process_time() - began

    seconds(512)
    product = (seconds(many) - 2 * seconds(few)) / (many**2 - 2 * few**2)
    began = time.process_time()
    sides[0] @ sides[1][:2048].T
    costs = Costs(product, (time.process_time() - began) / (many * 2048))
    nanoseconds = " and ".join(f"{1e9 * seconds:.1f}" for seconds in costs)
    print(f"a product in a cell and one of routing: {nanoseconds} ns", flush=True)
    return costs


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--sampled", type=int, default=1000)
    options = parser.parse_args()
    whole = made(options.file, options.rows)
    costs = measured_costs(whole.sides[0].shape[1])
    few = options.rows // 2
    seconds, products, _ = timed([one[:few] for one in whole.sides])
    rest = (seconds - costs.of(few, products)) / (2 * few)
    print(f"the rest {1e6 * rest:.0f} microseconds a row", flush=True)
    estimated = options.rows**2 * products_share(options.rows, options.rows)
    predicted = 2 * options.rows * rest + costs.of(options.rows, estimated)
    seconds, _, found = timed(whole.sides)
    print(f"{predicted:.1f} CPU s predicted, {predicted / seconds:.2f} of those measured")
    many = costs.of(MANY, MANY**2 * products_share(MANY, MANY))
    print(
        f"{MANY} a side: {many / 3600:.1f} CPU hours of products, {2 * MANY * rest / 3600:.1f} of "
        "the rest of the search",
        flush=True,
    )
    random = np.random.default_rng(1)
    known = np.flatnonzero(whole.partner >= 0)
    other = np.flatnonzero(whole.partner < 0)
    half = options.sampled // 2
    sampled = np.sort(np.concatenate([random.choice(of, half, False) for of in (known, other)]))
    began = time.process_time()
    sources, targets, margins = exact_pairs(whole, sampled)
    print(f"exact search of {len(sampled)}: {time.process_time() - began:.0f} CPU s")
    same = mutual_best(found)[sources] == targets
    right = whole.partner[sources] == targets
    for name, of in (
        ("all mutual best pairs", np.ones(len(same), bool)),
        (f"of a margin of at least {THRESHOLD}", margins >= THRESHOLD),
        ("known translations", right),
    ):
        print(f"{name}: {same[of].sum()} of {of.sum()}, {same[of].mean():.3f}")


if __name__ == "__main__":
    main()
