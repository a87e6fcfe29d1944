"""Damage the files of a model, for tests of what refuses it: each function returns a change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 90868376\n"

Change = Callable[[Path], object]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **settings: Any) -> None:
    """Set some keys of a JSON file."""
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **settings})


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, share: float = 0.5) -> Change:
    def half(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return half


def put(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def set_in(name: str, **settings: Any) -> Change:
    return lambda folder: change(folder / name, **settings)


def all_of(*changes: Change) -> Change:
    return lambda folder: [one(folder) for one in changes]
