"""Name a launch of a pipeline when it is submitted, not when its graph is built.

    one `beam.Pipeline` --run()--> its steps are pickled: launch 1 --> workers, retries, restarts
                        --run()--> its steps are pickled: launch 2 --> workers, retries, restarts

Every worker that unpickles a step of one launch reads the same token, however often a runner
retries the step or restarts the job, or a job that was saved is submitted. Beam 2.77's workers
pickle each step again, with the windows of its input: `is_repickled` tells that from a launch.
"""

import sys
import uuid
from typing import Any

_PICKLERS = (__name__, "apache_beam.internal.", "dill", "pickle")
_WORKERS = "apache_beam.runners.worker."


def is_repickled() -> bool:
    """Return whether a worker pickles a step that it has unpickled."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PICKLERS):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).startswith(_WORKERS)


class Launch:
    """Hold a token that is drawn anew each time this object is pickled."""

    def __init__(self, token: str = "") -> None:
        self.token = token or uuid.uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as another launch, unless a worker does."""
        return Launch, (self.token if is_repickled() else uuid.uuid4().hex,)


class Stager(Launch):
    """Hold a token that is drawn anew when a pipeline is submitted, and kept from then on.

    A runner that pickles a step again for each of its bundles keeps it, too.
    """

    def __init__(self, token: str = "", submitted: bool = False) -> None:
        super().__init__(token)
        self._submitted = submitted

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as another launch, unless this one was pickled before."""
        return Stager, (self.token if self._submitted else uuid.uuid4().hex, True)
