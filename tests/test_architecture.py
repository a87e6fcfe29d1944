"""Imports point one way by folder, rooms stay small, and a launcher machine needs no torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "beam_gpte"

# The rooms, from the top down: a room imports from the floors below its own, never from its own.
FLOORS = (
    ("pipelines", "benchmarks", "transforms"),
    ("cli", "interop"),
    ("reports",),
    ("mining", "decontamination"),
    ("dedup",),
    ("neighbors",),
    ("embedding",),
    ("sources",),
    ("sinks",),
    ("shuffle", "text"),
    ("elements", "files"),
    ("core",),
)
# The same inside `core`; its own modules, such as `core.errors`, are the ground.
CORE_FLOORS = (
    ("mining", "dedup", "text", "served"),
    ("static", "scorers"),
    ("multi_vectors", "sparse", "images"),
    ("vectors", "encoder"),
)
LARGEST_ROOM = 16  # modules


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def named(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """All that a file imports, at any depth: `a` for `import a`, `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """The room of a dotted name: `dedup` of `beam_gpte.dedup.exact`; None for other packages."""
    parts = module.split(".")
    if parts[0] == "beam_gpte":
        return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else None
    return parts[0] if parts[0] in FLOORS[0] else None


def core_room(module: str) -> str | None:
    """The room inside `core`: `text` of `beam_gpte.core.text.minhash`."""
    parts = module.split(".")
    is_inside = parts[:2] == ["beam_gpte", "core"] and len(parts) > 2
    return parts[2] if is_inside and (PACKAGE / "core" / parts[2]).is_dir() else None


def floor(name: str, floors: tuple[tuple[str, ...], ...]) -> int:
    """How high a room stands; 0 is the lowest floor."""
    (found,) = (i for i, rooms in enumerate(reversed(floors)) if name in rooms)
    return found


def test_every_folder_is_a_room_on_one_floor() -> None:
    folders = {
        path.parent.relative_to(PACKAGE).parts[0] for path in modules() if path.parent != PACKAGE
    }
    assert folders == {name for rooms in FLOORS[1:] for name in rooms}
    inside = {path.parent.name for path in (PACKAGE / "core").glob("*/*.py")}
    assert inside == {name for rooms in CORE_FLOORS for name in rooms}


@pytest.mark.parametrize("path", modules(), ids=named)
def test_a_room_imports_only_from_the_floors_below(path: Path) -> None:
    own = room(named(path))
    if own is None:  # the public list
        return
    others = {name: room(name) for name in imported(path)}
    upwards = [
        name
        for name, other in others.items()
        if other not in (None, own) and floor(other, FLOORS) >= floor(own, FLOORS)
    ]
    assert upwards == []
    public = [
        name for name in others if name == "beam_gpte" or re.fullmatch(r"beam_gpte\.[A-Z]\w+", name)
    ]
    assert own in ("cli", "interop") or public == []  # the public list holds all rooms below these


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=named)
def test_core_imports_no_beam_and_its_rooms_only_from_below(path: Path) -> None:
    names = list(imported(path))
    assert [name for name in names if name.split(".")[0] == "apache_beam"] == []
    own, others = core_room(named(path)), {name: core_room(name) for name in names}
    upwards = [
        name
        for name, other in others.items()
        if other not in (None, own)
        and (own is None or floor(other, CORE_FLOORS) >= floor(own, CORE_FLOORS))
    ]
    assert upwards == []


def folders() -> list[Path]:
    return sorted({path.parent for path in modules()})


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_a_room_is_small_and_its_init_holds_one_docstring(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= LARGEST_ROOM
    if folder != PACKAGE:
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr]


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.relative_to(PACKAGE) for path in folders()}
    tested = {
        path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert tested <= {
        *rooms,
        *map(Path, ("engines", "matrix", "commits", "fuzz")),
    }  # what crosses all rooms


def test_the_map_for_newcomers_has_one_line_per_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"^```\nbeam_gpte/\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    named_there = re.findall(r"^ *([\w/]+)/ {2,}\S", listing, re.MULTILINE)
    rooms = [path.relative_to(PACKAGE).as_posix() for path in folders() if path != PACKAGE]
    assert sorted(named_there) == sorted(rooms)


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_loads_neither_torch_nor_transformers() -> None:
    heavy = ("torch", "transformers", "apache_beam.ml")
    code = f"import sys, beam_gpte; print([m for m in {heavy} if m in sys.modules])"
    assert printed(code) == "[]"


def test_deduplicating_vectors_loads_nothing_that_it_does_not_need() -> None:
    """What Beam, Polars and DuckDB themselves load stands before."""
    heavy = (
        "torch",
        "transformers",
        "apache_beam.ml",
        "scipy",
        "sklearn",
        "jinja2",
        "numpy.testing",
        "google.cloud",
    )
    code = (
        "import sys, apache_beam as beam, polars, duckdb\n"
        f"heavy = [m for m in {heavy} if m not in sys.modules]\n"
        "import pyarrow as pa\n"
        "from beam_gpte import Block, DeduplicateSemantic\n"
        "vectors = pa.array([[1.0, 0.0], [0.8, 0.6], [1.0, 0.0]], pa.list_(pa.float32(), 2))\n"
        "block = Block.from_pydict({'id': ['a', 'b', 'c'], 'embedding': vectors})\n"
        "with beam.Pipeline('FnApiRunner') as p:\n"
        "    p | beam.Create([block]) | DeduplicateSemantic()\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert printed(code) == "[]"


def test_a_pipeline_is_built_on_a_machine_that_has_neither() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None  # an import of either fails\n"
        "import apache_beam as beam, beam_gpte\n"
        "texts = beam.Pipeline() | beam.Create(['a'])\n"
        "print((texts | beam_gpte.EmbedText('some/model')).element_type)"
    )
    assert printed(code) == "Any"
