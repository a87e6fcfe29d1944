"""Save each tiny model once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.multi_vectors import tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folders: dict[str, str] = {}

    def folder_of(name: str) -> str:
        if name not in folders:
            folder: Path = tmp_path_factory.mktemp("tokens") / "model"
            folder.mkdir()
            folders[name] = tiny_models.MODELS[name](folder)
        return folders[name]

    return folder_of
