"""Map a corpus's unit vectors: cells to search for neighbors in, and sketches to compare cheaply.

Two bounds guarantee that a search by cells and sketches misses nothing. x and y are unit vectors
with x . y >= t.

Cells (bisector routing: ClusterJoin, Das Sarma, He and Chaudhuri, VLDB 2014, on the sphere).
home(x) is the cell h with the largest x . c_h. A replica of x goes to every cell j with
x . (c_h - c_j) / |c_h - c_j| <= sqrt((1 - t) / 2). If the home of y is j, the bisector of the two
cells lies between x and y, which are at most sqrt(2 (1 - t)) apart, so one of them is within half
that distance of the bisector: x is compared with y in j, or y with x in h. That holds for any
centroids.

Sketches. The coordinates of x in an orthonormal basis, and the length of the remainder: the product
of two sketches is never below x . y (Cauchy and Schwarz). Sketches keep the first directions of the
basis; centroids lie in the span of all.
"""

import dataclasses
import io

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, check_format
from beam_gpte.core.vectors.kmeans import POINTS_PER_CELL, spherical_k_means
from beam_gpte.core.vectors.similarity import unit_rows

# fp16 keeps 11 bits of a number, so a product of unit sketches is off by less than 2 x 2^-11
SKETCH_SLACK = 1.1e-3
ROUTING_SLACK = 1e-5  # fp32 products of unit vectors
MIN_POINTS = 4096  # of the sample that centroids are fitted to
CELL_ROWS = 500  # smaller cells cost more replicas than they save comparisons
MAX_CELLS = 1024
# below it a vector has replicas in most cells, and a single cell in tiles is faster
MIN_ROUTED_THRESHOLD = 0.87
# with all 384 dimensions there are a tenth fewer replicas, and fitting takes twice as long
ROUTING_DIMS = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Divide a corpus's vectors into cells, and sketch them in a basis fitted to them.

    Attributes:
      basis: float32 (r, dim), orthonormal rows, the sample's principal directions about the origin.
      centroids: float32 (k, r), in that basis.
      sketch_dims: s, at most r: the number of directions that sketches keep.
    """

    basis: np.ndarray
    centroids: np.ndarray
    sketch_dims: int

    @property
    def dim(self) -> int:
        """Return the dimensions of the vectors."""
        return int(self.basis.shape[1])

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Compute the coordinates, float32 (n, r), of `vectors`, float32 (n, dim), in the basis."""
        return vectors @ self.basis.T

    def sketch(self, vectors: np.ndarray) -> np.ndarray:
        """Compute the sketches, float16 (n, s + 1), of unit `vectors`, float32 (n, dim)."""
        coordinates = vectors @ self.basis[: self.sketch_dims].T
        rest = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", coordinates, coordinates)))
        return np.concatenate([coordinates, rest[:, None]], axis=1).astype(np.float16)

    def route(
        self, vectors: np.ndarray, bisector_distance: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the cells of unit `vectors`, float32 (n, dim).

        Returns:
          Home cells, int64 (n,); then rows and cells, int64, sorted by row: the other cells that a
          row has a replica in.
        """
        products = self.project(vectors) @ self.centroids.T
        home = products.argmax(axis=1)
        best = products[np.arange(len(products)), home]
        reach = (bisector_distance + ROUTING_SLACK) * self._distances[home]
        near = best[:, None] - products <= reach
        near[np.arange(len(near)), home] = False
        rows, cells = np.nonzero(near)
        return home, rows, cells

    def probe(self, vectors: np.ndarray, probes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find cells like `route`, but the `probes` cells of largest product, home included."""
        products = self.project(vectors) @ self.centroids.T
        order = np.argsort(-products, axis=1, kind="stable")[:, :probes]
        rows = np.repeat(np.arange(len(order)), order.shape[1] - 1)
        return order[:, 0], rows, order[:, 1:].reshape(-1)

    def groups(self, count: int) -> np.ndarray:
        """Assign nearby cells to the same group, int64 (k,), of at most `count`.

        A row that visits several cells of a group is sent there once.
        """
        centers = spherical_k_means(unit_rows(self.centroids), min(count, len(self.centroids)))
        return (self.centroids @ centers.T).argmax(axis=1)

    def min_bisector_distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Find the minimum distance, float32 (n,), at which `route` gives a pair a common cell.

        It is 0 for a pair of unit vectors with the same home.
        """
        products = [self.project(vectors) @ self.centroids.T for vectors in (a, b)]
        homes = [p.argmax(axis=1) for p in products]
        rows = np.arange(len(a))
        apart = self._distances[homes[0], homes[1]]
        ways = [p[rows, homes[i]] - p[rows, homes[1 - i]] for i, p in enumerate(products)]
        return np.where(apart > 0, np.minimum(*ways) / np.maximum(apart, 1e-12), 0)

    @property
    def _distances(self) -> np.ndarray:
        """Compute the distances between centroids, float32 (k, k), once."""
        cached = self.__dict__.get("_d")
        if cached is None:
            c = self.centroids.astype(np.float64)
            norms = (c * c).sum(axis=1)
            squares = np.maximum(0, norms[:, None] + norms - 2 * c @ c.T)
            cached = np.sqrt(squares).astype(np.float32)
            object.__setattr__(self, "_d", cached)
        return cached

    def __getstate__(self) -> dict:
        return dataclasses.asdict(self)

    def to_bytes(self) -> bytes:
        """Serialize to the content of an ``.npz`` file."""
        file = io.BytesIO()
        np.savez(
            file,
            format=FORMAT,
            basis=self.basis,
            centroids=self.centroids,
            sketch_dims=self.sketch_dims,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Space":
        """Restore the result of `to_bytes`.

        Raises:
          InputError: the file is something else, or of a later format.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                check_format(arrays.get("format"), "the saved index")
                return cls(arrays["basis"], arrays["centroids"], int(arrays["sketch_dims"]))
        except InputError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"not a saved index: {error}; give the one that a previous deduplication saved"
            ) from error


def bisector_distance(threshold: float) -> float:
    """Compute the distance to a bisector within which vectors need replicas to miss no pair."""
    return float(np.sqrt(max(0.0, 1 - threshold) / 2))


def cells_for(rows: int, threshold: float) -> int:
    """Choose the number of cells: more make comparing cheaper, fewer make routing cheaper."""
    return 1 if threshold < MIN_ROUTED_THRESHOLD else min(MAX_CELLS, max(1, rows // CELL_ROWS))


def fit_space(sample: np.ndarray, cells: int, sketch_dims: int) -> Space:
    """Fit a space to `sample`, unit float32 (n, dim), in a random but fixed order.

    The same sample gives the same space.
    """
    dim = sample.shape[1]
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    principal = directions[:, ::-1][:, : min(ROUTING_DIMS, dim)]
    basis = np.ascontiguousarray(principal.T.astype(np.float32))
    points = sample[: max(MIN_POINTS, POINTS_PER_CELL * cells)] @ basis.T
    centroids = spherical_k_means(points, min(cells, max(1, len(points))))
    return Space(basis, centroids, min(sketch_dims, dim))
