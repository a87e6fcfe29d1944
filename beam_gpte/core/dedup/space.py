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
import functools
import io

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, check_format
from beam_gpte.core.vectors.kmeans import spherical_k_means
from beam_gpte.core.vectors.similarity import unit_rows

# fp16 keeps 11 bits of a number, so a product of unit sketches is off by less than 2 x 2^-11
SKETCH_SLACK = 1.1e-3
ROUTING_SLACK = 1e-5  # fp32 products of unit vectors
PRODUCTS_AT_ONCE = 1 << 18  # of rows and centroids: 1 MB
ROWS_AT_ONCE = 128  # with many cells: fewer rows would read the centroids too often

# A row is routed in time proportional to the cells C, and compared with about 40 n / C to 100 n / C
# rows, so the best C grows with sqrt(n). In cells of fewer rows the products are small matrices.
CELLS_PER_ROOT = 3
CELL_ROWS = 250
MAX_CELLS = 8192  # of 10 million rows; their distances are 64 MB
# Of centroids fitted to 10, 20 and 40 points each, rows visit 78, 62 and 52 of 1,000 cells, in 10
# iterations 77, 61 and 50: points help more.
POINTS_PER_CELL = 40
ITERATIONS = 5
MIN_POINTS = 4096
MAX_POINTS = 163_840
BASIS_POINTS = 16_384
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
        coordinates = self.project(vectors)
        size = max(ROWS_AT_ONCE, PRODUCTS_AT_ONCE // len(self.centroids))
        starts = range(0, max(1, len(coordinates)), size)
        parts = [
            self._route(coordinates[start : start + size], start, bisector_distance)
            for start in starts
        ]
        home, rows, cells = (np.concatenate(part) for part in zip(*parts, strict=True))
        return home, rows, cells

    def _route(
        self, coordinates: np.ndarray, first: int, bisector_distance: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        products = coordinates @ self.centroids.T
        home, every = products.argmax(axis=1), np.arange(len(products))
        steps, step = self._distances
        reach = steps[home] * np.float32((bisector_distance + ROUTING_SLACK) * step)
        near = products[every, home][:, None] - products <= reach
        near[every, home] = False
        rows, cells = np.divmod(np.flatnonzero(near), len(self.centroids))
        return home, rows + first, cells

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
        apart = np.linalg.norm(self.centroids[homes[0]] - self.centroids[homes[1]], axis=1)
        ways = [p[rows, homes[i]] - p[rows, homes[1 - i]] for i, p in enumerate(products)]
        return np.where(apart > 0, np.minimum(*ways) / np.maximum(apart, 1e-12), 0)

    @functools.cached_property
    def _distances(self) -> tuple[np.ndarray, float]:
        """Round the distances of centroids up to whole steps: uint8 (k, k), and the step.

        A larger distance gives more replicas, of rows that are farther from a bisector.
        """
        c = self.centroids.astype(np.float64)
        norms = (c * c).sum(axis=1)
        step = float(max(2 * np.sqrt(norms.max()), 1e-12)) / 255
        steps = np.empty((len(c), len(c)), np.uint8)
        for start in range(0, len(c), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            squares = np.maximum(0, norms[part, None] + norms - 2 * c[part] @ c.T)
            steps[part] = np.minimum(255, np.ceil(np.sqrt(squares) / step))
        return steps, step

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
    if threshold < MIN_ROUTED_THRESHOLD:
        return 1
    return max(1, min(MAX_CELLS, rows // CELL_ROWS, int(CELLS_PER_ROOT * rows**0.5)))


def share_of_points(rows: int, threshold: float) -> float:
    """Choose the share of the rows that centroids are fitted to; it never grows with the rows."""
    if threshold < MIN_ROUTED_THRESHOLD:
        return 0.0
    cells = min(MAX_CELLS / rows, 1 / CELL_ROWS, CELLS_PER_ROOT / rows**0.5) if rows else 1.0
    return min(1.0, POINTS_PER_CELL * cells, MAX_POINTS / max(1, rows))


def compared_share(space: Space, vectors: np.ndarray, threshold: float) -> float:
    """Estimate the comparisons of n rows like unit `vectors`, float32 (m, dim), divided by n^2.

    It falls with about the 0.6th power of the cells, fitted to `POINTS_PER_CELL` points each.
    """
    home, _, cells = space.route(vectors, bisector_distance(threshold))
    shares, visits = (
        np.bincount(of, minlength=len(space.centroids)) / len(vectors) for of in (home, cells)
    )
    return float((shares * (shares / 2 + visits)).sum())


def fit_space(sample: np.ndarray, cells: int, sketch_dims: int) -> Space:
    """Fit a space to `sample`, unit float32 (n, dim), in a random but fixed order.

    The same sample gives the same space.
    """
    dim, few = sample.shape[1], sample[:BASIS_POINTS]
    _, directions = np.linalg.eigh((few.T @ few).astype(np.float64))
    principal = directions[:, ::-1][:, : min(ROUTING_DIMS, dim)]
    basis = np.ascontiguousarray(principal.T.astype(np.float32))
    points = sample[: max(MIN_POINTS, POINTS_PER_CELL * cells)] @ basis.T
    centroids = spherical_k_means(points, min(cells, max(1, len(points))), ITERATIONS)
    return Space(basis, centroids, min(sketch_dims, dim))
