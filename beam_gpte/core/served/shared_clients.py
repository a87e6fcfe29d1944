"""Hold one client per process for all models of one server, so that they share its rates."""

import threading
import weakref

from beam_gpte.core.served.client import Client
from beam_gpte.core.served.endpoint import EndpointConfig

_clients: weakref.WeakValueDictionary[tuple, Client] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def shared_client(config: EndpointConfig, url: str) -> Client:
    """Return the client of an endpoint, with the keys and limits of a configuration.

    Configurations that differ in other settings, such as the prompts of queries and documents,
    share it.
    """
    key = (
        url,
        tuple(sorted(config.headers.items())),
        config.max_concurrent_requests,
        config.requests_per_second,
        config.tokens_per_minute,
        config.timeout_seconds,
        config.max_retries,
    )
    with _lock:
        client = _clients.get(key)
        if client is None:
            client = _clients[key] = Client(config, url)
        return client
