"""Write the examples to a folder: every transform in Python and YAML, the programs as pages.

    beam-gpte examples examples
    python examples/transforms/embed_text.py

`transforms/providers.yaml` there is what Beam YAML includes to know the transforms.
"""

import argparse
import shutil
from pathlib import Path

import beam_gpte
from beam_gpte import InputError
from beam_gpte.cli.arguments import Program

FOLDERS = ("transforms", "pipelines")
KINDS = (".jsonl", ".md", ".py", ".yaml")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="folder to create")


def run(options: argparse.Namespace, _: list[str]) -> None:
    output = options.output
    try:
        output.mkdir(parents=True)
        for name in FOLDERS:
            (output / name).mkdir()
            for path in sorted(examples_folder(name).iterdir()):
                if path.suffix in KINDS:
                    shutil.copyfile(path, output / name / path.name)
    except FileExistsError as error:
        raise InputError(f"output {output}: exists already; choose another name") from error
    except OSError as error:
        raise InputError(f"output {output}: {error.strerror}; choose a writable folder") from error
    places = " and ".join(str(output / name) for name in FOLDERS)
    print(f"{places}; begin with {output / FOLDERS[0] / 'README.md'}")


def examples_folder(name: str) -> Path:
    """Find a folder of examples: in the installed package, or at the top of the checkout."""
    package = Path(beam_gpte.__file__).parent
    installed = package / "examples" / name
    return installed if installed.is_dir() else package.parent / name


PROGRAM = Program("examples", __doc__, add_options, run, is_job=False)
