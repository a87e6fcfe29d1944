"""Lay out vectors on a map, and name its regions: `vector_map(vectors, ids, texts, columns)`.

vectors --> principal components --> t-SNE --> positions --> HDBSCAN --> regions, named by words

The same vectors are laid out in the same way: the seed is fixed, and sums are made by one thread.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_gpte.reports.charts import Chart

COMPONENTS = 50  # that t-SNE starts from: distances of more are the same but for noise
PERPLEXITY = 30
ITERATIONS = 500  # later ones move points of a few thousand by less than their size
SEED = 0
MIN_LAYOUT = 8  # points
MIN_REGION = 8  # points
REGIONS = 50  # a smaller share of the points than one of these makes no region
MIN_SAMPLES = 3  # of HDBSCAN; with 5 or more, most maps of texts are one region
WORDS = 3  # that name a region
ELSEWHERE = "between regions"
REGION = "region"
MAX_TEXT = 300  # characters of a text at a point
MAX_NAMES = 40  # of a column of names; more tell nothing by color


@dataclasses.dataclass(frozen=True)
class VectorMap(Chart):
    """Show points with their ids and texts.

    Attributes:
      xy: floats (n, 2).
      ids: of each point.
      texts: of each point.
      columns: values of each point, to color by, by name.
      joined: the first half of the points is joined with the second, one by one.
    """

    xy: np.ndarray
    ids: Sequence[str]
    texts: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    joined: bool = False

    @property
    def wide(self) -> bool:
        """Return whether it takes the whole width of a page."""
        return True

    def data(self) -> dict[str, Any]:
        """Return what `page.js` draws."""
        return {
            "kind": "map",
            "x": self.xy[:, 0].round(2).tolist(),
            "y": self.xy[:, 1].round(2).tolist(),
            "ids": list(self.ids),
            "texts": list(self.texts),
            "columns": [_column(name, values) for name, values in self.columns.items()],
            "joined": self.joined,
        }


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Describe values as numbers, as names to color by, or as words that are shown only."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and type(value) is not bool for value in known):
        return {"name": name, "kind": "number", "values": [_finite(value) for value in values]}
    shown = [_name(value) for value in values]
    few = len(set(shown)) <= MAX_NAMES
    return {"name": name, "kind": "names" if few else "words", "values": shown}


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def vector_map(
    vectors: np.ndarray,
    ids: Sequence[Any],
    texts: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    joined: bool = False,
) -> VectorMap:
    """Lay out vectors, floats (n, dim), with their regions as the first column.

    Args:
      vectors: to lay out.
      ids: of them.
      texts: of them, which name the regions.
      columns: values of each, by name.
      joined: see `VectorMap`.
    """
    xy = positions(vectors)
    regions = name_regions(find_regions(xy), texts)
    found = {REGION: regions} if len(set(regions)) > 1 else {}
    shown = [text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…" for text in texts]
    return VectorMap(xy, [str(id_) for id_ in ids], shown, {**found, **columns}, joined)


def positions(vectors: np.ndarray) -> np.ndarray:
    """Lay out floats (n, dim) in two dimensions, so that near ones stay near; float64 (n, 2).

    By t-SNE (van der Maaten and Hinton, 2008), from the principal components; fewer than
    `MIN_LAYOUT` points by these alone.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    vectors = np.ascontiguousarray(vectors, np.float64)
    if len(vectors) < 2 or np.ptp(vectors, axis=0).max() < 1e-9:
        return np.zeros((len(vectors), 2))
    count = min(COMPONENTS, *vectors.shape)
    # sums of several threads differ in their last bits, which t-SNE magnifies
    with threadpool_limits(limits=1):
        reduced = PCA(count, svd_solver="full", random_state=SEED).fit_transform(vectors)
        first = np.zeros((len(vectors), 2))
        first[:, : min(2, count)] = reduced[:, :2]
        if len(vectors) < MIN_LAYOUT:
            return first
        layout = TSNE(
            perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
            init=(first / max(first[:, 0].std(), 1e-12) * 1e-4).astype(np.float32),
            max_iter=ITERATIONS,
            random_state=SEED,
        )
        return np.asarray(layout.fit_transform(reduced.astype(np.float32)), np.float64)


def find_regions(xy: np.ndarray) -> np.ndarray:
    """Find the dense regions of positions, floats (n, 2): int (n,), -1 for points between them.

    By the leaves of HDBSCAN (Campello, Moulavi and Sander, 2013); the largest region is 0.
    """
    smallest = max(MIN_REGION, len(xy) // REGIONS)
    if len(xy) < 2 * smallest:
        return np.full(len(xy), -1)
    from sklearn.cluster import HDBSCAN

    clusters = HDBSCAN(
        min_cluster_size=smallest,
        min_samples=MIN_SAMPLES,
        cluster_selection_method="leaf",
        copy=True,
    )
    found = clusters.fit_predict(xy)
    sizes = np.bincount(found[found >= 0]) if (found >= 0).any() else np.zeros(0, int)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.array([rank[label] if label >= 0 else -1 for label in found])


def name_regions(regions: np.ndarray, texts: Sequence[str]) -> list[str]:
    """Name each region by the words that are more frequent in it than elsewhere.

    A word's weight is what it adds to the divergence (Kullback and Leibler, 1951) of the region's
    words from all words.

    Args:
      regions: int (n,), by `find_regions`.
      texts: n of them.

    Returns:
      The name of each point's region.
    """
    count = int(regions.max(initial=-1)) + 1
    joined = [
        " ".join(texts[i] for i in np.flatnonzero(regions == r).tolist()) for r in range(count)
    ]
    names = _telling_words(joined) if count else []
    unique = [
        name if names.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(names)
    ]
    return [unique[region] if region >= 0 else ELSEWHERE for region in regions]


def _telling_words(texts: Sequence[str]) -> list[str]:
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=r"[^\W\d_]{3,}", max_features=20_000)
    try:
        counts = counter.fit_transform(texts).toarray().astype(np.float64)
    except ValueError:  # no text has a word
        return [f"region {i + 1}" for i in range(len(texts))]
    words = counter.get_feature_names_out()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    everywhere = shares.mean(axis=0)
    weights = shares * np.log(np.maximum(shares, 1e-12) / everywhere) * (counts >= 2)
    names = []
    for i, row in enumerate(weights):
        best = [words[j] for j in np.argsort(-row, kind="stable")[:WORDS] if row[j] > 0]
        names.append(", ".join(best) or f"region {i + 1}")
    return names
