"""Let Beam's local runner for streams count all that a step does, not only its first bundle.

It makes a container of metrics for each bundle, and caches the states of a step with the first of
them; what later bundles count goes there, after it was read (Beam 2.77).
"""

import threading
from typing import Any

from apache_beam.metrics.execution import MetricsContainer


class StepContainers:
    """Provide one container per step and thread, as cached states have, emptied for each bundle."""

    def __init__(self) -> None:
        self._containers: dict[tuple[int, str], MetricsContainer] = {}

    def __call__(self, step: str) -> MetricsContainer:
        """Return the container of a step, for its next bundle in this thread."""
        key = threading.get_ident(), step
        if key not in self._containers:
            self._containers[key] = MetricsContainer(step)
        self._containers[key].reset()
        return self._containers[key]


def count_all_bundles() -> None:
    """Make the runner use `StepContainers`, in this process."""
    from apache_beam.runners.direct import executor  # only where a stream runs

    module: Any = executor
    module.MetricsContainer = StepContainers()
