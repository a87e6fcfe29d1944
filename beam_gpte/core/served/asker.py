"""Ask a server about items of any kind: `Asker.ask_all(requests)`, in threads, in parts if need be.

items --> requests --> threads --> client --> values, float32 (items, width)
            ^                        |
            +-- halves of refused <--+
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, NamedTuple

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.served.client import Answer, Client, Work
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.served.failures import PassingError, RefusedError, StoppedError
from beam_gpte.core.served.isolation import Parts, ask_in_parts
from beam_gpte.core.served.urls import public_url


class Made(NamedTuple):
    """Hold what a server made of a request: float32 (n, width), NaN for nothing, and its tokens."""

    values: np.ndarray
    tokens: int


class Request(NamedTuple):
    """Hold the items of a request, and about how many tokens each has, int64 (n,)."""

    items: list[Any]
    tokens: np.ndarray


class Asker:
    """Send requests of one form, and read their answers; safe to share between threads.

    Attributes:
      max_items: items of a request; less once the server has refused as many.

    Args:
      config: of the endpoint.
      client: sends requests.
      write: the body of a request for some items, JSON.
      read: what an answer for so many items holds; raises `PassingError` if it is damaged.
      plain: an item that every model takes.
      not_finite: why an item failed whose values are not finite.
    """

    def __init__(
        self,
        config: EndpointConfig,
        client: Client,
        write: Callable[[list[Any]], bytes],
        read: Callable[[Answer, int], Made],
        plain: Any,
        not_finite: str,
    ) -> None:
        self.max_items = config.max_items_per_request
        self._price = config.dollars_per_million_tokens
        self._client = client
        self._write, self._read = write, read
        self._plain, self._not_finite = plain, not_finite
        self._too_large = 0

    def ask(
        self,
        items: list[Any],
        tokens: float,
        work: Work,
        stop: threading.Event,
        can_split: bool = False,
        max_damaged: int | None = None,
    ) -> np.ndarray:
        """Ask about some items, all in one request: float32 (n, width).

        Args:
          items: at least one.
          tokens: of all of them, about.
          work: is counted up.
          stop: ends waiting.
          can_split: refuse early what may be the fault of one of several items.
          max_damaged: refuse after so many answers that cannot be read; None for all retries.

        Raises:
          RefusedError: the server does not take them together.
          InputError: it takes nothing, or does not answer.
        """
        damaged = 0

        def read(answer: Answer) -> Made:
            nonlocal damaged
            try:
                return self._read(answer, len(items))
            except PassingError as error:
                damaged += 1
                if damaged == max_damaged:
                    raise RefusedError(str(error)) from error
                raise

        def is_well() -> bool:
            plain = self._write([self._plain])
            return self._client.is_well(plain, lambda answer: self._read(answer, 1), work, stop)

        has_parts = can_split and len(items) > 1
        made = self._client.ask(self._write(items), read, tokens, work, stop, is_well, has_parts)
        if made.tokens:
            self._client.budget.correct(made.tokens - tokens)
        work.tokens += made.tokens
        return made.values

    def ask_all(self, requests: Sequence[Request], width: int) -> Iterator[tuple[int, Parts, Work]]:
        """Ask about the items of all requests at once, as far as threads are free.

        Yields:
          The number of a request, what became of its items, and the work, in any order.

        Raises:
          InputError: the server takes nothing, or does not answer; other requests are given up.
        """
        stop = threading.Event()
        tasks = (functools.partial(self._ask_in_parts, one, width, stop) for one in requests)
        running = {self._client.threads.submit(task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(running):
                if isinstance(future.exception(), StoppedError):
                    continue  # the request that failed says why
                yield running[future], *future.result()
        finally:  # after a failure, or an interrupt, nobody needs the other requests
            stop.set()
            for future in running:
                future.cancel()

    def counts(self, work: Work) -> dict[str, int]:
        """Name what a call has cost as counters."""
        counts = {
            "requests": work.requests,
            "request_retries": work.retries,
            "tokens": work.tokens,
        }
        if self._price is not None:
            counts["cost_microdollars"] = round(self._price * work.tokens)
        return counts

    def mistake(self, what: str) -> InputError:
        """Make an error that names the endpoint."""
        return InputError(f"{public_url(self._client.url)}: {what}")

    def _ask_in_parts(
        self, request: Request, width: int, stop: threading.Event
    ) -> tuple[Parts, Work]:
        """Ask about the items of one request, in parts where it is refused."""
        work, (items, tokens) = Work(), request

        def ask(at: list[int]) -> np.ndarray:
            some = [items[i] for i in at]
            return self.ask(some, float(tokens[at].sum()), work, stop, can_split=True)

        def check_well(reason: str) -> None:
            try:
                self.ask([self._plain], 1, work, stop)
            except RefusedError as error:
                raise self.mistake(f"it takes no text: {reason}") from error

        try:
            parts = ask_in_parts(len(items), width, ask, check_well, self._not_finite)
        except BaseException:
            stop.set()
            raise
        self._learn(parts.fitting)
        return parts, work

    def _learn(self, fitting: int | None) -> None:
        """Send fewer items at once where the server has taken parts alone, twice."""
        if fitting is not None:
            self._too_large += 1
            if self._too_large > 1:
                self.max_items = min(self.max_items, fitting)
