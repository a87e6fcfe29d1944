"""A correction fitted once to a corpus, and applied to every vector that will be compared with it.

    fitted = vectors | FitPostprocess("center", group_column="language")        # a PCollection with one `Postprocess`
    vectors | ApplyPostprocess(fitted, group_column="language")

blocks --> moments of each bundle --> merged, one fit --(side input, or a file)--> other vectors in the place of these
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
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, vector_metadata
from beam_gpte.core.vectors.postprocess import Moments, Postprocess, check_method, fit
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE, RejectingTransform, reject_outputs
from beam_gpte.elements.rows import columns_as_blocks, over_blocks
from beam_gpte.elements.vectors import replace_vectors, vectors_with_defects

STEP = "ApplyPostprocess"


@dataclasses.dataclass(eq=False)
class FitPostprocess(beam.PTransform):
    """Fit a correction to a whole corpus; what the methods do is in `core.postprocess`.

    Takes what `EmbedText` gives; gives a PCollection with one `Postprocess`, or none for a corpus without vectors. Rows
    without a vector or a group are left out, and counted. A worker holds 8 dim^2 bytes (1.2 MB for 384 dimensions),
    8 dim for each group with ``center``.

    Attributes:
      method: ``center``, ``all_but_the_top`` or ``whiten``.
      components: principal components that ``all_but_the_top`` removes (default dim / 100) or ``whiten`` keeps (all).
      group_column: each of its values has a mean of its own: a language, a source.
      embedding_column: vectors of floats.
      path: a file to write the result to, on any Beam file system, for `ApplyPostprocess` and `load_postprocess`.
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
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                "FitPostprocess: a corpus is fitted as a whole, and a stream or a window is none; fit a sample in a batch "
                "job with path, and give that path to ApplyPostprocess"
            )
        columns = (
            (self.embedding_column, self.group_column)
            if self.group_column
            else (self.embedding_column,)
        )
        fitted = (
            columns_as_blocks(pcoll, columns)
            | "Fit" >> beam.CombineGlobally(_Fit(self)).without_defaults().with_output_types(Postprocess)
        )  # fmt: skip
        if self.path is None:
            return fitted
        return fitted | "Save" >> beam.Map(save_postprocess, self.path).with_output_types(
            Postprocess
        )


@dataclasses.dataclass(eq=False)
class ApplyPostprocess(RejectingTransform):
    """Replace every vector by the corrected one, of length 1; all other columns pass through untouched.

    Takes what `EmbedText` takes and gives the same kind back. The fingerprint changes with the fit: sinks refuse to mix
    corpora that were corrected differently. Queries need the same correction: `load_postprocess(path).apply(vectors)`.

    Rows whose vector is null, not finite or equal to the mean, or whose group was not fitted, fail the job, or are set
    aside by `with_exception_handling()`.

    Attributes:
      postprocess: what `FitPostprocess` gave, a `Postprocess`, or the path of a file that holds one; a path serves streams,
        and is what large fits need (8 dim^2 bytes), since a `Postprocess` travels in the job's description.
      group_column: the group of each row; needed if the corpus was fitted by group, and only then.
      embedding_column: vectors of floats, and then the corrected ones, float32.
      id_column: names rows in messages; None if there is none.
    """

    postprocess: beam.PCollection | Postprocess | str = dataclasses.field(repr=False)
    group_column: str | None = None
    embedding_column: str = EMBEDDING
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if not isinstance(self.postprocess, beam.PCollection | Postprocess | str):
            raise InputError(
                f"postprocess {self.postprocess!r}: give the output of FitPostprocess, or a path it wrote to"
            )
        if isinstance(self.postprocess, str) and not FileSystems.exists(self.postprocess):
            raise InputError(
                f"postprocess {self.postprocess!r}: no such file; write it by FitPostprocess(..., path)"
            )

    def expand(self, pcoll: beam.PCollection) -> Any:
        groups = (self.group_column,) if self.group_column else ()
        return over_blocks(
            pcoll, self._apply, None, self.id_column, groups, replaced=(self.embedding_column,)
        )

    def _apply(self, blocks: beam.PCollection[Block]) -> Any:
        given: Any = self.postprocess
        side = [beam.pvalue.AsIter(given)] if isinstance(given, beam.PCollection) else []
        known = None if side else given
        apply = _Apply(
            known, self.group_column, self.embedding_column, self.id_column, self._isolate
        )
        good, rejects = blocks | "Apply" >> reject_outputs(beam.ParDo(apply, *side))
        return (good, rejects) if self._isolate else good


def save_postprocess(postprocess: Postprocess, path: str) -> Postprocess:
    """Write `postprocess` to a file; it appears complete or not at all."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with FileSystems.create(partial, compression_type="uncompressed") as file:
        file.write(postprocess.to_bytes())
    if FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([partial], [path])
    return postprocess


def load_postprocess(path: str) -> Postprocess:
    """What `FitPostprocess` wrote to `path`, on any Beam file system.

    Raises:
      InputError: the file is something else.
    """
    with FileSystems.open(path, compression_type="uncompressed") as file:
        try:
            return Postprocess.from_bytes(file.read())
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


class _Fit(beam.CombineFn):
    def __init__(self, settings: FitPostprocess) -> None:
        self._method = settings.method
        self._components = settings.components
        self._group_column = settings.group_column
        self._column = settings.embedding_column

    def create_accumulator(self) -> Moments:
        return Moments()

    def add_input(self, moments: Moments, block: Block) -> Moments:
        vectors, defects = vectors_with_defects(block, self._column)
        groups = None
        if self._group_column is not None:
            names = read_groups(block, self._group_column)
            defects = pc.coalesce(defects, pc.if_else(pc.is_null(names), "no group", None))
            groups = names.filter(pc.is_null(defects)).to_pylist()
        Metrics.counter(NAMESPACE, "vectors_not_fitted").inc(len(defects) - defects.null_count)
        vectors = vectors[defects.is_null().to_numpy(zero_copy_only=False)]
        if len(vectors):
            moments.add(vectors, groups, second=self._method != "center")
        return moments

    def merge_accumulators(self, accumulators: Iterable[Moments]) -> Moments:
        merged = Moments()
        for moments in accumulators:
            merged.merge(moments)
        return merged

    def extract_output(self, moments: Moments) -> Postprocess:
        if not moments.counts:
            raise InputError(
                f"FitPostprocess: no row has a vector in column {self._column!r}; embed the corpus first"
            )
        return fit(moments, self._method, self._components)


class _Apply(beam.DoFn):
    def __init__(
        self,
        known: Postprocess | str | None,
        group_column: str | None,
        embedding_column: str,
        id_column: str | None,
        isolate: bool,
    ) -> None:
        self._known = known
        self._group_column = group_column
        self._column = embedding_column
        self._id_column = id_column
        self._isolate = isolate

    def setup(self) -> None:
        if isinstance(self._known, str):
            self._known = load_postprocess(self._known)

    def process(self, block: Block, fitted: Iterable[Postprocess] = ()) -> Iterator[Any]:
        postprocess = next(iter(fitted), self._known)
        if not isinstance(postprocess, Postprocess):
            raise InputError(
                "ApplyPostprocess: FitPostprocess saw no vectors; fit the corpus that this one is like"
            )
        vectors, defects = vectors_with_defects(block, self._column)
        if not vectors.shape[1]:  # not one vector in this block, so nothing says how long they are
            vectors = np.zeros((len(block), postprocess.means.shape[1]), np.float32)
        groups = None
        if self._group_column is not None:
            names = read_groups(block, self._group_column)
            groups = names.to_pylist()
            defects = pc.coalesce(defects, _group_defects(names, postprocess, self._group_column))
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
            STEP,
            self._isolate,
            self._id_column,
        )


def postprocessed(metadata: VectorMetadata, postprocess: Postprocess) -> VectorMetadata:
    """What a column says of itself after `postprocess`."""
    return dataclasses.replace(
        metadata.derive({"postprocess": postprocess.fingerprint}),
        dim=postprocess.dim,
        normalized=True,
        quantization="float32",
        postprocess="; ".join(filter(None, [metadata.postprocess, postprocess.description])),
    )


def read_groups(block: Block, column: str) -> pa.Array:
    """The group of each row as a string."""
    if column not in block.schema.names:
        raise InputError(
            f"no column {column!r} among {', '.join(block.schema.names)}; name one by group_column"
        )
    values = block.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())


def _group_defects(names: pa.Array, postprocess: Postprocess, column: str) -> pa.Array:
    """Why each row has no mean to take away: a string array, null where it has one."""
    unseen = pc.binary_join_element_wise(
        f"{column} was not in the corpus that was fitted: ", names, ""
    )
    fitted = pc.is_in(names, pa.array(postprocess.groups or (), pa.string()))
    why = pc.if_else(pc.is_null(names), f"{column} is null", unseen)
    return pc.if_else(fitted, None, why)
