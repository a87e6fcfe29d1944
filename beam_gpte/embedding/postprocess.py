"""Fit a correction to a corpus once, and apply it to every vector that is compared with it.

    # a PCollection with one `Postprocess`
    fitted = vectors | FitPostprocess("center", group_column="language")
    vectors | ApplyPostprocess(fitted, group_column="language")

blocks --> moments of each bundle --> one fit of all --(side input, or a file)--> corrected vectors

What meets: the moments of each bundle; all are needed for the first corrected vector, so no shuffle
after it can do that.
"""

import dataclasses
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import EMBEDDING, ID
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.metadata import VectorMetadata, vector_metadata
from beam_gpte.core.text.normalize import value_texts
from beam_gpte.core.vectors.postprocess import Moments, Postprocess, check_method, fit
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    reject_outputs,
)
from beam_gpte.elements.rows import columns_as_blocks, over_blocks
from beam_gpte.elements.vectors import replace_vectors, vectors_with_defects
from beam_gpte.files.folders import remove_files


@dataclasses.dataclass(eq=False)
class FitPostprocess(TakesFrames):
    """Fit a correction to a whole corpus; see `core.vectors.postprocess` for the methods.

    Takes what `EmbedText` gives; returns a PCollection with one `Postprocess`, or with none for a
    corpus without vectors. Rows without a vector or a group are left out and counted
    (`vectors_not_fitted`). A worker holds 8 dim^2 bytes (1.2 MB for 384 dimensions), or 8 dim per
    group with ``center``.

    Attributes:
      method: ``center``, ``all_but_the_top`` or ``whiten``.
      components: principal components that ``all_but_the_top`` removes (default dim / 100) or
        ``whiten`` keeps (default all).
      group_column: fit one mean per value of this column, such as a language or a source.
      embedding_column: vectors of floats.
      path: a file to write the result to, on any Beam file system, for `ApplyPostprocess` and
        `load_postprocess`.
    """

    method: str
    components: int | None = None
    group_column: str | None = None
    embedding_column: str = EMBEDDING
    path: str | None = None

    def __post_init__(self) -> None:
        check_method(self.method, self.components)
        if self.path == "":
            raise InputError("path is empty; name a file, or leave it out")

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection[Postprocess]:
        """Return the fit, saved to `path` if there is one."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                "FitPostprocess: the whole corpus is fitted, which a stream or windows do not "
                "allow; fit a sample in a batch job with path, and give that path to "
                "ApplyPostprocess"
            )
        groups, vectors = (
            (self.group_column,) if self.group_column else (),
            (self.embedding_column,),
        )
        blocks = columns_as_blocks(pcoll, groups, optional=vectors, step="FitPostprocess")
        fit_all = beam.CombineGlobally(_Fit(self)).without_defaults()
        fitted = blocks | "Fit" >> fit_all.with_output_types(Postprocess)
        if self.path is None:
            return fitted
        save = beam.Map(save_postprocess, self.path)
        return fitted | "Save" >> save.with_output_types(Postprocess)


@dataclasses.dataclass(eq=False)
class ApplyPostprocess(RejectingTransform):
    """Replace every vector by the corrected one, of length 1.

    All other columns pass through untouched. Takes what `EmbedText` takes and returns the same
    kind. The fingerprint changes with the fit: sinks refuse to mix corpora that were corrected
    differently. Queries need the same correction: `load_postprocess(path).apply(vectors)`.

    Rows whose vector is null, not finite or equal to the mean, or whose group was not fitted, fail
    the job, or are collected by `with_exception_handling()`.

    Attributes:
      postprocess: the output of `FitPostprocess`, a `Postprocess`, or the path of a file that holds
        one. A path works for streams, and is needed for large fits (8 dim^2 bytes), because a
        `Postprocess` is part of the job's description.
      group_column: the group of each row; required if, and only if, the corpus was fitted by group.
      embedding_column: vectors of floats, replaced by the corrected ones, float32.
      id_column: names rows in messages; None if there is none.
    """

    postprocess: beam.PCollection | Postprocess | str = dataclasses.field(repr=False)
    group_column: str | None = None
    embedding_column: str = EMBEDDING
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if not isinstance(self.postprocess, beam.PCollection | Postprocess | str):
            raise InputError(
                f"postprocess {self.postprocess!r}: give the output of FitPostprocess, or a path "
                "that it wrote to"
            )
        if isinstance(self.postprocess, str) and not FileSystems.exists(self.postprocess):
            raise InputError(
                f"postprocess {self.postprocess!r}: no such file; "
                "write it by FitPostprocess(..., path)"
            )

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return corrected rows; with exception handling, a tuple of them and the rejects."""
        groups = (self.group_column,) if self.group_column else ()
        return over_blocks(
            pcoll,
            self._apply,
            None,
            self.id_column,
            groups,
            replaced=(self.embedding_column,),
            step=self.step,
        )

    def _apply(self, blocks: beam.PCollection[Block]) -> Any:
        given: Any = self.postprocess
        side = [beam.pvalue.AsIter(given)] if isinstance(given, beam.PCollection) else []
        apply = beam.ParDo(_Apply(self, None if side else given), *side)
        good, rejects = blocks | "Apply" >> reject_outputs(apply)
        return GoodAndRejects(good, rejects) if self._isolate else good


def save_postprocess(postprocess: Postprocess, path: str) -> Postprocess:
    """Write `postprocess` to a file, which appears complete or not at all."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with FileSystems.create(partial, compression_type="uncompressed") as file:
        file.write(postprocess.to_bytes())
    if FileSystems.exists(path):
        remove_files([path])
    FileSystems.rename([partial], [path])
    return postprocess


def load_postprocess(path: str) -> Postprocess:
    """Read what `FitPostprocess` wrote to `path`, on any Beam file system.

    Raises:
      InputError: the file holds something else.
    """
    with FileSystems.open(path, compression_type="uncompressed") as file:
        try:
            return Postprocess.from_bytes(file.read())
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


class _Fit(beam.CombineFn):
    """Sum the moments of all vectors, and fit the correction to them."""

    def __init__(self, settings: FitPostprocess) -> None:
        self._method = settings.method
        self._components = settings.components
        self._group_column = settings.group_column
        self._column = settings.embedding_column

    def create_accumulator(self) -> Moments:
        return Moments()

    def add_input(self, moments: Moments, block: Block) -> Moments:
        vectors, defects = vectors_with_defects(block, self._column, "FitPostprocess")
        groups = None
        if self._group_column is not None:
            names = read_groups(block, self._group_column, "FitPostprocess")
            defects = pc.coalesce(defects, pc.if_else(pc.is_null(names), "no group", None))
            groups = names.filter(pc.is_null(defects)).to_pylist()
        Metrics.counter(NAMESPACE, "vectors_not_fitted").inc(len(defects) - defects.null_count)
        vectors = vectors[defects.is_null().to_numpy(zero_copy_only=False)]
        if len(vectors):
            with naming("FitPostprocess"):
                moments.add(vectors, groups, second=self._method != "center")
        return moments

    def merge_accumulators(self, accumulators: Iterable[Moments]) -> Moments:
        merged = Moments()
        for moments in accumulators:
            with naming("FitPostprocess"):
                merged.merge(moments)
        return merged

    def extract_output(self, moments: Moments) -> Postprocess:
        if not moments.counts:
            group = "" if self._group_column is None else f" and a group in {self._group_column!r}"
            raise InputError(
                f"FitPostprocess: no row has a vector in column {self._column!r}{group}; "
                "embed the corpus first"
            )
        with naming("FitPostprocess"):
            return fit(moments, self._method, self._components)


class _Apply(beam.DoFn):
    """Correct vectors, and separate the rows that have no corrected one."""

    def __init__(self, settings: ApplyPostprocess, known: Postprocess | str | None) -> None:
        self._step = settings.step
        self._known = known
        self._group_column = settings.group_column
        self._column = settings.embedding_column
        self._id_column = settings.id_column
        self._isolate = settings._isolate

    def setup(self) -> None:
        if isinstance(self._known, str):
            with naming(self._step):
                self._known = load_postprocess(self._known)

    def process(self, block: Block, fitted: Iterable[Postprocess] = ()) -> Iterator[Any]:
        postprocess = next(iter(fitted), self._known)
        if not isinstance(postprocess, Postprocess):
            raise InputError(
                f"{self._step}: FitPostprocess saw no vectors; fit a corpus similar to this one"
            )
        vectors, defects = vectors_with_defects(block, self._column, self._step)
        if not vectors.shape[1]:  # without a single vector in the block, their length is unknown
            vectors = np.zeros((len(block), postprocess.means.shape[1]), np.float32)
        groups = None
        if self._group_column is not None:
            names = read_groups(block, self._group_column, self._step)
            groups = names.to_pylist()
            defects = pc.coalesce(defects, _group_defects(names, postprocess, self._group_column))
        with naming(self._step):
            results = postprocess.apply(vectors, groups)
        flat = pc.if_else(
            pa.array(~results.any(axis=1)),
            f"{self._column} is the mean of the corpus and has no direction",
            None,
        )
        metadata = vector_metadata(block.schema.field(self._column))
        yield from replace_vectors(
            block,
            self._column,
            results,
            metadata and postprocessed(metadata, postprocess),
            pc.coalesce(defects, flat),
            self._step,
            self._isolate,
            self._id_column,
        )


def postprocessed(metadata: VectorMetadata, postprocess: Postprocess) -> VectorMetadata:
    """Return the metadata of a column after `postprocess`."""
    return dataclasses.replace(
        metadata.derive({"postprocess": postprocess.fingerprint}),
        dim=postprocess.dim,
        normalized=True,
        quantization="float32",
        postprocess="; ".join(filter(None, [metadata.postprocess, postprocess.description])),
    )


def read_groups(block: Block, column: str, step: str) -> pa.Array:
    """Read the group of each row as a string."""
    if column not in block.schema.names:
        raise InputError(
            f"{step}: no column {column!r} among {', '.join(block.schema.names)}; "
            "name one by group_column"
        )
    return value_texts(block.column(column)).cast(pa.string())


def _group_defects(names: pa.Array, postprocess: Postprocess, column: str) -> pa.Array:
    """Say why a row has no mean to subtract: a string array, null where it has one."""
    unseen = pc.binary_join_element_wise(
        f"{column} was not in the corpus that was fitted: ", names, ""
    )
    fitted = pc.is_in(names, pa.array(postprocess.groups or (), pa.string()))
    reasons = pc.if_else(pc.is_null(names), f"{column} is null", unseen)
    return pc.if_else(fitted, None, reasons)
