"""Encode images into vectors: `ImageEncoder.encode(images) -> float32 (n, dim)`, in input order.

files --> distinct files --> RGB --> pixels --> batches --> image tower --> projection --> head

Of one batch the pixels are in the memory, and one image while it is decoded.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import checked_device, start_torch
from beam_gpte.core.encoder.batch_runner import CPU_TOKENS, GPU_TOKENS
from beam_gpte.core.encoder.batching import TokenBudget
from beam_gpte.core.encoder.config import EncoderConfig, hash_settings
from beam_gpte.core.encoder.heads import load_head
from beam_gpte.core.encoder.linear_layers import pack_linears
from beam_gpte.core.encoder.model_folder import ModelFolder, model_name
from beam_gpte.core.encoder.pretrained import named_failure
from beam_gpte.core.encoder.text_encoder import NOT_FINITE
from beam_gpte.core.encoder.towers.load_tower import Tower, load_image_tower
from beam_gpte.core.encoder.towers.tower_folder import check_image_settings
from beam_gpte.core.encoder.unpadded import to_device, warm_up_vector_math
from beam_gpte.core.errors import InputError
from beam_gpte.core.images.canary_images import VERSION, canary_images
from beam_gpte.core.images.decode import MAX_PIXELS, ImageError, check_max_pixels, decode_image
from beam_gpte.core.images.pixel_runner import PixelRunner
from beam_gpte.core.images.preprocess import Preprocessor
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.metadata import VectorMetadata

if TYPE_CHECKING:
    import torch

Outcome = int | str  # the row of an image's vector, or why it has none


@dataclasses.dataclass(frozen=True)
class ImageEncoding:
    """Hold the vectors of some images, and count the work.

    Attributes:
      vectors: float32 (n, dim); NaN for an image that failed.
      failed: why an image has no vector, by position.
      hashes: the SHA-256 of each image, hexadecimal; None where there is no content.
      distinct: number of distinct files that were run.
      retries: how often a batch was halved because it did not fit the memory.
    """

    vectors: np.ndarray
    failed: dict[int, str]
    hashes: list[str | None]
    distinct: int
    retries: int


class ImageEncoder:
    """Encode images with the image tower of a pretrained model; safe to share between threads.

    Same input, same vector: an image's neighbors change it by less than 1e-6 in fp32. Vectors are
    those of transformers' ``get_image_features``, of length 1 where `EncoderConfig.normalize`, in
    the space of the texts that `TextEncoder` embeds with the same model, and of the same
    fingerprint. Settings of texts, such as a template, change nothing here.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: ModelFolder,
        preprocess: Preprocessor,
        tower: Tower,
        head: "torch.nn.Sequential",
    ) -> None:
        import torch

        self.config = config
        self._preprocess = preprocess
        device = checked_device(config)
        self._device = torch.device(device)
        self._autocast: torch.dtype | None = None
        self._model = tower.model.to(device).eval()
        self._head = torch.nn.Sequential(tower.projection, *head).to(device).eval()
        settings = tower.model.config
        tokens = CPU_TOKENS if device == "cpu" else GPU_TOKENS
        self._patches = (settings.image_size // settings.patch_size) ** 2 + 1
        self._budget = TokenBudget(config.token_budget or tokens)
        self._take_precision()
        with named_failure(folder.root / "config.json", "does not suit the weights"):
            self.metadata = self._make_metadata(folder)

    @classmethod
    @one_at_a_time
    def load(
        cls, config: EncoderConfig | str, root: Path | None = None, adapter: Path | None = None
    ) -> "ImageEncoder":
        """Load the image tower of a model from a hub name or a folder, without the text tower.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: not taken.

        Raises:
          InputError: the model does not exist, has no image tower, has no safetensors, is
            incomplete or damaged; or Pillow is not installed.
        """
        config = start_torch(config)
        check_image_settings(config)
        folder = open_image_folder(config, root)
        tower = load_image_tower(folder, config)
        preprocess = Preprocessor.load(folder, tower.model.config.image_size)
        return cls(config, folder, preprocess, tower, load_head(folder.modules))

    @property
    def dim(self) -> int:
        """Return the dimensions of a vector."""
        return self.metadata.dim

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that changes a vector, that of the text tower too."""
        return self.metadata.fingerprint

    def encode(self, images: Iterable[bytes]) -> np.ndarray:
        """Embed images.

        Args:
          images: the contents of their files.

        Returns:
          float32 (n, dim), in the order of the images.

        Raises:
          InputError: an image cannot be embedded; the message names its position.
        """
        found = self.encode_with_counts(images)
        for position, reason in found.failed.items():
            raise InputError(f"image {position} {reason}")
        return found.vectors

    def encode_with_counts(
        self, images: Iterable[bytes | ImageError], max_pixels: int = MAX_PIXELS
    ) -> ImageEncoding:
        """Embed images, each distinct file once, and count the work; see `ImageEncoding`.

        Args:
          images: the contents of their files, taken one by one; or why there is none.
          max_pixels: of an image, above which it is not decoded.
        """
        check_max_pixels(max_pixels)
        outcomes: list[Outcome] = []
        known: dict[str, Outcome] = {}
        hashes: list[str | None] = []
        runner = PixelRunner(self._start, self._budget, self._patches)
        for image in images:
            if isinstance(image, ImageError):
                outcomes.append(str(image))
                hashes.append(None)
                continue
            key = hashlib.sha256(image).hexdigest()
            hashes.append(key)
            if key not in known:
                try:
                    pixels = self._preprocess(decode_image(image, max_pixels))
                    known[key] = runner.add(pixels)
                except ImageError as error:
                    known[key] = str(error)
            outcomes.append(known[key])
        return self._gather(outcomes, hashes, runner)

    def _gather(
        self, outcomes: list[Outcome], hashes: list[str | None], runner: PixelRunner
    ) -> ImageEncoding:
        """Put the vectors in the order of the images."""
        found = runner.finish()
        vectors = np.full((len(outcomes), self.dim), np.nan, np.float32)
        failed: dict[int, str] = {}
        for position, outcome in enumerate(outcomes):
            vector = found[outcome] if isinstance(outcome, int) else None
            if isinstance(outcome, str):
                failed[position] = outcome
            elif vector is None:
                failed[position] = "does not fit the memory: one image at once is too much"
            elif not np.isfinite(vector).all():
                failed[position] = f"has no vector: {NOT_FINITE}"
            else:
                vectors[position] = vector
        return ImageEncoding(vectors, failed, hashes, len(found), runner.retries)

    def _start(self, pixels: list[np.ndarray]) -> "torch.Tensor":
        """Start one forward pass over float32 (3, size, size); return float32 (n, dim)."""
        import torch

        with torch.inference_mode():
            vectors = self._forward(pixels)[:, : self.config.truncate_dim]
            normalize = torch.nn.functional.normalize
            return normalize(vectors, dim=1) if self.config.normalize else vectors

    def _forward(self, pixels: list[np.ndarray]) -> "torch.Tensor":
        import torch

        given = to_device(torch.from_numpy(np.stack(pixels)), self._device)
        with self._precision():
            pooled = self._model(pixel_values=given).pooler_output
        return self._head(pooled.float())

    def _take_precision(self) -> None:
        import torch

        precision = self.config.precision
        if self._device.type == "cpu":
            warm_up_vector_math()
            try:
                pack_linears(self._model, bf16=precision == "bf16")
            except NotImplementedError as error:
                raise InputError(f"precision {precision!r}: {error}") from error
            pack_linears(self._head)
        elif precision != "fp32":
            self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._autocast)

    def _make_metadata(self, folder: ModelFolder) -> VectorMetadata:
        """Measure the output on the canaries, and hash what can change a vector of the space."""
        import torch

        config, towers = self.config, folder.towers
        assert towers is not None  # see `open_image_folder`
        pixels = [self._preprocess(image) for image in canary_images()]
        with torch.inference_mode():
            whole = self._forward(pixels).cpu()
        full, is_unit = whole.shape[1], bool(((whole.norm(dim=1) - 1).abs() < 1e-5).all())
        if config.truncate_dim is not None and config.truncate_dim > full:
            raise InputError(
                f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full} "
                "dimensions; give at most that"
            )
        vectors = self._start(pixels).cpu().numpy()
        return VectorMetadata(
            model=model_name(config),
            fingerprint=space_fingerprint(config, folder),
            pooling=towers.pooling,
            prompt="",
            dim=vectors.shape[1],
            normalized=config.normalize or (is_unit and config.truncate_dim is None),
            engine=config.precision,
            canaries=canaries.sketch(vectors, config.precision, VERSION),
            modality="image",
        )


def open_image_folder(
    config: EncoderConfig, root: Path | None = None, weights: bool = True
) -> ModelFolder:
    """Find a model, and read what its files say.

    Args:
      config: names it.
      root: the local folder of the model where `config.model` names a remote place.
      weights: False for a machine that runs no model.

    Raises:
      InputError: it does not exist, is damaged, or takes no images.
    """
    folder = open_model_folder(_space(config), root, weights=weights)
    if folder.towers is None or not folder.towers.has_images:
        raise InputError(
            f"model {config.model!r} takes no images; use one with an image tower, of model_type "
            "clip or siglip"
        )
    return folder


def space_fingerprint(config: EncoderConfig, folder: ModelFolder) -> str:
    """Hash what changes the vectors of both towers: what a text gets without settings of texts."""
    resolved = {
        "files": folder.hash(config),
        "pooling": folder.pooling,
        "pool_prompt": True,
        "prompt": "",
        "max_tokens": None,
    }
    return hash_settings(_space(config), resolved)


def _space(config: EncoderConfig) -> EncoderConfig:
    """Return a configuration without its settings of texts."""
    return EncoderConfig(
        config.model,
        revision=config.revision,
        normalize=config.normalize,
        truncate_dim=config.truncate_dim,
        precision=config.precision,
        adapter=config.adapter,
    )
