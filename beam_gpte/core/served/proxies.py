"""Open connections as the environment says: through its proxies, with the system's certificates."""

from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from beam_gpte.core.served.urls import is_loopback


def make_pool(url: str, size: int) -> urllib3.PoolManager:
    """Make a pool of connections to one host.

    A proxy is that of ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``; none for this machine.

    Args:
      url: of the host.
      size: how many connections are kept.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(1, maxsize=size, block=True)
    there = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if there.username is not None:
        user = f"{unquote(there.username)}:{unquote(there.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=user)
        there = there._replace(netloc=there.netloc.rpartition("@")[2])
    address = urlunsplit(there)
    return urllib3.ProxyManager(address, 1, proxy_headers=headers, maxsize=size, block=True)
