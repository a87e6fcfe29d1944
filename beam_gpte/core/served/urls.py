"""Check the URL of a server, find its endpoint, and write it without what may be secret."""

import ipaddress
import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from beam_gpte.core.errors import InputError, printable

# Parameters of a query that hold keys; `api-version` and the like do not.
_SECRET = re.compile(r"key|token|secret|passw|credential|signature|^sig$|^auth", re.IGNORECASE)


def check_url(url: object) -> None:
    """Refuse what is not the URL of a server, or holds a key.

    Raises:
      InputError: it is not http or https, has no host, or holds a user, a password or a key.
    """
    if not isinstance(url, str):
        raise InputError(f"url is of type {type(url).__qualname__}; give http://... or https://...")
    try:
        parts = urlsplit(url)
        is_web = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        )
    except ValueError:
        is_web, parts = False, urlsplit("")
    if not is_web or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InputError(f"url {public_url(url)!r}: give http://HOST... or https://HOST...")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"url {public_url(url)} holds a user or password; send it by headers, from the "
            "environment"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _SECRET.search(name):
            raise InputError(
                f"url {public_url(url)} has the parameter {name!r}, which may be a key; send it by "
                "headers, from the environment"
            )


def is_loopback(url: str) -> bool:
    """Check whether the host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_in_clear(url: str) -> bool:
    """Check whether what is sent there crosses a network unencrypted."""
    return urlsplit(url).scheme == "http" and not is_loopback(url)


def endpoint_url(url: str, root: str, last: str) -> str:
    """Complete the URL of a server to that of its endpoint.

    Args:
      url: of either.
      root: path of the endpoint where the URL has none, such as ``/v1/embeddings``.
      last: the end of every endpoint's path, such as ``/embeddings``; added where it is missing.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path:
        path = root
    elif not path.endswith(last):
        path += last
    return urlunsplit(parts._replace(path=path, fragment=""))


def public_url(url: str) -> str:
    """Write a URL without user and password, the values of its query, and what terminals obey."""
    scheme, separator, rest = printable(url).partition("://")
    rest, _, query = (rest if separator else scheme).partition("#")[0].partition("?")
    shown = rest.rpartition("@")[2]  # a password may have a / in it
    shown = f"{scheme}://{shown}" if separator else shown
    names = [name for name, _ in parse_qsl(query)]
    return f"{shown}?{urlencode([(name, '...') for name in names])}" if names else shown


def place(url: str) -> str:
    """Return host, port and path: what decides which model answers."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or ''}{parts.path.rstrip('/')}"
