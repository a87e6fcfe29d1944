"""Run an `ImageEncoder` inside Beam's `RunInference`, over blocks of images."""

import time

import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import IMAGE_KEY
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import naming
from beam_gpte.core.images.image_encoder import ImageEncoder, ImageEncoding
from beam_gpte.core.process import torch_threads
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.embedding.handlers.block_handler import BlockModelHandler, with_reasons
from beam_gpte.embedding.images.previous_images import hash_field
from beam_gpte.embedding.images.read_images import read_images
from beam_gpte.embedding.shared_models import shared_model
from beam_gpte.files.meter import TEXTS, report

COUNTERS = ("images", "vectors", "images_repeated", "out_of_memory_retries")


class ImageEmbeddingModelHandler(BlockModelHandler[ImageEncoder]):
    """Embed images with a pretrained model, loaded once per worker process for all steps.

    Args:
      config: the model.
      image_column: of bytes, paths or URIs.
      vectors: the column where the vectors go.
      hashes: the column where the hashes of images go; None for none.
      max_pixels: of an image, above which it is not decoded.
      isolate_failures, id_column, runtime: see `BlockModelHandler`.
    """

    step = "EmbedImages"
    counters = COUNTERS

    def __init__(
        self,
        config: EncoderConfig,
        image_column: str,
        vectors: str,
        hashes: str | None,
        max_pixels: int,
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(config, isolate_failures, id_column, runtime)
        self._image_column = image_column
        self._vectors = vectors
        self._hashes = hashes
        self._max_pixels = max_pixels

    def _load_shared(self) -> ImageEncoder:
        return shared_model(ImageEncoder.load, self._config)

    def _run(self, block: Block, model: ImageEncoder) -> Block:
        images = read_images(block.column(self._image_column))
        began = time.monotonic()
        with torch_threads(self._threads), naming(self.step):
            found = model.encode_with_counts(images, self._max_pixels)
        _count(found, time.monotonic() - began)
        failed = {at: f"{self._image_column} {reason}" for at, reason in found.failed.items()}
        self._check(block, failed)
        (field,) = self._fields(model)
        block = block.without_columns([IMAGE_KEY]).with_column(field, _to_arrow(found))
        return with_reasons(self._with_hashes(block, pa.array(found.hashes, pa.string())), failed)

    def _reused(self, block: Block, model: ImageEncoder) -> Block:
        """Take vectors of a previous run as others do, and the hashes that found them."""
        rows = super()._reused(block, model)
        if IMAGE_KEY not in rows.schema.names:  # they were run
            return rows
        return self._with_hashes(rows.without_columns([IMAGE_KEY]), rows.column(IMAGE_KEY))

    def _with_hashes(self, block: Block, hashes: pa.Array) -> Block:
        if self._hashes is None:
            return block
        return block.with_column(hash_field(self._hashes, self._vectors), hashes)

    def _fields(self, model: ImageEncoder) -> tuple[pa.Field, ...]:
        return (model.metadata.field(self._vectors),)


def _to_arrow(found: ImageEncoding) -> pa.FixedSizeListArray:
    """Convert vectors to Arrow, null for an image that failed."""
    bad = np.isin(np.arange(len(found.vectors)), list(found.failed))
    flat, dim = pa.array(found.vectors.reshape(-1)), found.vectors.shape[1]
    return pa.FixedSizeListArray.from_arrays(flat, dim, mask=pa.array(bad) if bad.any() else None)


def _count(found: ImageEncoding, seconds: float) -> None:
    images = len(found.vectors) - len(found.failed)
    values = images, images, max(0, images - found.distinct), found.retries
    for name, value in zip(COUNTERS, values, strict=True):
        Metrics.counter(NAMESPACE, name).inc(value)
    report(TEXTS, images)
    Metrics.distribution(NAMESPACE, "model_milliseconds").update(int(seconds * 1000))
