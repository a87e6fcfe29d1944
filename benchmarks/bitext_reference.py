"""Mine as LASER's mine_bitexts does, in NumPy and float64, as a reference for `bitext.py`."""

import numpy as np


def mine_in_numpy(
    ids: list[list[str]], both: list[np.ndarray], k: int, retrieval: str
) -> set[tuple[str, str]]:
    """Return the pairs by ratio margin over k neighbors.

    Args:
      ids: of the sources and of the targets.
      both: their vectors, float64 (n, dim).
      k: neighbors.
      retrieval: ``max`` or ``intersection``.
    """
    near, means = zip(
        *(_nearest(queries, others, k) for queries, others in (both, both[::-1])), strict=True
    )
    best_of = []
    for turn, neighbors in enumerate(near):
        ratios = means[turn] / (
            (means[turn].mean(axis=1)[:, None] + means[1 - turn].mean(axis=1)[neighbors]) / 2
        )
        chosen = ratios.argmax(axis=1)
        rows_of = np.arange(len(neighbors))
        pairs = np.stack([rows_of, neighbors[rows_of, chosen]][:: 1 if turn == 0 else -1], axis=1)
        best_of.append(
            dict(zip(map(tuple, pairs.tolist()), ratios[rows_of, chosen].tolist(), strict=True))
        )
    found = set(best_of[0]) & set(best_of[1])
    if retrieval == "max":
        found = _one_to_one(best_of[0] | best_of[1])
    return {(ids[0][i], ids[1][j]) for i, j in found}


def _nearest(queries: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the k nearest, and their cosines."""
    parts = []
    for start in range(0, len(queries), 500):
        products = queries[start : start + 500] @ others.T
        best = np.argsort(-products, axis=1, kind="stable")[:, :k]
        parts.append((best, np.take_along_axis(products, best, axis=1)))
    return np.concatenate([best for best, _ in parts]), np.concatenate([c for _, c in parts])


def _one_to_one(margins: dict[tuple[int, int], float]) -> set[tuple[int, int]]:
    """Take the pairs of the largest margins, as long as both rows are free."""
    found: set[tuple[int, int]] = set()
    taken: tuple[set[int], set[int]] = (set(), set())
    for i, j in sorted(margins, key=lambda pair: -margins[pair]):
        if i not in taken[0] and j not in taken[1]:
            found.add((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return found
