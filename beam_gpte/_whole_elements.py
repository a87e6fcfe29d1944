"""Keep Beam 2.77's local runner with several threads from cutting an element in two.

Its workers flush what they send every second, by a timer that does not wait for an element that is
being encoded: the timestamp and windows go in one piece, the value in the next. Another worker gets
that piece, and the job fails with "Error decoding input stream with coder"; under load every
twentieth run of a job of some seconds did. A piece also ends after 10 MB and with a bundle, which
is where an element does. So the environment of these workers asks for a timer of a day, unless it
asks for another; no other runner sets one.
"""

from typing import Any

from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

DAY_MS = 86_400_000

_default = vars(EmbeddedPythonGrpcEnvironment)["default"].__func__


def _without_timer(cls: Any) -> Any:
    environment = _default(cls)
    if environment.data_buffer_time_limit_ms is None:
        environment.data_buffer_time_limit_ms = DAY_MS
    return environment


EmbeddedPythonGrpcEnvironment.default = classmethod(_without_timer)  # type: ignore[method-assign, assignment]
