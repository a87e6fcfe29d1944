"""A map of a corpus's unit vectors: cells to look for neighbours in, and sketches that are cheap to compare.

Two bounds make a search by cells and sketches miss nothing. x and y are unit vectors with x . y >= t.

Cells (bisector routing: ClusterJoin, Das Sarma, He and Chaudhuri, VLDB 2014, on the sphere). home(x) is the cell h of the
largest x . c_h. A copy of x goes to every cell j with x . (c_h - c_j) / |c_h - c_j| <= sqrt((1 - t) / 2). If y's home is j,
the bisector of the two lies between x and y, which are at most sqrt(2 (1 - t)) apart, so one of them is within half of
that of it: x meets y in j, or y meets x in h. That holds for any centroids.

Sketches. The coordinates of x in an orthonormal basis, and the length of what is left over: the product of two sketches is
never below x . y (Cauchy and Schwarz). Sketches take the first directions of the basis, centroids lie in the span of all.
"""

import dataclasses
import io

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.kmeans import POINTS_PER_CELL, _unit, spherical_k_means

# fp16 keeps 11 bits of a number, so a product of unit sketches is off by less than 2 x 2^-11
SKETCH_SLACK = 1.1e-3
ROUTING_SLACK = 1e-5  # fp32 products of unit vectors
MIN_POINTS = 4096
CELL_ROWS = 500  # smaller cells cost more copies than they save comparisons
MAX_CELLS = 1024
MIN_ROUTED_THRESHOLD = (
    0.87  # threshold: below it a vector has copies in most cells, and one cell in tiles is faster
)
ROUTING_DIMS = (
    128  # with the whole 384 there are a tenth fewer copies, and fitting takes twice as long
)


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Where the vectors of a corpus lie.

    Attributes:
      basis: float32 (r, dim), orthonormal rows, the sample's principal directions about the origin.
      centroids: float32 (k, r), in that basis.
      sketch_dims: s, at most r: directions that sketches keep.
    """

    basis: np.ndarray
    centroids: np.ndarray
    sketch_dims: int

    @property
    def dim(self) -> int:
        return int(self.basis.shape[1])

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (n, r): the coordinates of `vectors`, float32 (n, dim), in the basis."""
        return vectors @ self.basis.T

    def sketch(self, vectors: np.ndarray) -> np.ndarray:
        """float16 (n, s + 1): the sketches of unit `vectors`, float32 (n, dim)."""
        coordinates = vectors @ self.basis[: self.sketch_dims].T
        rest = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", coordinates, coordinates)))
        return np.concatenate([coordinates, rest[:, None]], axis=1).astype(np.float16)

    def route(
        self, vectors: np.ndarray, bisector_distance: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The cells of unit `vectors`, float32 (n, dim).

        Returns:
          home: int64 (n,).
          rows, cells: int64, the further cells that a row has a copy in, by row.
        """
        products = self.project(vectors) @ self.centroids.T
        home = products.argmax(axis=1)
        best = products[np.arange(len(products)), home]
        near = (
            best[:, None] - products <= (bisector_distance + ROUTING_SLACK) * self._distances[home]
        )
        near[np.arange(len(near)), home] = False
        rows, cells = np.nonzero(near)
        return home, rows, cells

    def probe(self, vectors: np.ndarray, probes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `route`, with the `probes` cells of the largest products, home among them."""
        products = self.project(vectors) @ self.centroids.T
        order = np.argsort(-products, axis=1, kind="stable")[:, :probes]
        rows = np.repeat(np.arange(len(order)), order.shape[1] - 1)
        return order[:, 0], rows, order[:, 1:].reshape(-1)

    def groups(self, count: int) -> np.ndarray:
        """int64 (k,): cells that lie together have one number below `count`. What visits several of them is sent once."""
        centres = spherical_k_means(_unit(self.centroids), min(count, len(self.centroids)))
        return (self.centroids @ centres.T).argmax(axis=1)

    def needed_margin(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float32 (n,): the least margin at which `route` lets each pair of unit vectors meet; 0 in one cell."""
        products = [self.project(vectors) @ self.centroids.T for vectors in (a, b)]
        homes = [p.argmax(axis=1) for p in products]
        rows = np.arange(len(a))
        apart = self._distances[homes[0], homes[1]]
        ways = [p[rows, homes[i]] - p[rows, homes[1 - i]] for i, p in enumerate(products)]
        return np.where(apart > 0, np.minimum(*ways) / np.maximum(apart, 1e-12), 0)

    @property
    def _distances(self) -> np.ndarray:
        """float32 (k, k): between centroids."""
        cached = self.__dict__.get("_d")
        if cached is None:
            c = self.centroids.astype(np.float64)
            squares = (c * c).sum(axis=1)
            cached = np.sqrt(np.maximum(0, squares[:, None] + squares - 2 * c @ c.T)).astype(
                np.float32
            )
            object.__setattr__(self, "_d", cached)
        return cached

    def __getstate__(self) -> dict:
        return dataclasses.asdict(self)

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        np.savez(file, basis=self.basis, centroids=self.centroids, sketch_dims=self.sketch_dims)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Space":
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["basis"], arrays["centroids"], int(arrays["sketch_dims"]))
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"no saved space: {error}; give the space.npz of a former deduplication"
            ) from error


def bisector_distance(threshold: float) -> float:
    """How near to the bisector of two cells a vector must lie to need a copy, for no pair to be missed."""
    return float(np.sqrt(max(0.0, 1 - threshold) / 2))


def cells_for(rows: int, threshold: float) -> int:
    """Cells for a corpus: enough to make comparing cheap, few enough to make routing and copies so."""
    return 1 if threshold < MIN_ROUTED_THRESHOLD else min(MAX_CELLS, max(1, rows // CELL_ROWS))


def fit_space(sample: np.ndarray, cells: int, sketch_dims: int) -> Space:
    """A space fitted to `sample`, unit float32 (n, dim), in a random but fixed order; the same sample gives the same."""
    dim = sample.shape[1]
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    basis = np.ascontiguousarray(
        directions[:, ::-1][:, : min(ROUTING_DIMS, dim)].T.astype(np.float32)
    )
    points = sample[: max(MIN_POINTS, POINTS_PER_CELL * cells)] @ basis.T
    return Space(
        basis, spherical_k_means(points, min(cells, max(1, len(points)))), min(sketch_dims, dim)
    )
