"""Let one job at a time write to an output, wherever its workers run and whoever launched it.

    launcher: take --> <output>/.stream-job: the owner's token <-- show_life: a step, at each tick
                                 |
                                 +--> committing: each commit asks whether it is still the owner

A job of a cluster outlives its launcher, so a lock of the launcher's process does not tell whether
it runs. What tells is that the file changes. A job of which nothing was seen for a while (lost, or
on its way back from a failure) loses its output to the next launcher, which waits for commits at
work.
"""

import contextlib
import dataclasses
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam

from beam_gpte.core.errors import InputError
from beam_gpte.sinks.runs.owner_files import owner_file

SILENCE = 30.0  # seconds without a sign of life, after which a job may lose its output
SILENT_TICKS = 3  # the same in ticks, where these are rarer
_ATTRIBUTE = "_beam_gpte_owner"  # of a pipeline
_SEPARATOR = " "


@dataclasses.dataclass(frozen=True)
class Owner:
    """Own an output for one job.

    Attributes:
      path: of a file that all launchers and workers see, in an existing folder or a bucket.
      interval: seconds between two signs of life.
      token: of the job.
    """

    path: str
    interval: float = 0.0
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def take(self) -> None:
        """Take the output over from a job that ended, or of which nothing was seen for a while.

        Raises:
          InputError: another job shows that it runs.
        """
        file = owner_file(self.path)
        first, warned = file.changed(), False
        while (silence := self._silence_of_owner()) > (quiet := file.now() - file.changed()):
            if file.changed() != first:
                raise InputError(
                    f"{os.path.dirname(self.path)}: another stream writes here; stop it, or name "
                    "another output"
                )
            if not warned:
                warned = True
                logging.getLogger(__name__).warning(
                    "%s: a stream wrote here and was not ended; waiting %.0f seconds for a sign "
                    "that it runs",
                    os.path.dirname(self.path),
                    silence - quiet,
                )
            time.sleep(0.5)
        silence = max(SILENCE, SILENT_TICKS * self.interval)
        file.write(f"{self.token}{_SEPARATOR}{silence}")

    def release(self) -> None:
        """Give the output up, once the job has ended; waits for commits at work."""
        if self._parts()[0] == self.token:
            owner_file(self.path).write("")

    def show_life(self) -> None:
        """Show that the job runs.

        Raises:
          InputError: it is no longer the owner.
        """
        with self._owned() as text:
            owner_file(self.path).touch(text)

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Keep the output for as long as a commit takes, where `owner_files` has locks.

        Raises:
          InputError: the job is no longer the owner.
        """
        with self._owned():
            yield

    @contextlib.contextmanager
    def _owned(self) -> Iterator[str]:
        with owner_file(self.path).held() as text:
            if text.split(_SEPARATOR)[0] != self.token:
                raise InputError(
                    f"{os.path.dirname(self.path)}: another stream was started here after this "
                    "one was ended, or gave no sign; this one stops"
                )
            yield text

    def _silence_of_owner(self) -> float:
        """Return for how long the present owner may be silent; 0 if there is none."""
        return float(self._parts()[1] or 0)

    def _parts(self) -> tuple[str, str]:
        """Return the present owner's token, and for how long it may be silent."""
        with owner_file(self.path).held() as text:
            token, _, silence = text.partition(_SEPARATOR)
        return token, silence


@dataclasses.dataclass(frozen=True)
class OwnedCommit:
    """Commit as long as the job owns its output.

    Attributes:
      owner: of the output.
      commit: a function.
    """

    owner: Owner
    commit: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Commit."""
        with self.owner.committing():
            return self.commit(*arguments)


def set_owner(pipeline: beam.Pipeline, owner: Owner | None) -> None:
    """Let all sinks that are added to a pipeline ask an owner, and what ticks show its life."""
    vars(pipeline)[_ATTRIBUTE] = owner


def owner_of(pipeline: beam.Pipeline) -> Owner | None:
    """Return the owner that was set, if any."""
    return vars(pipeline).get(_ATTRIBUTE)
