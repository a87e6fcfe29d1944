"""What Beam's --setup_file points at; all metadata are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXAMPLES = ("transforms", "pipelines")  # installed for `beam-gpte examples`


class BuildWithExamples(build_py):
    """Put the examples, which stand outside the package in a checkout, into it."""

    def run(self) -> None:
        """Copy all modules, then the examples."""
        super().run()
        if not self.editable_mode:
            target, leave = Path(self.build_lib, "beam_gpte", "examples"), "__pycache__"
            for name in EXAMPLES:
                ignored = shutil.ignore_patterns(leave)
                shutil.copytree(name, target / name, ignore=ignored, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithExamples})
