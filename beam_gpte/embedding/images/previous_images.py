"""Say by what an image is found in a previous run: the SHA-256 of its file.

    rows: bytes, or files that are read ---------------> SHA-256 --+
                                                                   +--> equal: the same image
    previous rows: `image_sha256`, or bytes -----------> SHA-256 --+

A path alone is never compared: another image may be there now.
"""

import dataclasses
import hashlib
from typing import ClassVar

import pyarrow as pa

from beam_gpte.core.columns import IMAGE_KEY
from beam_gpte.core.images.decode import ImageError, is_within
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.embedding.images.read_images import read_images, stored_bytes
from beam_gpte.embedding.previous.previous_columns import PreviousColumns

# The key of the metadata of a column of hashes: the column of the vectors of these images.
OF_VECTORS = b"beam_gpte_image_of"


@dataclasses.dataclass(frozen=True)
class PreviousImages(PreviousColumns):
    """Name the columns of a previous run of `EmbedImages`.

    Attributes:
      text: the images, or where a file has them their hashes.
      hashes: the column of hashes, of files that have one.
      max_pixels: of an image of the corpus, above which it is not looked up, but rejected.
    """

    hashes: str = ""
    max_pixels: int = 0

    without_key: ClassVar = "the previous run has the paths of images, without their image_sha256"

    def of_file(self, schema: pa.Schema) -> "PreviousImages":
        """Return the columns of a file: hashes, where it has those of the images of its vectors."""
        if self.hashes not in schema.names:
            return self
        field = schema.field(self.hashes)
        of = (field.metadata or {}).get(OF_VECTORS, b"").decode()
        return dataclasses.replace(self, text=self.hashes) if of == self.made[0] else self

    def read_keys(self, values: pa.Array) -> pa.Array:
        """Return what previous rows are matched by, null for one of which only a path is known."""
        if self.text == self.hashes:
            return values
        hashes = [content and image_hash(content) for content in stored_bytes(values)]
        return pa.array(hashes, pa.string())

    def prepared(self, block: Block) -> Block:
        """Read the images of the corpus, and add their hashes; null for one that cannot be read."""
        images = read_images(block.column(self.text))
        hashes = [self._hash(image) for image in images]
        return with_hidden(block, pa.field(IMAGE_KEY, pa.string()), pa.array(hashes, pa.string()))

    def _hash(self, image: bytes | ImageError) -> str | None:
        if isinstance(image, ImageError) or not is_within(image, self.max_pixels):
            return None
        return image_hash(image)

    def keys(self, block: Block) -> list[bytes | None]:
        """Return what the rows of the corpus are matched by; None for nothing."""
        hashes = block.column(IMAGE_KEY).to_pylist()
        return [None if one is None else one.encode() for one in hashes]


def hash_field(name: str, vectors: str) -> pa.Field:
    """Return the field of the hashes of the images that `vectors` are of."""
    return pa.field(name, pa.string(), metadata={OF_VECTORS: vectors.encode()})


def image_hash(content: bytes) -> str:
    """Hash the content of a file."""
    return hashlib.sha256(content).hexdigest()
