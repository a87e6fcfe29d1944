"""Keep fewer vectors per document: cluster its token vectors, and keep the mean of each cluster.

Token pooling after Clavié, Chaffin and Adams (arXiv 2409.14683): Ward's clustering of cosine
distances, which a factor of 2 costs next to nothing in retrieval, as it is in sentence-transformers
6.2 and PyLate. The first tokens, such as ``[CLS]``, stay as they are.
"""

import dataclasses

import numpy as np

from beam_gpte.core.errors import InputError

# Tokens that are clustered at once: their distances take 64 MB in float32 and twice 64 MB as the
# pairs that SciPy works on. Of a longer document each such part is clustered alone.
AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class TokenPooling:
    """Pool the token vectors of a text.

    Attributes:
      factor: keep about one of so many vectors, 1 or more; 1.5 keeps two thirds.
      protected: how many of the first vectors stay as they are.
      normalize: scale all vectors to length 1 afterwards; False keeps means as they are.
    """

    factor: float
    protected: int = 1
    normalize: bool = True

    def __post_init__(self) -> None:
        is_number = isinstance(self.factor, int | float) and not isinstance(self.factor, bool)
        if not is_number or not 1 <= self.factor < np.inf:
            raise InputError(
                f"pool_factor {self.factor!r}: give a number from 1, which keeps all vectors; 2 "
                "keeps half"
            )
        if type(self.protected) is not int or self.protected < 0:
            raise InputError(f"protected_tokens {self.protected!r}: give 0 or a positive number")

    def pool(self, vectors: np.ndarray) -> np.ndarray:
        """Pool the vectors of one text; the result depends on them and the settings alone.

        Args:
          vectors: float32 (tokens, dim), of length 1.

        Returns:
          float32 (fewer, dim), at least one of a text that has one: the protected, then the
          clusters in the order of their first token.
        """
        if self.factor > 1:
            rest = vectors[self.protected :]
            parts = [rest[i : i + AT_ONCE] for i in range(0, len(rest), AT_ONCE)]
            means = [self._means(part) for part in parts]
            vectors = np.concatenate([vectors[: self.protected], *means])
        if not self.normalize:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)

    def _means(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mean vector of each cluster."""
        wanted = max(int(len(vectors) // self.factor), 1)
        if wanted >= len(vectors):
            return vectors
        labels = _ward(vectors, wanted)
        _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(first)
        sums = np.zeros((len(first), vectors.shape[1]), np.float32)
        np.add.at(sums, np.argsort(order)[cluster], vectors)
        return sums / np.bincount(cluster)[order, None].astype(np.float32)


def _ward(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """Cluster vectors of length 1 by Ward's method on cosine distances: labels, int (n,)."""
    # late: SciPy takes 0.2 s to import
    from scipy.cluster import hierarchy  # type: ignore[import-untyped]
    from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

    distances = np.clip(1 - vectors @ vectors.T, 0, 2)
    linkage = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    return np.asarray(hierarchy.fcluster(linkage, t=clusters, criterion="maxclust"))
