"""Share a whole model, which tests copy before they change it, and its vectors."""

from pathlib import Path

import numpy as np
import pytest

from beam_gpte import TextEncoder
from tests.core.encoder import whole_model


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    whole_model.make(folder)
    return folder


@pytest.fixture(scope="session")
def whole_vectors(whole: Path) -> np.ndarray:
    return TextEncoder.load(str(whole)).encode(whole_model.TEXTS)
