"""Images of every mode become RGB, upright; an invalid or a huge one says why."""

import io
import struct
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_gpte import InputError
from beam_gpte.core.images.decode import ImageError, check_max_pixels, decode_image
from tests.core.images.tiny_towers import draw, encoded

COLORS = (200, 40, 10)


def png(width: int, height: int, rows: bytes = b"", depth: int = 8) -> bytes:
    """Write a PNG of RGB by hand, of any size that its header claims."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    data = chunk(b"IDAT", zlib.compress(rows))
    return signature + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_formats_without_loss_give_their_pixels(kind: str) -> None:
    image = Image.new("RGB", (6, 4), COLORS)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode_image(encoded(image, kind, **options))
    assert (found.mode, found.size) == ("RGB", (6, 4))
    assert np.array_equal(np.asarray(found), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "color", "wanted"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 0), (255, 255, 255)),  # what is transparent is white
        ("RGBA", (*COLORS, 255), COLORS),
        ("RGBA", (*COLORS, 0), (255, 255, 255)),
        ("I;16", 0x4D12, (0x4D, 0x4D, 0x4D)),  # the upper 8 of 16 bits
    ],
)
def test_modes_become_rgb(mode: str, color: object, wanted: tuple[int, int, int]) -> None:
    found = decode_image(encoded(Image.new(mode, (3, 2), color)))
    assert found.getpixel((1, 1)) == wanted


def test_a_palette_with_a_transparent_color_is_white_there() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *COLORS])
    image.putpixel((0, 0), 0)
    found = decode_image(encoded(image, "PNG", transparency=0))
    assert (found.getpixel((0, 0)), found.getpixel((1, 1))) == ((255, 255, 255), COLORS)


def test_four_colors_of_print_become_rgb() -> None:
    found = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert found.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_rgb_is_that_of_transformers(mode: str) -> None:
    from transformers.image_transforms import convert_to_rgb

    image = draw(3, mode="RGB").convert(mode)
    if "A" in image.getbands():
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    kind = "TIFF" if mode == "CMYK" else "PNG"
    wanted = convert_to_rgb(Image.open(io.BytesIO(encoded(image, kind))), return_numpy=True)
    assert np.array_equal(np.asarray(decode_image(encoded(image, kind))), wanted)


def test_exif_turns_an_image() -> None:
    image = Image.new("RGB", (6, 2), COLORS)
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    assert decode_image(encoded(image, "JPEG", exif=exif)).size == (2, 6)


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    content = encoded(Image.new("RGB", (6, 2), COLORS), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert decode_image(content).size == (6, 2)


def test_of_an_animation_it_is_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (255, 0)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content).getpixel((0, 0)) == (255, 0, 0)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "a text": (lambda: b"This is a caption.", "is not an image: it is none of AVIF, BMP"),
    "a web page": (lambda: b"<!DOCTYPE html><html></html>", "is not an image"),
    "a program of PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is not",
    ),
    "a JPEG that is cut": (lambda: encoded(draw(), "JPEG")[:700], "cannot be decoded: "),
    "a PNG that is cut": (lambda: encoded(draw())[:900], "cannot be decoded: "),
    "a PNG without rows": (lambda: png(9, 9), "cannot be decoded: "),
    "no width": (lambda: png(0, 9), "is not an image"),
    "30,000 pixels a side": (lambda: png(30_000, 30_000), "has too many pixels: "),
    "a bit too many": (lambda: png(10_000, 7_000), "has too many pixels: 10000 x 7000"),
    "floats": (lambda: encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "has pixels of 32 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_image_says_why(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(ImageError) as caught:
        decode_image(make())
    assert str(caught.value).startswith(reason)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damaged_files_give_an_image_or_a_reason(seed: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(encoded(draw(1, 24, 20), kind))
    for at in generator.integers(0, len(content), 4):
        content[at] = generator.integers(0, 256)
    try:
        found = decode_image(bytes(content[: generator.integers(1, len(content) + 1)]), 1 << 20)
    except ImageError:
        return
    assert found.mode == "RGB"


def test_the_limit_of_pixels_is_the_users() -> None:
    content = encoded(draw(0, 20, 10))
    assert decode_image(content, 200).size == (20, 10)
    with pytest.raises(ImageError, match=r"has too many pixels: 20 x 10, above max_pixels 199"):
        decode_image(content, 199)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, 1 << 40])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(InputError, match="max_pixels is"):
        check_max_pixels(limit)  # type: ignore[arg-type]


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install 'beam-gpte\[images\]'"):
        decode_image(b"x")
