"""Parse options: mistakes are an `InputError`, and `--help` shows every default."""

import argparse
from typing import NoReturn

from beam_gpte.core.errors import InputError


class OptionParser(argparse.ArgumentParser):
    """Raise an `InputError` for wrong use, and abbreviate no names."""

    def error(self, message: str) -> NoReturn:
        """Raise `message` as one line."""
        raise InputError(f"{message.removeprefix('argument ')}; --help lists all options")


class OptionHelp(argparse.RawDescriptionHelpFormatter):
    """Show the default of each option, or that it is required."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.help or ""
        if not action.option_strings or "(default:" in shown or action.dest == "help":
            return shown
        if action.required:
            return f"{shown} (required)"
        if action.default in (None, [], False):
            return f"{shown} (default: {'off' if action.default is False else 'none'})"
        return f"{shown} (default: %(default)s)"
