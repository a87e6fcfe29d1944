"""What Beam's --setup_file points at; all metadata are in pyproject.toml."""

from setuptools import setup

setup()
