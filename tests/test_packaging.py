"""What goes to workers by the route of Beam's --setup_file, and what users get by pip."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from apache_beam.runners.portability.stager import Stager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Beam stages for `--setup_file setup.py`."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("staged")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo")
    shutil.copytree(ROOT, source, dirs_exist_ok=True, ignore=ignored)
    return Path(Stager._build_setup_package(str(source / "setup.py"), str(target)))


def test_the_sdist_is_the_package_the_examples_and_what_builds_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    built = {"PKG-INFO", "setup.cfg", "beam_gpte.egg-info"}
    assert names - built == {
        "beam_gpte",
        "transforms",
        "pipelines",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
    }


def test_a_worker_installs_it_and_finds_every_module(sdist: Path, tmp_path: Path) -> None:
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(tmp_path),
        str(sdist),
    ]
    done = subprocess.run([sys.executable, *install], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [
        "beam_gpte",
        "beam_gpte",
        "bin",
    ]  # its dist-info, and the program
    package = tmp_path / "beam_gpte"
    for name in ("transforms", "pipelines"):
        installed, here = package / "examples" / name, ROOT / name
        named = [
            {path.name for path in folder.iterdir() if path.is_file()}
            for folder in (installed, here)
        ]
        assert named[0] == named[1] != set()
    shutil.rmtree(package / "examples")
    for kind in ("*.py", "*.html", "*.js"):
        there = {path.relative_to(tmp_path) for path in package.rglob(kind)}
        assert (
            there == {path.relative_to(ROOT) for path in (ROOT / "beam_gpte").rglob(kind)} != set()
        )
    assert (tmp_path / "beam_gpte" / "py.typed").exists()
    at = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = f"{at}; import beam_gpte; print(beam_gpte.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path / "beam_gpte" / "__init__.py")


def pins(file: str) -> dict[str, str]:
    """Versions by name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pinned = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pinned}


def asked_by_beam(extra: str) -> list[Requirement]:
    """What the installed Beam asks for with an extra, and does not without."""
    asked = [Requirement(line) for line in requires("apache-beam") or ()]
    return [one for one in asked if one.marker is not None and of_extra(one, extra)]


def of_extra(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
@pytest.mark.parametrize("extra", ["yaml", "interactive", "dataframe"])
def test_the_pins_are_versions_that_beam_s_extras_take(file: str, extra: str) -> None:
    asked = asked_by_beam(extra)
    assert "pandas" in {one.name for one in asked}
    pinned = pins(file)
    unfit = [
        f"{one} is not {pinned[name]}"
        for one in asked
        if (name := canonicalize_name(one.name)) in pinned
        and not one.specifier.contains(pinned[name])
    ]
    assert unfit == []


@pytest.mark.parametrize("extra", ["yaml", "interactive"])
def test_all_that_these_extras_ask_for_is_pinned(extra: str) -> None:
    names = {canonicalize_name(one.name) for one in asked_by_beam(extra)}
    assert names - pins("constraints.txt").keys() == set()


def test_the_extras_are_those_of_beam() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras["yaml"] == ["apache-beam[yaml]"]
    assert extras["notebook"] == ["apache-beam[interactive]"]
