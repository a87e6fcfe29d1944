r"""Measure how the search grows, by shards and in cells, and the whole of `MineBitext`.

    python benchmarks/bitext_growth.py FILE.parquet --model MODEL [--sizes 25000,50000] \
        [--methods NAME ...]

The file is that of `bitext.py`; rows beyond it are sums of two others of their side. `by shards` is
what workers do, `core.vectors.neighbors` for every two shards of at most 65,536 rows, merged; `in
cells` the same in the cells of `core.vectors.cells`. Both hold all vectors besides. `MineBitext`
runs on Beam's in-process runner, which holds all shuffled data in memory. CPU seconds with one
thread, once each, and the peak memory of a separate process.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bitext import K, embedded, in_child, run_child, vectors

from beam_gpte.core.process import claim_process


def grown(path: Path, name: str, rows: int) -> np.ndarray:
    """Return the file's vectors of a side, and sums of two of them, up to `rows`."""
    stored = vectors(path, name, rows)
    more = max(0, rows - len(stored))
    pairs = np.random.default_rng(len(name)).integers(0, len(stored), (2, more))
    sums = stored[pairs[0]] + stored[pairs[1]]
    return np.concatenate([stored, sums / np.linalg.norm(sums, axis=1, keepdims=True)])


def centered(vectors: np.ndarray) -> np.ndarray:
    """Subtract the mean and normalize, as the transform does by default."""
    moved = vectors - vectors.mean(axis=0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def parts_of_shards(rows: int) -> list[list[np.ndarray]]:
    """List the rows of both sides that are compared with one another: all with all."""
    from beam_gpte.neighbors.plan import SHARD_ROWS

    cut = np.array_split(np.arange(rows), -(-rows // SHARD_ROWS))
    return [[source, target] for source in cut for target in cut]


def parts_of_cells(sides: list[np.ndarray]) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """List the rows of both sides that are compared with one another, those of a cell.

    Returns:
      These, and what rows are compared by.
    """
    from beam_gpte.core.vectors.cells import fit_cells
    from beam_gpte.neighbors.plan import SAMPLE, SHARD_ROWS

    rows = len(sides[0])
    cells = fit_cells((sides[0][:SAMPLE], sides[1][:SAMPLE]), (rows, rows), SHARD_ROWS)
    routed = [cells.route(side, np.arange(rows) * 7919, i) for i, side in enumerate(sides)]
    orders = [keys.argsort() for _, keys in routed]
    at = [places[order] for (places, _), order in zip(routed, orders, strict=True)]
    keys = [keys[order] for (_, keys), order in zip(routed, orders, strict=True)]
    parts = []
    for key in np.intersect1d(*keys):
        edges = [np.searchsorted(side, [key, key + 1]) for side in keys]
        parts.append([side[start:stop] for side, (start, stop) in zip(at, edges, strict=True)])
    return parts, cells.sketch


def search(
    sides: list[np.ndarray], parts: list[list[np.ndarray]], sketch: np.ndarray | None = None
) -> list[Any]:
    """Find the neighbors of both sides' rows among those that they are compared with."""
    from beam_gpte.core.vectors.neighbors import merge_neighbors, nearest_neighbors, no_neighbors

    found = [no_neighbors(len(side), K, np.dtype(np.int64)) for side in sides]
    for source, target in parts:
        near = nearest_neighbors(sides[0][source], source, sides[1][target], target, K, sketch)
        for whole, new, part in zip(found, near, (source, target), strict=True):
            whole.ids[part], whole.cosines[part] = _merged(
                type(new)(whole.ids[part], whole.cosines[part]), new, merge_neighbors
            )
    return found


def _merged(before: Any, new: Any, merge: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """Merge neighbors, each id once: two rows may share several cells."""
    seen = (new.ids[:, :, None] == before.ids[:, None]).any(axis=2)
    new = type(new)(new.ids.copy(), np.where(seen, np.float32(-np.inf), new.cosines))
    new.ids[seen] = np.iinfo(new.ids.dtype).max
    merged = merge(before, new)
    return merged.ids, merged.cosines


def by_shards(path: Path, rows: int, cells: bool) -> Callable[[], object]:
    both = [grown(path, name, rows) for name in ("source", "target")]

    def run() -> None:
        if cells:
            sides = [centered(side) for side in both]
            search(sides, *parts_of_cells(sides))
        else:
            search(both, parts_of_shards(rows))

    return run


def mine_grown(path: Path, rows: int) -> Callable[[], object]:
    import apache_beam as beam

    from beam_gpte import Block, MineBitext, WriteVectorsToParquet
    from beam_gpte.core.vectors.similarity import vectors_to_arrow

    def read(name: str) -> Iterator[Any]:
        whole = grown(path, name, rows)
        for start in range(0, rows, 256):
            ids = [f"{name}{i}" for i in range(start, min(rows, start + 256))]
            columns = {
                "id": ids,
                "text": [f"{id_}: as many characters as a sentence has" for id_ in ids],
            }
            yield Block.from_pydict(
                {**columns, "embedding": vectors_to_arrow(whole[start : start + 256])}
            )

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, beam.Pipeline("FnApiRunner") as p:
            names = ("source", "target")
            both = {name: p | name >> beam.Create([name]) for name in names}
            both = {
                name: both[name] | f"read {name}" >> beam.FlatMap(read).with_output_types(Block)
                for name in names
            }
            (both | MineBitext()).pairs | WriteVectorsToParquet(folder)

    return run


METHODS: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "search, by shards": lambda path, rows: by_shards(path, rows, False),
    "search, in cells": lambda path, rows: by_shards(path, rows, True),
    "MineBitext": mine_grown,
}


def growth(options: argparse.Namespace) -> None:
    """Print each size, and its ratio to the previous one."""
    print(f"{'method':20}{'rows':>9}{'CPU s':>9}{'peak MB':>9}{'x CPU':>8}{'x MB':>8}")
    for method in options.methods:
        last: dict = {}
        for rows in map(int, options.sizes.split(",")):
            cost = in_child(__file__, options, method, rows)
            ratios = [cost[name] / last[name] for name in ("cpu", "mb")] if last else []
            shown = "".join(f"{ratio:8.2f}" for ratio in ratios)
            print(f"{method:20}{rows:9}{cost['cpu']:9.1f}{cost['mb']:9.0f}{shown}", flush=True)
            last = cost


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", help="embeds the texts; not needed for a file with vectors")
    parser.add_argument("--sizes", default="25000,50000,100000", help="rows per side")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.child:
        run_child(METHODS[options.child], options)
        return
    options.file = embedded(options.file, options.model)
    growth(options)


if __name__ == "__main__":
    main()
