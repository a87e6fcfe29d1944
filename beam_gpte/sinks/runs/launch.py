"""Name a launch of a pipeline when it is submitted, not when its graph is built.

    one `beam.Pipeline` --run()--> its steps are pickled: launch 1 --> workers, retries, restarts
                        --run()--> its steps are pickled: launch 2 --> workers, retries, restarts

Every worker that unpickles a step of one launch reads the same token, however often a runner
retries the step or restarts the job.
"""

import uuid
from typing import Any


class Launch:
    """Hold a token that is drawn anew each time this object is pickled."""

    def __init__(self, token: str = "") -> None:
        self.token = token or uuid.uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as another launch."""
        return Launch, (uuid.uuid4().hex,)


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
