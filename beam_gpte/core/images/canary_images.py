"""Draw a few fixed images, by which vectors of one fingerprint are compared; see `core.canaries`.

As many as the fixed texts, which have the same purpose: gradients, edges, noise, and one that is
wider than high.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

VERSION = "images-1"  # of these drawings; raise it when they change


def canary_images() -> "list[Image.Image]":
    """Return the images, of mode RGB."""
    from PIL import Image

    rows, columns = np.mgrid[0:64, 0:64]
    gradient = np.stack([4 * rows, 4 * columns, 255 - 2 * (rows + columns)], axis=2)
    board = np.where((rows // 8 + columns // 8) % 2 == 0, 230, 25)
    edges = np.stack([board, np.flipud(board) // 2, 255 - board], axis=2)
    drawn = hashlib.shake_256(b"beam_gpte canary images").digest(16 * 16 * 3)
    noise = np.frombuffer(drawn, np.uint8).reshape(16, 16, 3).repeat(4, axis=0).repeat(4, axis=1)
    wide = np.concatenate([gradient[:32], edges[:32], noise[:32]], axis=1)
    arrays = (gradient, edges, noise, wide)
    return [Image.fromarray(np.ascontiguousarray(one, np.uint8)) for one in arrays]
