"""Configure what of images is stored beside their vectors."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ImageStorage:
    """Choose what of images is stored beside their vectors.

    Attributes:
      sha256: add a column `image_sha256`, the SHA-256 of the file that was embedded, in hexadecimal
        digits as `sha256sum` prints them. By it `EmbedImages(reuse=...)` finds vectors again of
        images whose bytes the previous run has not stored: those that rows name by a path or URI,
        and those that `keep_images=False` leaves out.
    """

    sha256: bool = False
