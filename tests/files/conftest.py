"""Share a server that gives access tokens to everybody."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest


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
