"""Score queries against documents by their token vectors: MaxSim (ColBERT, arXiv 2004.12832).

The score of a pair is the sum, over the vectors of the query, of the largest dot product with a
vector of the document. No padding: documents of a query lie end to end, in tiles.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.quantize import dequantize

TILE = 1 << 20  # dot products at once, 4 MB
BLOCK = 1 << 22  # numbers of documents whose codes are vectors at once, 16 MB


@dataclasses.dataclass(frozen=True)
class TokenVectors:
    """Hold the token vectors of several texts end to end.

    Attributes:
      vectors: float32 or int8 codes (total, dim).
      offsets: int64 (n + 1,), where each text begins and the last ends.
      int8_limit: of codes, as in `quantize`; None where each has its own.
    """

    vectors: np.ndarray
    offsets: np.ndarray
    int8_limit: float | None = None

    @classmethod
    def of(cls, texts: Sequence[np.ndarray]) -> "TokenVectors":
        """Put the vectors of texts, (tokens, dim) each, end to end; there has to be a text."""
        lengths = [len(text) for text in texts]
        return cls(np.concatenate(texts), np.concatenate([[0], np.cumsum(lengths)]).astype(int))

    @property
    def lengths(self) -> np.ndarray:
        """Return the vectors of each text, int64 (n,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        """Return float32 (tokens, dim), codes as vectors of length 1 or of their limit."""
        part = self.vectors[self.offsets[text] : self.offsets[text + 1]]
        if part.dtype == np.int8:
            return dequantize(part, int8_limit=self.int8_limit)
        return part.astype(np.float32, copy=False)


def max_sim(
    queries: TokenVectors, documents: TokenVectors, pairs: np.ndarray, mean: bool = False
) -> np.ndarray:
    """Score pairs of texts by their token vectors.

    Memory is that of the arguments, and of one query and one tile: about `TILE` dot products, or
    those of the longest document. Codes of documents become vectors once, whatever the number of
    queries, about `BLOCK` numbers at once, twice in the memory.

    Args:
      queries: of the first texts.
      documents: of the second texts.
      pairs: int64 (m, 2), a query and a document each.
      mean: divide by the vectors of the query, for scores that do not grow with its length.

    Returns:
      float32 (m,), NaN for a pair of which a text has no vector.

    Raises:
      InputError: the vectors of both sides have different lengths.
    """
    dims = queries.vectors.shape[1], documents.vectors.shape[1]
    if dims[0] != dims[1]:
        raise InputError(
            f"token vectors of {dims[0]} and {dims[1]} dimensions; embed queries and documents "
            "with the same model"
        )
    if documents.vectors.dtype != np.int8:
        return _scores(queries, documents, pairs, mean)
    scores = np.full(len(pairs), np.nan, np.float32)
    for block in _blocks(documents, np.unique(pairs[:, 1])):
        (rows,) = np.nonzero((pairs[:, 1] >= block[0]) & (pairs[:, 1] <= block[-1]))
        here = np.stack([pairs[rows, 0], np.searchsorted(block, pairs[rows, 1])], axis=1)
        vectors = TokenVectors.of([documents[i] for i in block])
        scores[rows] = _scores(queries, vectors, here, mean)
    return scores


def _blocks(documents: TokenVectors, wanted: np.ndarray) -> Iterable[np.ndarray]:
    """Cut documents, int64 (n,) and ascending, into runs of about `BLOCK` numbers."""
    if not len(wanted):
        return []
    numbers = documents.lengths[wanted] * documents.vectors.shape[1]
    block = (np.cumsum(numbers) - numbers) // BLOCK
    return np.split(wanted, np.flatnonzero(np.diff(block)) + 1)


def _scores(
    queries: TokenVectors, documents: TokenVectors, pairs: np.ndarray, mean: bool
) -> np.ndarray:
    """Score pairs query by query; see `max_sim`."""
    scores, lengths = np.full(len(pairs), np.nan, np.float32), documents.lengths
    for rows in _by_first(pairs):
        query = queries[pairs[rows[0], 0]]
        if not len(query):
            continue
        having = rows[lengths[pairs[rows, 1]] > 0]
        for tile in _tiles(having, lengths[pairs[having, 1]] * len(query)):
            found = _score(query, [documents[i] for i in pairs[tile, 1]])
            scores[tile] = found / len(query) if mean else found
    return scores


def _by_first(pairs: np.ndarray) -> Iterable[np.ndarray]:
    """Return the positions of the pairs of each query."""
    order = np.argsort(pairs[:, 0], kind="stable")
    edges = np.flatnonzero(np.diff(pairs[order, 0])) + 1
    return np.split(order, edges) if len(order) else []


def _tiles(rows: np.ndarray, products: np.ndarray) -> Iterable[np.ndarray]:
    """Cut pairs of one query into runs of about `TILE` dot products."""
    if not len(rows):
        return []
    number = (np.cumsum(products) - products) // TILE
    return np.split(rows, np.flatnonzero(np.diff(number)) + 1)


def _score(query: np.ndarray, documents: list[np.ndarray]) -> np.ndarray:
    """Score a query, float32 (q, dim), against documents with vectors: float32 (documents,)."""
    if len(documents) == 1:
        return (query @ documents[0].T).max(axis=1).sum(dtype=np.float32, keepdims=True)
    starts = np.cumsum([0, *map(len, documents[:-1])])
    products = query @ np.concatenate(documents).T
    best = np.maximum.reduceat(products, starts, axis=1)
    return best.sum(axis=0, dtype=np.float32)
