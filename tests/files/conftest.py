"""Share a server that gives access tokens to everybody, and emulators of both object stores."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.files import stores
from tests.files.stores import Store


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Give everybody an access token; answer any other request with an error that asks for one."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, {"access_token": "x", "expires_in": 3600, "token_type": "Bearer"})

    def do_GET(self) -> None:
        self._answer(
            401,
            {
                "error": {
                    "code": 401,
                    "message": "Anonymous caller does not have storage.objects.list access.",
                }
            },
        )

    def _answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def token_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Start an emulator in a process of its own."""
    if request.param == "s3":
        with stores.s3() as found:
            yield found
    else:
        token_uri = f"{request.getfixturevalue('token_server')}/token"
        with stores.cloud_storage(tmp_path_factory.mktemp("cloud"), token_uri) as found:
            yield found
