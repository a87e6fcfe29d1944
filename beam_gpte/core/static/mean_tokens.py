"""Average the vectors of the tokens of each text, in one order whatever texts are beside it.

Texts of equal length are gathered together, in parts that stay in a core's cache, and summed token
by token. A long text is summed in pieces of fixed size: the sum of a text depends on its tokens
alone, to the last bit.
"""

import itertools

import numpy as np

GATHERED = 1 << 17  # numbers gathered at once: 512 KB
PIECE = 512  # tokens of a long text that are summed before their sum is added to the others


def mean_tokens(
    vectors: np.ndarray, ids: np.ndarray, counts: np.ndarray, wide: bool = False
) -> np.ndarray:
    """Return the mean of the vectors of each text's tokens.

    Args:
      vectors: of all tokens, float32 (tokens, dim).
      ids: of the tokens of all texts, one text after the other, integers (sum of counts,).
      counts: tokens of each text, int64 (n,).
      wide: add up in float64, as model2vec does where tokens have weights in it.

    Returns:
      float32 (n, dim), NaN for a text without tokens.
    """
    dim = vectors.shape[1]
    means = np.full((len(counts), dim), np.nan, np.float32)
    starts = np.cumsum(counts) - counts
    order = np.argsort(counts, kind="stable")
    lengths = counts[order]
    cuts = np.flatnonzero(np.diff(lengths, prepend=0, append=0))  # of equal lengths; none for 0
    for first, after in itertools.pairwise(cuts):
        length = int(lengths[first])
        texts = max(1, GATHERED // (min(length, PIECE) * dim))
        for at in range(int(first), int(after), texts):
            some = order[at : min(at + texts, int(after))]
            total = _sums(vectors, ids, starts[some], min(length, PIECE), wide)
            for done in range(PIECE, length, PIECE):
                total += _sums(vectors, ids, starts[some] + done, min(length - done, PIECE), wide)
            means[some] = total / total.dtype.type(length)
    return means


def _sums(
    vectors: np.ndarray, ids: np.ndarray, starts: np.ndarray, length: int, wide: bool
) -> np.ndarray:
    """Sum the vectors of `length` tokens from each start: (n, dim)."""
    gathered = vectors.take(ids.take(starts[:, None] + np.arange(length)), axis=0)
    if wide:
        gathered = gathered.astype(np.float64)
    return np.add.reduce(gathered, axis=1)
