"""Tell failures of requests apart: what to send again, what to send in parts, what ends a job."""

from beam_gpte.core.errors import PassingInputError


class EndpointError(PassingInputError):
    """Report a server that has not answered after all retries: engines try the bundle again."""


class RefusedError(Exception):
    """Report a request that this server does not take as a whole; its parts it may take.

    Attributes:
      is_large: whether it may have been too large, which its status says.
    """

    def __init__(self, reason: str, is_large: bool = False) -> None:
        super().__init__(reason)
        self.is_large = is_large


class PassingError(Exception):
    """Report an attempt that another one may fix: a lost connection, 429, 5xx, a damaged answer.

    Attributes:
      pause: seconds that the server asks all to wait; None if it does not.
      is_suspect: whether the request itself may be the cause, as of status 500.
    """

    def __init__(self, reason: str, pause: float | None = None, is_suspect: bool = False) -> None:
        super().__init__(reason)
        self.pause = pause
        self.is_suspect = is_suspect


class StoppedError(Exception):
    """Report work that was given up because other work of the same call has failed."""
