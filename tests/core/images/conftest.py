"""Share tiny models, which tests copy before they change them, and images."""

from pathlib import Path

import pytest

from tests.core.images.tiny_towers import draw, encoded, make_clip, make_siglip


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {"clip": make_clip(root / "clip"), "siglip": make_siglip(root / "siglip")}


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Files of several formats, modes and shapes."""
    return [
        encoded(draw(0)),
        encoded(draw(1, 200, 40), "JPEG"),
        encoded(draw(2, 31, 300), "WEBP"),
        encoded(draw(3, mode="L")),
        encoded(draw(4).quantize(), "GIF"),
        encoded(draw(5, mode="RGBA")),
        encoded(draw(6, 32, 32), "BMP"),
    ]
