"""Share a rate among the threads of a worker: `budget.take(tokens)` waits for its turn.

Requests leave evenly spaced, without bursts. A server that asks for a pause stops all of them.
"""

import random
import threading
import time

from beam_gpte.core.served.failures import StoppedError

_SPREAD = 0.1  # share of a pause by which threads start at different times after it


class RateBudget:
    """Space requests and tokens in time; safe for threads.

    Args:
      requests_per_second: None for no limit.
      tokens_per_minute: None for no limit.
    """

    def __init__(
        self, requests_per_second: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        self._request = 0.0 if requests_per_second is None else 1 / requests_per_second
        self._token = 0.0 if tokens_per_minute is None else 60 / tokens_per_minute
        self._lock = threading.Lock()
        # when the next request may leave: by their rate, by that of tokens, after a pause
        self._by_requests = self._by_tokens = self._pause = 0.0

    def take(self, tokens: float, stop: threading.Event) -> None:
        """Wait until a request of so many tokens may leave.

        Raises:
          StoppedError: `stop` was set meanwhile.
        """
        with self._lock:
            turn = max(time.monotonic(), self._by_requests, self._by_tokens)
            self._by_requests = turn + self._request
            self._by_tokens = turn + tokens * self._token
        wait(turn - time.monotonic(), stop)
        while (left := self._pause - time.monotonic()) > 0:
            wait(left * (1 + _SPREAD * random.random()), stop)

    def correct(self, tokens: float) -> None:
        """Take so many tokens more, or give them back where they are below 0."""
        with self._lock:
            self._by_tokens += tokens * self._token

    def pause(self, seconds: float) -> None:
        """Let no request leave for some time."""
        with self._lock:
            self._pause = max(self._pause, time.monotonic() + seconds)


def wait(seconds: float, stop: threading.Event) -> None:
    """Wait, unless the work is given up.

    Raises:
      StoppedError: it is.
    """
    if stop.wait(seconds) if seconds > 0 else stop.is_set():
        raise StoppedError
