"""Share a folder that may not be listed, which root would list whatever its permissions."""

import os
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def refuse_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Refuse to list the folders of a name from now on."""

    def refuse(name: str) -> None:
        scan = os.scandir

        def refusing(path: str) -> Any:
            if str(path).endswith(f"/{name}/"):
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", refusing)

    return refuse
