"""Name a launch of a pipeline when it is submitted, not when its graph is built.

    one `beam.Pipeline` --run()--> its steps are pickled: launch 1 --> workers, retries, restarts
                        --run()--> its steps are pickled: launch 2 --> workers, retries, restarts

Every worker that unpickles a step of one launch reads the same token, however often a runner
retries the step or restarts the job.
"""

import uuid


class Launch:
    """Hold a token that is drawn anew each time this object is pickled."""

    def __init__(self, token: str = "") -> None:
        self.token = token or uuid.uuid4().hex

    def __reduce__(self) -> tuple[type["Launch"], tuple[str]]:
        """Pickle as another launch."""
        return Launch, (uuid.uuid4().hex,)
