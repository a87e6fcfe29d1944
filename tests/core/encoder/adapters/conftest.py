"""Share a whole model and adapters of it, which tests copy before they change them."""

from pathlib import Path

import pytest

from tests.core.encoder import whole_model
from tests.core.encoder.adapters import tiny_adapters


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "whole"
    whole_model.make(folder)
    return folder


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapters.make(tmp_path_factory.mktemp("adapters") / "lora")
