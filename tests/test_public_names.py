"""The public interface: its path, its size, and that pickles of it load in another process."""

import dataclasses
import importlib
import inspect
import pickle
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

import beam_gpte
from beam_gpte.core.vectors.head import Head
from beam_gpte.core.vectors.postprocess import Moments, Postprocess, fit
from beam_gpte.core.vectors.vector_map import VectorMap
from beam_gpte.elements.rejects import RejectingTransform

ROOT = Path(__file__).resolve().parents[1]
MAX_ARGUMENTS = 7
NAMES = sorted(
    {name for name, value in vars(beam_gpte).items() if isinstance(value, type)}
    | set(beam_gpte._LATE)
)
TRANSFORMS = [name for name in NAMES if issubclass(getattr(beam_gpte, name), beam.PTransform)]


def test_import_star_gives_the_public_names_and_no_others() -> None:
    assert sorted(beam_gpte.__all__) == NAMES
    code = "from beam_gpte import *; print(sorted(n for n in dir() if n[0] != '_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(NAMES)


def test_type_checkers_know_the_late_names_as_classes(tmp_path: Path) -> None:
    given = "".join(f"{name}.__mro__\n" for name in beam_gpte._LATE)
    (tmp_path / "late.py").write_text(
        f"from beam_gpte import {', '.join(beam_gpte._LATE)}\n{given}"
    )
    command = [sys.executable, "-m", "mypy", str(tmp_path / "late.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def fitted() -> Postprocess:
    moments = Moments()
    moments.add(np.eye(3, dtype=np.float32), None, second=False)
    return fit(moments, "center")


def linear_head() -> Head:
    layer = np.eye(3, 2, dtype=np.float32), np.zeros(2, np.float32)
    return Head("classification", ("bad", "good"), (layer,), 1.0, 0.0, None, {})


def a_map() -> VectorMap:
    return VectorMap(np.eye(3, dtype=np.float32), *np.zeros((2, 3), np.float32), None, None, {})


# What has to be given; all else is left at its default.
REQUIRED: dict[str, dict[str, Any]] = {
    "AlignDocuments": {"document": "page", "order": ("paragraph", "sentence")},
    "ApplyHead": {"head": linear_head()},
    "ApplyPostprocess": {"postprocess": fitted()},
    "ApplyVectorMap": {"vector_map": a_map()},
    "ChunkText": {"by": "sentences", "size": 400},
    "ClusterVectors": {"clusters": 3},
    "CompactVectors": {"path": "vectors"},
    "Deduplicate": {"steps": (beam_gpte.DeduplicateExact(), beam_gpte.DeduplicateSemantic())},
    "DeleteVectors": {"path": "vectors"},
    "DistillStatic": {"model": "some/model", "path": "models/static"},
    "EmbedImages": {"model": "some/model"},
    "EmbedSparse": {"model": "some/model"},
    "EmbedText": {"model": "some/model"},
    "EmbedTokens": {"model": "some/model"},
    "FitHead": {"label_column": "quality"},
    "FitPostprocess": {"method": "center"},
    "PairDocuments": {"document": "page"},
    "QuantizeVectors": {"to": "int8"},
    "ReadCorpus": {"pattern": "*.parquet"},
    "ReadVectors": {"path": "vectors"},
    "Rerank": {"model": "some/model"},
    "ScoreTranslations": {"model": "some/model"},
    "SplitSentences": {"language": "de"},
    "WatchCorpus": {"pattern": "inbox/*.jsonl"},
    "WriteMoses": {"path": "pairs", "source_language": "de", "target_language": "en"},
    "WriteRejects": {"path": "rejects"},
    "WriteSummary": {"path": "summary.json"},
    "WriteTmx": {"path": "x.tmx", "source_language": "de", "target_language": "en"},
    "WriteVectorsToDuckDB": {"path": "vectors.duckdb"},
    "WriteVectorsToParquet": {"path": "vectors"},
}


def make(name: str) -> beam.PTransform:
    return getattr(beam_gpte, name)(**REQUIRED.get(name, {}))


def is_settings(parameter: inspect.Parameter) -> bool:
    """Whether an argument is a settings object: a frozen dataclass of plain values, or names."""
    kind = parameter.annotation
    return parameter.name == "rename" or (
        dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_object_names_the_path_it_is_imported_from(name: str) -> None:
    public = getattr(beam_gpte, name)
    assert public.__module__ == "beam_gpte"
    assert public.__qualname__ == name


def test_late_names_have_that_path_wherever_they_are_imported_from() -> None:
    """Each in a process that has imported nothing of ours before."""
    code = (
        "import importlib, os, sys\n"
        "import apache_beam, pyarrow\n"
        "assert 'beam_gpte' not in sys.modules\n"
        "for name, module in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    if os.fork() == 0:\n"
        "        public = getattr(importlib.import_module(module), name)\n"
        "        print(name, public.__module__, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    late = [part for pair in beam_gpte._LATE.items() for part in pair]
    command = [sys.executable, "-c", code, *late]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} beam_gpte" for name in beam_gpte._LATE]


def test_the_name_of_no_room_is_public() -> None:
    for name in NAMES:
        assert not inspect.ismodule(getattr(beam_gpte, name))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = beam_gpte.Nothing


def test_pickles_of_all_transforms_load_in_another_process(tmp_path: Path) -> None:
    made = {name: make(name) for name in TRANSFORMS}
    path = tmp_path / "transforms.pickle"
    path.write_bytes(pickle.dumps(made))
    code = (
        "import pickle, sys\n"
        "loaded = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for name, transform in sorted(loaded.items()):\n"
        "    print(type(transform).__module__, type(transform).__qualname__, name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"beam_gpte {name} {name}" for name in TRANSFORMS]
    assert b"beam_gpte." not in path.read_bytes().replace(b"beam_gpte.core.", b"")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_has_seven_arguments_at_most(name: str) -> None:
    parameters = inspect.signature(getattr(beam_gpte, name)).parameters.values()
    counted = [one.name for one in parameters if not is_settings(one)]
    assert len(counted) <= MAX_ARGUMENTS, counted


@pytest.mark.parametrize("name", TRANSFORMS)
def test_settings_objects_come_last(name: str) -> None:
    parameters = inspect.signature(getattr(beam_gpte, name)).parameters.values()
    kinds = [is_settings(one) for one in parameters]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_object_documents_its_attributes(name: str) -> None:
    public = getattr(beam_gpte, name)
    document = inspect.getdoc(public) or ""
    assert document.split("\n")[0].endswith((".", ":"))
    if dataclasses.is_dataclass(public):
        for field in dataclasses.fields(public):
            assert f"{field.name}" in document, field.name


def test_exception_handling_has_one_implementation() -> None:
    found = {
        name: getattr(beam_gpte, name).with_exception_handling
        for name in TRANSFORMS
        if hasattr(getattr(beam_gpte, name), "with_exception_handling")
    }
    assert len(found) > 10
    assert set(found.values()) == {RejectingTransform.with_exception_handling}
    for name in found:
        assert make(name).with_exception_handling()._isolate is True
        assert make(name)._isolate is False


def test_the_version_stands_in_one_place() -> None:
    assert version("beam-gpte") == beam_gpte.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    heading = f"## {beam_gpte.__version__} ("
    assert heading in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {beam_gpte.__version__}\n" in cited


def test_what_is_exported_is_what_is_imported() -> None:
    source = importlib.import_module("beam_gpte")
    assert {name for name in dir(source) if name[0].isupper() and name != "T"} | set(
        source._LATE
    ) == set(NAMES)
