"""Send requests to a server: connections, keys, times and retries, shared by a process's threads.

    body --> budget --> POST --> answer --> read --> result
               ^                   |          |
               +-- back off <------+----------+  429, 5xx, lost, late or damaged

What is sent again when, and how long to wait, says urllib3's `Retry`.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    SSLError,
)

from beam_gpte.core.errors import MAX_SHOWN, InputError
from beam_gpte.core.served.budget import RateBudget, wait
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.served.failures import EndpointError, PassingError, RefusedError
from beam_gpte.core.served.headers import expanded, variables, without_keys
from beam_gpte.core.served.messages import server_message
from beam_gpte.core.served.proxies import make_pool
from beam_gpte.core.served.urls import public_url

T = TypeVar("T")

CONNECT_SECONDS = 10.0
FIRST_WAIT, BACKOFF, MAX_WAIT = 0.25, 0.5, 60.0  # seconds: the first, its base, the longest
MAX_PAUSE = 120.0  # seconds that a server may ask for
SHORT_WAIT = 0.25  # where the server answers other requests
SUSPECT_TRIES = 2  # failures of a request that may be its own fault, before another is tried
WELL_TRIES = 3  # of a plain request, before a text is given up or the server
MAX_ANSWER = 256 << 20  # bytes
_PART = 1 << 16
MORE_THREADS = 2  # than requests: they write and read while as many requests as allowed are out

_REFUSED = (400, 413, 414, 422)
_PASSING = (408, 424, 425, 429)  # and all from 500
_SUSPECT = (424, 500)
_PAUSING = (429, 503)


class Answer(NamedTuple):
    """Hold the headers and the body of a successful response."""

    headers: urllib3.HTTPHeaderDict
    body: bytes


class Work:
    """Count what a call has cost: requests, those of them that were retries, tokens."""

    def __init__(self) -> None:
        self.requests = self.retries = self.tokens = 0

    def add(self, other: "Work") -> None:
        """Add the counts of another."""
        self.requests += other.requests
        self.retries += other.retries
        self.tokens += other.tokens


class Client:
    """Send the requests of all threads of a process to one endpoint.

    Attributes:
      url: of the endpoint.
      budget: of requests and tokens.
      threads: that write requests, send and read them; at most `max_concurrent_requests` of them
        wait for the server at a time.
    """

    def __init__(self, config: EndpointConfig, url: str) -> None:
        self.url = url
        self.budget = RateBudget(config.requests_per_second, config.tokens_per_minute)
        size = config.max_concurrent_requests
        self.threads = ThreadPoolExecutor(size + MORE_THREADS, thread_name_prefix="endpoint")
        self._places = threading.Semaphore(size)
        self._headers = dict(config.headers)
        self._seconds = config.timeout_seconds
        self._retry = urllib3.Retry(
            config.max_retries,
            allowed_methods=None,
            backoff_factor=BACKOFF,
            backoff_max=MAX_WAIT,
            retry_after_max=int(MAX_PAUSE),
        )
        self._pool = make_pool(url, size)

    def ask(
        self,
        body: bytes,
        read: Callable[[Answer], T],
        tokens: float,
        work: Work,
        stop: threading.Event,
        is_well: Callable[[], bool] = lambda: False,
        has_parts: bool = False,
    ) -> T:
        """Send a request until its answer can be read.

        Args:
          body: JSON.
          read: makes something of an answer; raises `PassingError` if it is damaged.
          tokens: of the request, about.
          work: is counted up.
          stop: ends waiting.
          is_well: tries whether the server answers a plain request.
          has_parts: give up early on a request that may be at fault itself: the caller splits it.

        Raises:
          RefusedError: the server does not take this request, and others it does.
          EndpointError: it has not answered after all retries.
          InputError: it will not answer, as without a valid key.
        """
        retry, suspects, began, well = self._retry, list[PassingError](), time.monotonic(), False
        while True:
            try:
                return read(self._send_in_turn(body, tokens, work, stop))
            except PassingError as failure:
                error = failure
            suspects += [error] if error.is_suspect else []
            if error.is_suspect and len(suspects) >= SUSPECT_TRIES and not well:
                well = is_well()
            if well and error.is_suspect and has_parts:
                raise RefusedError(str(error)) from error
            try:
                retry = retry.increment("POST", "", error=error)
            except MaxRetryError:
                tries = len(retry.history) + 1
                if 2 * len(suspects) > tries and any(is_well() for _ in range(WELL_TRIES)):
                    raise RefusedError(str(suspects[-1])) from error
                raise self._outage(error, tries, began) from error
            work.retries += 1
            if error.pause:
                self.budget.pause(min(error.pause, MAX_PAUSE))
            seconds = (retry.get_backoff_time() or FIRST_WAIT) * random.uniform(0.5, 1)
            wait(min(seconds, SHORT_WAIT) if well else seconds, stop)

    def is_well(
        self, body: bytes, read: Callable[[Answer], object], work: Work, stop: threading.Event
    ) -> bool:
        """Try whether the server answers a plain request at once."""
        try:
            read(self._send_in_turn(body, 1, work, stop))
        except (PassingError, RefusedError):
            return False
        return True

    def _send_in_turn(
        self, body: bytes, tokens: float, work: Work, stop: threading.Event
    ) -> Answer:
        """Send a request once, when there is a place for it and its turn has come."""
        with self._places:
            self.budget.take(tokens, stop)
            work.requests += 1
            return self.send(body)

    def send(self, body: bytes) -> Answer:
        """Send a request once.

        Raises:
          PassingError: another attempt may succeed.
          RefusedError: its content, or its size, is not taken.
          InputError: no request will be.
        """
        began = time.monotonic()
        try:
            response = self._pool.request(
                "POST",
                self.url,
                body=body,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                    "User-Agent": "beam-gpte",
                    **expanded(self._headers),
                },
                timeout=urllib3.Timeout(min(CONNECT_SECONDS, self._seconds), self._seconds),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = self._read(response, began)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except NewConnectionError as error:
            raise PassingError(str(error).rpartition(": ")[2]) from error
        except urllib3.exceptions.TimeoutError as error:
            raise PassingError(f"no answer within {self._seconds:g} seconds") from error
        except (HTTPError, OSError) as error:
            if isinstance(error, SSLError) and "CERTIFICATE" in str(error).upper():
                raise self._mistake(f"{error}; use the host that the certificate names") from error
            raise PassingError(f"{type(error).__name__}: {error}") from error
        if 200 <= response.status < 300:
            return Answer(response.headers, content)
        raise self._failure(response, content)

    def _read(self, response: urllib3.BaseHTTPResponse, began: float) -> bytes:
        """Read a body within the time and the size that are allowed."""
        parts, size = [], 0
        while part := response.read1(_PART, decode_content=False):
            parts.append(part)
            size += len(part)
            if time.monotonic() - began > self._seconds:
                raise PassingError(f"no whole answer within {self._seconds:g} seconds")
            if size > MAX_ANSWER:
                raise PassingError(f"an answer of more than {MAX_ANSWER:,} bytes", is_suspect=True)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and size < int(length):
            raise PassingError("the answer is cut", is_suspect=True)
        return b"".join(parts)

    def _failure(self, response: urllib3.BaseHTTPResponse, content: bytes) -> Exception:
        """Make the error of a status other than success."""
        status = response.status
        message = without_keys(server_message(content), self._headers)[:MAX_SHOWN]
        reason = f"HTTP {status}{message and ': '}{message}"
        if status >= 500 or status in _PASSING:
            pause = self._asked_pause(response) if status in _PAUSING else None
            return PassingError(reason, pause, status in _SUSPECT)
        if status in _REFUSED:
            return RefusedError(reason, is_large=True)
        if status < 400:
            there = public_url(response.headers.get("Location", ""))
            return self._mistake(f"{reason}, a redirect to {there}; give that URL")
        if status in (401, 402, 403, 407):
            keys = variables(self._headers)
            repair = f"check the key in {' and '.join(keys)}" if keys else "send a key by headers"
            return self._mistake(f"{reason}; {repair}")
        return self._mistake(f"{reason}; check url, model and api")

    def _asked_pause(self, response: urllib3.BaseHTTPResponse) -> float | None:
        try:
            return self._retry.get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None

    def _mistake(self, what: str) -> InputError:
        return InputError(f"{public_url(self.url)}: {what}")

    def _outage(self, error: PassingError, tries: int, began: float) -> EndpointError:
        seconds = time.monotonic() - began
        return EndpointError(
            f"{public_url(self.url)}: {error}; gave up after {tries} "
            f"{'try' if tries == 1 else 'tries'} in {seconds:.0f} s; "
            "see whether the server works, or raise max_retries or timeout_seconds"
        )
