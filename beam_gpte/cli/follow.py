"""Run a job again whenever its input has changed, until a signal ends it.

look at the files --> others than before? --> run --> wait --> look ...
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from beam_gpte.cli.escaped_output import escaped
from beam_gpte.cli.streams import LOOK_SECONDS, stop_file
from beam_gpte.core.errors import InputError
from beam_gpte.sources.match_files import match_files

Versions = dict[str, tuple[int, float]]  # by path: size, and time of the last change


def follow(files: Sequence[str], every: float, run: Callable[[], None], name: str) -> None:
    """Run a job, and again once files have appeared, changed or vanished.

    SIGTERM or Ctrl-C lets a run that is at work finish; a second Ctrl-C ends it. What a run finds
    wrong with the input is printed, and tried again at the next look: a file may be written just
    now. Only the first run fails for it.

    Args:
      files: paths or globs.
      every: seconds between two looks.
      run: the job.
      name: of the program, for messages.
    """
    with stop_file() as stop:
        known: Versions | None = None
        while not Path(stop).exists():
            try:
                seen = versions(files)
                if seen != known:
                    run()
                    print(f"watching {' '.join(files)}; Ctrl-C or SIGTERM ends it", flush=True)
                known = seen
            except InputError as error:
                if known is None:
                    raise
                print(f"{name}: {error}", file=escaped(sys.stderr), flush=True)
            _wait(every, stop)


def versions(files: Sequence[str]) -> Versions:
    """Look at the files: sizes and times of those that match.

    Raises:
      InputError: a pattern matches none.
    """
    return {
        file.path: (file.size_in_bytes, file.last_updated_in_seconds or 0.0)
        for file in match_files(files, [])
    }


def _wait(seconds: float, stop: str) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not Path(stop).exists():
        time.sleep(min(LOOK_SECONDS, seconds))
