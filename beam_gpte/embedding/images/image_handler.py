"""Run an `ImageEncoder` inside Beam's `RunInference`, over blocks of images."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.images.image_encoder import ImageEncoder, ImageEncoding
from beam_gpte.core.process import torch_threads, tune_process
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.rejects import NAMESPACE, row_name
from beam_gpte.embedding.images.read_images import read_images
from beam_gpte.embedding.model_handler import watched_model
from beam_gpte.embedding.shared_models import announce, later, loaded, shared_model
from beam_gpte.files.meter import TEXTS, report

COUNTERS = ("images", "vectors", "images_repeated", "out_of_memory_retries")

tune_process()
from apache_beam.ml.inference.base import ModelHandler  # noqa: E402  # loads torch


class ImageEmbeddingModelHandler(ModelHandler[Block, Block, ImageEncoder]):
    """Embed images with a pretrained model, loaded once per worker process for all steps.

    Args:
      config: the model.
      image_column: of bytes, paths or URIs.
      vectors: the column where the vectors go.
      id_column: names rows in messages.
      isolate_failures: give an image that cannot be embedded a null vector, and its reason in the
        column `DEFECT`, instead of failing the batch.
      max_pixels: of an image, above which it is not decoded.
      runtime: threads and memory of the workers; see `TextEmbeddingModelHandler`.
    """

    step = "EmbedImages"  # the transform that errors name

    def __init__(
        self,
        config: EncoderConfig,
        image_column: str,
        vectors: str,
        id_column: str | None,
        isolate_failures: bool,
        max_pixels: int,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(large_model=runtime.large_model)
        self._config = config
        self._image_column = image_column
        self._vectors = vectors
        self._id_column = id_column
        self._isolate_failures = isolate_failures
        self._max_pixels = max_pixels
        self._threads = runtime.threads

    def load_model(self) -> ImageEncoder:
        """Return the model, which all steps of this process share, or a promise of it."""
        return self._load() if self.share_model_across_processes() else later(self._load)

    def _load(self) -> ImageEncoder:
        with naming(self.step):
            return shared_model(ImageEncoder.load, self._config)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`; see `TextEmbeddingModelHandler`."""
        if model_path:
            self._config = dataclasses.replace(
                self._config, model=watched_model(model_path), revision=None
            )

    def run_inference(  # type: ignore[override]
        self,
        block: Block,
        model: ImageEncoder,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Block]:
        """Return a block, which is a batch, with its vectors."""
        announce(COUNTERS)
        model = loaded(model)
        images = read_images(block.column(self._image_column))
        began = time.monotonic()
        with torch_threads(self._threads), naming(self.step):
            found = model.encode_with_counts(images, self._max_pixels)
        _count(found, time.monotonic() - began)
        for position, reason in found.failed.items() if not self._isolate_failures else ():
            row = row_name(block.slice(position, 1), self._id_column)
            raise InputError(
                f"{self.step}: {row}: {self._image_column} {reason}; fix the row, or collect such "
                "rows with .with_exception_handling() (error_handling in YAML)"
            )
        block = block.with_column(model.metadata.field(self._vectors), _to_arrow(found))
        if found.failed:
            reasons = [found.failed.get(i) for i in range(len(block))]
            named = [reason and f"{self._image_column} {reason}" for reason in reasons]
            why = pa.array(named, pa.string())
            block = with_hidden(block, pa.field(DEFECT, pa.string()), why)
        yield block

    def get_num_bytes(self, block: Block) -> int:  # type: ignore[override]
        """Count the bytes of a block, for Beam's metrics."""
        return block.batch.nbytes

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


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
