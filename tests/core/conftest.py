"""Make a tiny model of each kind once."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.core.each_kind import Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Made]":
    """Keep what transformers imports of models with their own code out of the user's cache."""
    from transformers import dynamic_module_utils

    from tests.core.each_kind import Made

    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", cache)
        yield Made(tmp_path_factory.mktemp("kinds"))
    sys.path[:] = path
