"""Run the steps of the container image in a clean folder: `python -m tests.engines.image`.

Without a container engine: each instruction of the recipe in docs/running/clusters.md is done in a
new folder and a new virtual environment, with the files that it copies and no others. The base
image is left out, and the model is a folder on this machine.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.engines.streams import model
from tests.engines.table import PAGE
from tests.programs import ROOT


def recipe() -> list[tuple[str, str]]:
    """Read the instructions of the page, each with its arguments."""
    block = re.search(r"```dockerfile\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if rest]


def build(folder: Path) -> None:
    """Do all instructions below a folder.

    Raises:
      CalledProcessError: a command failed.
    """
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    place = folder / "image"
    place.mkdir()
    keep = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    variables = {**keep, "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"}
    for name, rest in recipe():
        if name == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                copy(ROOT / source, place / target)
        elif name in ("ARG", "ENV"):
            key, _, value = rest.partition("=")
            value = value.strip('"').replace("/opt/", f"{folder}/opt/")
            variables[key] = model() if key == "MODEL" else value
        elif name == "RUN":
            print(rest, flush=True)
            subprocess.run(["sh", "-c", rest], cwd=place, env=variables, check=True)
        elif name not in ("#", "FROM", "WORKDIR"):
            raise ValueError(f"{name} is not known here")
    check = "import beam_gpte, sys; print(beam_gpte.__file__); import beam_gpte.cli.worker_pool"
    subprocess.run([folder / "venv/bin/python", "-c", check], cwd=folder, env=variables, check=True)


def copy(source: Path, target: Path) -> None:
    """Copy as the recipe does: a folder's content, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as clean:
        build(Path(clean))
