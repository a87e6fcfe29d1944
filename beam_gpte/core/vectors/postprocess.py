"""Remove from vectors what they all share: their mean, top principal components, or correlation.

Vectors of a language model lie in a narrow cone, those of one language or source in a narrower one,
so every cosine has a part that carries no information. The correction is fitted once, to a whole
corpus, and then applied to every vector that will be compared: documents, later documents, queries.

Measure before you use it. With all-MiniLM-L6-v2, finding the translation among 1,000 German
sentences is right for 8.6 % of them without a correction, 14.9 % centered, 17.7 % centered by
language, and about the same with the other methods. Within one language the model's training has
done the work: the mean cosine of 7,871 docstrings is 0.086 before and 0.000 after, but the Spearman
correlation on STS-B (fitted on its development part) is 82.0 without a correction, 82.0 centered,
80.8 with all but the top 3, 80.1 whitened, 81.4 whitened to 128 dimensions.

    moments of each part of the corpus --> merged --> fit --> Postprocess --> apply to vectors
"""

import dataclasses
import hashlib
import io
import json

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.format_version import FORMAT, check_format

METHODS = ("center", "all_but_the_top", "whiten")

# Relative to the largest variance: directions below it hold only rounding errors, which whitening
# would amplify, so it drops them. all-MiniLM-L6-v2, for one, has a dimension that is always zero.
MIN_VARIANCE = 1e-9
# Relative to a vector's length before centering: what remains below it is float32 rounding.
MIN_LENGTH = 1e-6


@dataclasses.dataclass
class Moments:
    """Accumulate sums of vectors in float64; the order matters for rounding only.

    Takes 8 dim^2 bytes with `second`.

    Attributes:
      counts: number of vectors by group; an ungrouped corpus has the single group None.
      sums: float64 (dim,) by group.
      second: float64 (dim, dim), the sum of all outer products; None where only means are needed.
    """

    counts: dict[str | None, int] = dataclasses.field(default_factory=dict)
    sums: dict[str | None, np.ndarray] = dataclasses.field(default_factory=dict)
    second: np.ndarray | None = None

    def add(
        self, vectors: np.ndarray, groups: list[str] | None = None, second: bool = False
    ) -> None:
        """Add vectors (n, dim) to their groups, and to the second moments if `second`."""
        values = vectors.astype(np.float64)
        if groups is None:
            self._add(None, len(values), values.sum(axis=0))
        else:
            names = np.array(groups, object)
            for name in sorted(set(groups)):
                part = values[names == name]
                self._add(name, len(part), part.sum(axis=0))
        if second:
            self._add_second(values.T @ values)

    def merge(self, other: "Moments") -> None:
        """Add the moments of other vectors."""
        for name, count in other.counts.items():
            self._add(name, count, other.sums[name])
        if other.second is not None:
            self._add_second(other.second)

    def _add(self, name: str | None, count: int, total: np.ndarray) -> None:
        known = next(iter(self.sums.values()), total)
        if known.shape != total.shape:
            raise InputError(
                f"vectors of {len(known)} and {len(total)} dimensions in one corpus; "
                "embed it with one model"
            )
        self.counts[name] = self.counts.get(name, 0) + count
        self.sums[name] = self.sums.get(name, 0) + total

    def _add_second(self, second: np.ndarray) -> None:
        self.second = second if self.second is None else self.second + second


@dataclasses.dataclass(frozen=True, eq=False)
class Postprocess:
    """Correct vectors: subtract the group's mean, multiply by a matrix, normalize to length 1.

    Attributes:
      method: one of `METHODS`.
      components: directions removed (``all_but_the_top``) or kept (``whiten``); 0 for ``center``.
      groups: names of the groups in the order of the means; None for an ungrouped corpus.
      counts: number of fitted vectors by group.
      means: float64 (groups, dim).
      matrix: float64 (dim, new dim); None for ``center``.
    """

    method: str
    components: int
    groups: tuple[str, ...] | None
    counts: tuple[int, ...]
    means: np.ndarray
    matrix: np.ndarray | None

    @property
    def dim(self) -> int:
        """Return the dimensions of corrected vectors."""
        return self.means.shape[1] if self.matrix is None else self.matrix.shape[1]

    @property
    def description(self) -> str:
        """Name the method, its components and whether it is by group."""
        grouped = "" if self.groups is None else " by group"
        return f"{self.method}{f' {self.components}' if self.components else ''}{grouped}"

    @property
    def fingerprint(self) -> str:
        """Hash settings, counts, and means to six digits: fits of one corpus agree in any order."""
        digest = hashlib.sha256(self._settings().encode())
        digest.update(np.rint(self.means * 1e6).astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def apply(self, vectors: np.ndarray, groups: list[str] | None = None) -> np.ndarray:
        """Correct `vectors`.

        Args:
          vectors: floats (n, dim).
          groups: the group of each vector, if the corpus was fitted by group.

        Returns:
          float32 (n, self.dim) of length 1; zero for a vector that equals its group's mean and so
          has no direction, and for one of a group that was not fitted (`knows` distinguishes them).

        Raises:
          InputError: a value is not finite, the dimensions differ from those fitted, or groups are
            given for a corpus fitted without, or missing for one fitted by group.
        """
        if vectors.shape[1] != self.means.shape[1]:
            raise InputError(
                f"vectors of {vectors.shape[1]} dimensions, but the corpus was fitted with "
                f"{self.means.shape[1]}; embed with the same model, or fit again"
            )
        if not np.isfinite(vectors).all():
            (row,) = np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]
            raise InputError(f"vector {row} has a value that is not finite; leave it out")
        place = self._places(len(vectors), groups)
        results = vectors.astype(np.float64) - self.means[place]
        before = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        near_mean = np.linalg.norm(results, axis=1, keepdims=True) <= MIN_LENGTH * before
        if self.matrix is not None:
            results = results @ self.matrix
        lengths = np.linalg.norm(results, axis=1, keepdims=True)
        directed = ~near_mean & (lengths > 0) & (place[:, None] >= 0)
        scaled = np.divide(results, lengths, out=np.zeros_like(results), where=directed)
        return scaled.astype(np.float32)

    def _places(self, rows: int, groups: list[str] | None) -> np.ndarray:
        """Find the row in `means` of each vector's group, -1 for a group that was not fitted."""
        if groups is None and self.groups is None:
            return np.zeros(rows, np.int64)
        if groups is None:
            raise InputError("the corpus was fitted by group; name the group column")
        if self.groups is None:
            raise InputError("the corpus was fitted without groups; leave the group column out")
        known = {name: i for i, name in enumerate(self.groups)}
        return np.array([known.get(name, -1) for name in groups], np.int64)

    def knows(self, group: str) -> bool:
        """Decide whether the corpus had vectors of this group."""
        return self.groups is not None and group in self.groups

    def to_bytes(self) -> bytes:
        """Serialize to the content of an ``.npz`` file."""
        arrays = {"means": self.means}
        if self.matrix is not None:
            arrays["matrix"] = self.matrix
        buffer = io.BytesIO()
        np.savez(buffer, format=FORMAT, settings=np.array(self._settings()), **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Postprocess":
        """Restore the result of `to_bytes`; it holds numbers and text only, nothing executable.

        Raises:
          InputError: the file is something else, or of a later format.
        """
        try:
            arrays = dict(np.load(io.BytesIO(data), allow_pickle=False))
            settings = json.loads(str(arrays["settings"]))
            check_format(arrays.get("format"), "the file of FitPostprocess")
            groups = None if settings["groups"] is None else tuple(settings["groups"])
            return cls(
                settings["method"],
                settings["components"],
                groups,
                tuple(settings["counts"]),
                arrays["means"],
                arrays.get("matrix"),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError) as error:
            raise InputError(
                f"not a file that FitPostprocess wrote ({error}); fit the corpus again"
            ) from error

    def _settings(self) -> str:
        names = ("method", "components", "groups", "counts")
        return json.dumps({name: getattr(self, name) for name in names}, ensure_ascii=False)


def check_method(method: str, components: int | None = None) -> None:
    """Refuse settings that `fit` does not know.

    Raises:
      InputError: the method is unknown, or the number of components is not a positive whole number
        or not for this method.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: choose {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    if components is not None and method == "center":
        raise InputError("components with method 'center', which has none; leave components out")
    if components is not None and (not isinstance(components, int) or components < 1):
        raise InputError(f"components {components!r}: give a positive whole number")


def fit(moments: Moments, method: str, components: int | None = None) -> Postprocess:
    """Fit the correction of `method` to a corpus with these moments.

    Means are those of the groups, components those of all groups together, each around its own
    mean.

    Args:
      moments: of at least one vector.
      method: ``center``: subtract the mean. ``all_but_the_top``: remove the first `components`
        principal components too (arXiv 1702.01417; default dim / 100, as there). ``whiten``:
        replace the dimensions by the first `components` principal components (default all), each
        with variance 1 (arXiv 2103.15316).
      components: see `method`; None for its default.

    Raises:
      InputError: there are more components than dimensions, or no more vectors than components.
    """
    check_method(method, components)
    names = sorted(moments.counts, key=str)
    counts = np.array([moments.counts[name] for name in names])
    means = np.stack([moments.sums[name] for name in names]) / counts[:, None]
    if not np.isfinite(means).all():
        raise InputError("a vector has a value that is not finite; leave it out, and fit again")
    groups = None if names == [None] else tuple(map(str, names))
    centered = Postprocess(method, 0, groups, tuple(counts.tolist()), means, None)
    if method == "center":
        return centered

    dim, n = means.shape[1], int(counts.sum())
    k = components or (max(1, dim // 100) if method == "all_but_the_top" else dim)
    if k > dim:
        raise InputError(f"components {k}: the vectors have {dim} dimensions; give fewer")
    if n <= k:
        raise InputError(
            f"{method} with {k} components needs more vectors than {n}; "
            "give fewer components, or more vectors"
        )
    if moments.second is None:
        raise InputError(f"{method} needs second moments; add vectors with second=True")
    covariance = moments.second / n - (means.T * (counts / n)) @ means
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1][:k], axes[:, ::-1][:, :k]
    if method == "all_but_the_top":
        return dataclasses.replace(centered, components=k, matrix=np.eye(dim) - axes @ axes.T)
    # LAPACK leaves the sign of an axis open: make its largest coordinate positive
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(k)] < 0, -1, 1)
    present = variances > MIN_VARIANCE * variances[0]
    scales = np.divide(1, np.sqrt(np.maximum(variances, 0)), out=np.zeros(k), where=present)
    return dataclasses.replace(centered, components=k, matrix=axes * scales)
