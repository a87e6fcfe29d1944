"""Turn images into pixels as a model's image processor does: RGB --> float32 (3, size, size).

Transformers' own processor of Pillow does all but the resizing, which is the same call of Pillow
here, without its three copies of the whole image.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.pretrained import named_failure
from beam_gpte.core.encoder.towers.tower_folder import PROCESSOR, PROCESSORS, Towers
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.images.canary_images import canary_images
from beam_gpte.core.images.decode import ImageError, import_pillow
from beam_gpte.core.model_files import damage, read_settings

if TYPE_CHECKING:
    from PIL import Image

# Kinds of processors by the names that files give them.
_TYPES = {
    "CLIPImageProcessor": "clip",
    "CLIPFeatureExtractor": "clip",
    "SiglipImageProcessor": "siglip",
    "SiglipFeatureExtractor": "siglip",
}

# Sizes that depend on an image's shape.
_KEEP_THE_SHAPE = ("longest_edge", "max_height", "max_width")

# An image whose sides differ much is resized to more pixels than it has; CLIP crops them away.
MAX_RESIZED = 1 << 24


class Preprocessor:
    """Resize, crop and scale images as the files of a model say."""

    def __init__(self, processor: Any, size: int) -> None:
        """Take a processor.

        Args:
          processor: of transformers.
          size: pixels of each side that the model takes.
        """
        self._processor = processor
        self._size = size

    @classmethod
    def load(cls, folder: ModelFolder, size: int) -> "Preprocessor":
        """Read the processor of a model.

        Raises:
          InputError: there is none, it is of another kind, or gives pixels of another size than the
            model takes.
        """
        import_pillow()
        towers = folder.towers
        assert towers is not None  # the caller's concern
        if folder.image_arguments:
            raise InputError(
                f"model folder {folder.root}: processing_kwargs of images, "
                f"{shown(dict(folder.image_arguments))}, are not supported; write them into "
                f"{PROCESSOR}"
            )
        name, settings = _settings(towers)
        path = towers.folder / name
        processor_class = _class_of(_kind(settings, towers, path))
        with named_failure(path, "is not the configuration of an image processor"):
            processor = processor_class.from_dict(settings)
            _check(processor, size)
            made = cls(processor, size)
            _try(made)
            return made

    def __call__(self, image: "Image.Image") -> np.ndarray:
        """Return the pixels of an RGB image, float32 (3, size, size).

        Raises:
          ImageError: it is too long and narrow.
        """
        processor = self._processor
        if processor.do_resize:
            resample = None if processor.resample is None else int(processor.resample)
            image = image.resize(self._resized(*image.size), resample)
        given = processor.preprocess(image, do_resize=False, return_tensors="np")
        pixels = np.ascontiguousarray(given["pixel_values"][0], np.float32)
        if pixels.shape != (3, self._size, self._size):
            raise ImageError(
                f"has another size than the model takes: {pixels.shape[2]} x {pixels.shape[1]}, "
                f"not {self._size} x {self._size}; use a processor that resizes"
            )
        return pixels

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that the processor resizes to."""
        size = self._processor.size
        if not size.shortest_edge:
            return size.width, size.height
        short, long = sorted((width, height))
        longest = int(size.shortest_edge * long / short)
        if longest * size.shortest_edge > MAX_RESIZED:
            raise ImageError(
                f"is too long and narrow: {width} x {height} pixels would be resized to "
                f"{longest:,} x {size.shortest_edge}; crop it"
            )
        sides = size.shortest_edge, longest
        return sides if width <= height else sides[::-1]


def _settings(towers: Towers) -> tuple[str, dict[str, Any]]:
    """Return the settings of the processor, and the file that has them, as transformers does."""
    nested = read_settings(towers.folder / PROCESSORS[1], {}).get("image_processor")
    if isinstance(nested, dict):
        return PROCESSORS[1], nested
    return PROCESSOR, read_settings(towers.folder / PROCESSOR)


def _kind(settings: dict[str, Any], towers: Towers, path: Any) -> str:
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if named is None:
        return towers.kind
    kind = _TYPES.get(str(named).removesuffix("Fast").removesuffix("Pil"))
    if kind is None or settings.get("auto_map"):
        raise damage(
            path,
            f"names the image processor {shown(settings.get('auto_map') or named)}, which is not "
            "supported",
            f"use one of {', '.join(_TYPES)}",
        )
    return kind


def _class_of(kind: str) -> Any:
    if kind == "clip":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil


def _try(preprocess: Preprocessor) -> None:
    """Process an image, by which wrong numbers show.

    Raises:
      ValueError: says what is wrong.
    """
    try:
        preprocess(canary_images()[0])
    except ImageError as error:
        raise ValueError(f"an image {error}") from error


def _check(processor: Any, size: int) -> None:
    """Refuse a processor whose pixels do not fit the model.

    Raises:
      ValueError: says why.
    """
    resized = processor.size
    if processor.do_resize:
        if any(dict(resized).get(name) for name in _KEEP_THE_SHAPE):
            raise ValueError(f"size {dict(resized)} keeps the shape; use shortest_edge or both")
        edges = [edge for edge in (resized.shortest_edge, resized.height, resized.width) if edge]
        if max(edges, default=0) > 16 * size:
            raise ValueError(f"size {dict(resized)}, but the model takes {size} x {size}")
    given = processor.crop_size if getattr(processor, "do_center_crop", False) else resized
    sides = (given.height, given.width) if given is not None else (None, None)
    is_cropped = sides == (size, size)
    if not is_cropped and (given is not resized or processor.do_resize):
        raise ValueError(f"pixels of {dict(given)}, but the model takes {size} x {size}")
