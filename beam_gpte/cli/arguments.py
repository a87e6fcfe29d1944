r"""Parse the command line of a program into its own options and flags for Beam.

    argv --> options of the program
        \--> flags that Beam knows --> `PipelineOptions`
         \-> any other flag: `InputError`, with the nearest one that is known

Names may be written with dashes or underscores: `--id-column` is `--id_column`.
"""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence

from beam_gpte.cli.beam_flags import beam_parser, flags_of_engines
from beam_gpte.cli.option_parser import OptionHelp, OptionParser
from beam_gpte.core.errors import InputError

BEAM = """\
Any other flag goes to Beam, such as --runner, --direct_num_workers, --direct_running_mode,
--job_endpoint, --streaming, --temp_location or --s3_region_name. Without --runner a job runs in
this process, on all its cores. Flags may be written with dashes or underscores."""
NO_BEAM = "Flags may be written with dashes or underscores."


@dataclasses.dataclass(frozen=True)
class Program:
    """Describe a program, a command of `beam-gpte`.

    Attributes:
      name: of the command, such as `embed`.
      about: what it does, its first line in a sentence; the docstring of its module.
      add_options: adds its options to a parser.
      run: takes its options, and the flags for Beam.
      is_job: whether it runs a pipeline, and so takes flags of Beam.
    """

    name: str
    about: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], None]
    is_job: bool = True


def make_parser(program: Program, command: str | None = None) -> OptionParser:
    """Make the parser of a program; `command` is what its user typed to start it."""
    parser = OptionParser(
        prog=command or f"beam-gpte {program.name}",
        description=program.about,
        epilog=BEAM if program.is_job else NO_BEAM,
        formatter_class=OptionHelp,
        allow_abbrev=False,
    )
    program.add_options(parser)
    return parser


def parse(
    program: Program, argv: Sequence[str], command: str | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Split a command line into the options of a program and flags for Beam.

    Raises:
      InputError: an option is missing or has a wrong value, or nobody knows a flag.
    """
    parser, given = make_parser(program, command), [underscored(part) for part in argv]
    required = [action for action in parser._actions if action.required]
    for needed in (False, True):  # an option that is missing may be one with a typo
        for action in required:
            action.required = needed
        options, others = parser.parse_known_args(given)
        _refuse_unknown(others, option_names(parser), program.is_job)
    return options, others


def underscored(part: str) -> str:
    """Write the name of a flag as it is declared, with underscores; its value stays."""
    name, equals, value = part.partition("=")
    if not re.fullmatch(r"--[A-Za-z][\w-]*", name):
        return part
    return "--" + name[2:].replace("-", "_") + equals + value


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """List the names of all options, such as `--input`."""
    return [name for action in parser._actions for name in action.option_strings]


def _refuse_unknown(parts: Sequence[str], ours: list[str], is_job: bool) -> None:
    if not parts:
        return
    unknown, known = list(parts), ours
    engine: frozenset[str] = frozenset()
    if is_job:
        of_beam = beam_parser()
        given, unknown = of_beam.parse_known_args(parts)
        names = [part.partition("=")[0] for part in unknown if part.startswith("--")]
        engine = flags_of_engines(names, given.job_endpoint)
        known = [*ours, *option_names(of_beam), *engine]
    has_value = False  # whether the part before is a flag of an engine, which may have one
    for part in unknown:
        name, equals, _ = part.partition("=")
        if name in engine:
            has_value = not equals
        elif name.startswith("-"):
            raise InputError(f"{name} is not an option{_nearest(name, known)}")
        elif has_value:
            has_value = False
        else:
            raise InputError(f"{part!r} follows no option; --help lists all options")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else "; --help lists all options"


def add_adapter_option(options: argparse._ActionsContainer) -> None:
    """Add `--adapter` and `--route`."""
    options.add_argument(
        "--adapter",
        help="LoRA adapter merged into the model: a folder, a hub name, or one of the model's own",
    )
    options.add_argument(
        "--route", help="of a model with routes, that which embeds the texts, e.g. query"
    )
