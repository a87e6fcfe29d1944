"""Let Beam's local runner for streams count all that a step does, not only its first bundle.

It makes a container of metrics for each bundle, and caches the states of a step with the first of
them; what later bundles count goes there, after it was read (Beam 2.77).
"""

import threading
from typing import Any

from apache_beam.metrics.execution import MetricsContainer
from apache_beam.runners.direct import executor


class StepContainers(threading.local):
    """Provide one container per step, as its cached states have, emptied for each bundle."""

    def __init__(self) -> None:
        self._containers: dict[str, MetricsContainer] = {}

    def __call__(self, step: str) -> MetricsContainer:
        """Return the container of a step, for its next bundle."""
        if step not in self._containers:
            self._containers[step] = MetricsContainer(step)
        self._containers[step].reset()
        return self._containers[step]


def count_all_bundles() -> None:
    """Make the runner use `StepContainers`, in this process."""
    module: Any = executor
    module.MetricsContainer = StepContainers()
