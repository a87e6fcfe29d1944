"""Decode an image: bytes --> `decode_image` --> RGB, upright, or the reason why there is none.

Pillow reads the formats that web and cameras have. Others that it knows start programs, such as
PostScript's, and are left out. Of an animation, or a file of several pages, it is the first one.
"""

import contextlib
import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

# An image that says it is larger is not decoded. Pillow holds 4 bytes for a pixel, 16 while what is
# transparent is put on white: 1 GB. It refuses above twice its own limit, 178,956,970.
MAX_PIXELS = 1 << 26
PILLOWS_LIMIT = 178_956_970


class ImageError(InputError):
    """Report an image that cannot be embedded; the message says what is wrong with it.

    It goes on where a column or a position is named: "is empty".
    """


def import_pillow() -> Any:
    """Import Pillow.

    Raises:
      InputError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"images need Pillow ({error}); pip install 'beam-gpte[images]'"
        ) from error
    return Image


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow was built with."""
    pillow = import_pillow()
    pillow.init()
    return tuple(kind for kind in FORMATS if kind in pillow.OPEN)


def check_max_pixels(max_pixels: int) -> None:
    """Check a limit of pixels.

    Raises:
      InputError: it is not positive, or above what Pillow decodes.
    """
    if type(max_pixels) is not int or not 1 <= max_pixels <= PILLOWS_LIMIT:
        raise InputError(f"max_pixels is {max_pixels!r}; use 1 to {PILLOWS_LIMIT:,}")


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Decode an image, turned as its EXIF orientation says.

    Args:
      content: of its file.
      max_pixels: the maximum width times height, as the file says before it is decoded.

    Returns:
      An image of mode RGB. What is transparent becomes white, as in transformers since 5.22; of 16
      bits of gray the upper 8 remain.

    Raises:
      ImageError: it is empty, of no known format, cut or damaged, or too large.
    """
    pillow = import_pillow()
    if not content:
        raise ImageError("is empty")
    try:
        with pillow.open(io.BytesIO(content), formats=_known_formats()) as image:
            _check_size(image.width, image.height, max_pixels)
            image.load()
            _turn_upright(image)
            return to_rgb(image)
    except ImageError:
        raise
    except pillow.DecompressionBombError as error:
        raise ImageError(f"has too many pixels: {error}; scale it down") from error
    except pillow.UnidentifiedImageError as error:
        # without its beginning: a path may name a file that nobody is to see
        raise ImageError(
            f"is not an image: it is none of {', '.join(FORMATS)}; convert it, or leave it out"
        ) from error
    except MemoryError as error:
        raise ImageError("does not fit the memory: scale it down") from error
    except Exception as error:  # each format has its own way to fail
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}; get it again, or leave it out") from error


def is_within(content: bytes, max_pixels: int) -> bool:
    """Return whether an image says that it has at most so many pixels; it is not decoded.

    False for what `decode_image` refuses before, too.
    """
    pillow = import_pillow()
    try:
        with pillow.open(io.BytesIO(content), formats=_known_formats()) as image:
            _check_size(image.width, image.height, max_pixels)
    except Exception:  # each format has its own way to fail, and `decode_image` names it
        return False
    return True


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels: {width} x {height}; leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"has too many pixels: {width} x {height}, above max_pixels {max_pixels:,}; scale it "
            "down, or raise max_pixels"
        )


def _turn_upright(image: "Image.Image") -> None:
    from PIL import ImageOps

    # of any kind: EXIF that cannot be read says nothing of the orientation
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: "Image.Image") -> "Image.Image":
    """Convert an image of any mode to RGB; see `decode_image`.

    Raises:
      ImageError: its pixels have 32 bits.
    """
    pillow = import_pillow()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return pillow.fromarray(gray).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(
            f"has pixels of 32 bits: mode {image.mode!r}, whose range is not known; convert it to "
            "8 or 16 bits"
        )
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())  # of colors that are multiplied by alpha
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = pillow.alpha_composite(white, image)
    return image.convert("RGB")
