"""Embed the images of a corpus: `blocks | EmbedImages(model)`.

rows or blocks --> CheckImages --> RunInference(model handler) --> CheckVectors --> blocks with an
                       |                                               |           embedding column
                       +------------------- rejects -------------------+

A block is a batch of `RunInference`; see `infer_blocks`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT, EMBEDDING, ID, IMAGE, IMAGE_SHA256, ROW
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.encoder.towers.tower_folder import check_image_settings
from beam_gpte.core.errors import InputError
from beam_gpte.core.images.decode import MAX_PIXELS, check_max_pixels
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform, split_rejects
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.images.image_storage import ImageStorage
from beam_gpte.embedding.images.previous_images import PreviousImages
from beam_gpte.embedding.images.read_images import image_defects
from beam_gpte.embedding.infer_blocks import infer_blocks, run_inference
from beam_gpte.embedding.reuse import AttachPreviousVectors, check_reuse


@dataclasses.dataclass(eq=False)
class EmbedImages(AddsColumns, RejectingTransform):
    """Embed the image of every row: add a column `FixedSizeList<float32>[dim]`.

    The model is a CLIP or a SigLIP, whose texts `EmbedText` embeds: the vectors of both are of one
    space and one fingerprint, so that texts find images, images find texts, and pairs of both are
    scored. Vectors are those of transformers' ``get_image_features``, of length 1.

    Takes blocks, pyarrow tables or record batches, mappings, Beam Rows, NamedTuples or
    `EmbeddableItem`s, and returns the same kind (see `elements.rows`). An image is bytes, a path or
    a URI such as gs://bucket/image.jpg, or a ``{bytes, path}`` of Hugging Face's datasets; Pillow
    decodes it on the worker, turned as its EXIF says, of an animation the first frame. Rows without
    an image (null, empty, no file, no image, cut, damaged, of too many pixels), or with a null id,
    fail the job, or are collected by `with_exception_handling()`, with their image as it came.

    Memory: the blocks that pass, the files that are read ahead of a store, one decoded image (4
    bytes a pixel, up to 16 where it is transparent), and the pixels of one batch. With `reuse` also
    the vectors of 1/256 of that run, and while it is read 64 MiB of its files.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig`, whose
        settings of texts change nothing here.
      image_column: the images to embed.
      id_column: names rows in messages; None if there is none. A collection without that column is
        fine.
      embedding_column: where the vectors go.
      keep_images: False leaves the images out of what is good: the column of blocks and tables is
        dropped, that of other rows becomes None.
      max_pixels: an image of more is not decoded, but rejected.
      reuse: Parquet files of a previous run, a folder or glob: images in it are not embedded again,
        provided that fingerprint and canaries of its vectors match this model. Images are matched
        by the SHA-256 of their files, never by path or id: those of the corpus are all read, once
        more if they are new, and the previous run must have either `image_sha256` (see `storage`)
        or, as bytes, its images. Counters ``not reused: ...`` say why not. Batch only.
      storage: what of the images is stored beside the vectors; see `ImageStorage`.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: another name for the vectors, as in ``{"embedding": "image_embedding"}``.
    """

    model: str | EncoderConfig
    image_column: str = IMAGE
    id_column: str | None = ID
    embedding_column: str = EMBEDDING
    keep_images: bool = True
    max_pixels: int = MAX_PIXELS
    reuse: str | None = None
    storage: ImageStorage = dataclasses.field(default_factory=ImageStorage)
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | EncoderConfig):
            raise InputError(f"model {self.model!r}: give a name, a folder or an EncoderConfig")
        check_image_settings(self._config)
        check_max_pixels(self.max_pixels)
        if self.image_column == self.id_column:
            raise InputError(f"image_column and id_column are both {self.id_column!r}; name two")
        if self.embedding_column in (self.image_column, self.id_column):
            raise InputError(
                f"embedding_column {self.embedding_column!r} is the image or id column; name "
                "another"
            )
        check_reuse(self.reuse)
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the vectors, and on demand the hashes of the images."""
        return (self.embedding_column, *((IMAGE_SHA256,) if self.storage.sha256 else ()))

    @property
    def _config(self) -> EncoderConfig:
        return EncoderConfig(self.model) if isinstance(self.model, str) else self.model

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with vectors; with exception handling, a tuple of them and the rejects."""
        images = (self.image_column,)
        return over_blocks(
            pcoll,
            self._embed,
            None,
            self.id_column,
            columns=images if self.keep_images else (),
            replaced=() if self.keep_images else images,
            added=self.added(),
        )

    def _embed(self, blocks: beam.PCollection[Block]) -> Any:
        names = self.image_column, self.id_column
        check = beam.FlatMap(_check_images, *names, self.added(), self.step, self._isolate)
        checks = ("CheckImages", check)
        added = [self.added()[name] for name in self.adds()]
        found = infer_blocks(self, blocks, checks, self._infer, "CheckVectors", added)
        if not self._isolate:
            return self._without_images(found)
        return GoodAndRejects(self._without_images(found.good), found.rejects)

    def _infer(self, images: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if self.reuse is not None:
            images = images | "Reuse" >> AttachPreviousVectors(self.reuse, self._previous)
        return images | "Infer" >> run_inference(self._handler(), self.runtime)

    @property
    def _previous(self) -> PreviousImages:
        hashes = self.added()[IMAGE_SHA256]
        return PreviousImages(
            self.image_column,
            self.id_column,
            (self._vectors,),
            hashes=hashes,
            max_pixels=self.max_pixels,
        )

    @property
    def _vectors(self) -> str:
        return self.added()[self.embedding_column]

    def _without_images(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if self.keep_images:
            return blocks
        drop = beam.Map(_without_images, self.image_column)
        return blocks | "DropImages" >> drop.with_output_types(Block)

    def _handler(self) -> Any:
        from beam_gpte.embedding.handlers.image_handler import ImageEmbeddingModelHandler

        handler = ImageEmbeddingModelHandler(
            self._config,
            self.image_column,
            self._vectors,
            self.added()[IMAGE_SHA256] if self.storage.sha256 else None,
            self.max_pixels,
            self._isolate,
            self.id_column,
            self.runtime,
        )
        handler.step = self.step
        return handler


def _check_images(
    block: Block,
    image_column: str,
    id_column: str | None,
    added: AddedColumns,
    step: str,
    isolate: bool,
) -> Iterator[Any]:
    """Separate the rows without an image or an id."""
    names = block.schema.names
    check_columns(block, (image_column,), step)
    added.check(names)
    defects = image_defects(block.column(image_column), image_column)
    if id_column is not None and id_column in names and ROW not in names:
        null_id = pc.if_else(pc.is_null(block.column(id_column)), f"{id_column} is null", None)
        defects = pc.coalesce(null_id, defects)
    if DEFECT in names:
        defects = pc.coalesce(block.column(DEFECT), defects)
        block = block.without_columns([DEFECT])
    yield from split_rejects(block, defects, step, isolate, id_column)


def _without_images(block: Block, column: str) -> Block:
    """Drop the images; of rows of other kinds, put None in their place."""
    if ROW not in block.schema.names:
        return block.without_columns([column])
    return with_hidden(block, pa.field(column, pa.null()), pa.nulls(len(block)))
