"""EmbedText by a server: the model runs behind HTTP, its key comes from the environment.

The server is a stand-in on this machine, which answers as OpenAI's `/v1/embeddings` does. OpenAI's
own is ``EndpointConfig("https://api.openai.com/v1", "text-embedding-3-small",
headers={"Authorization": "Bearer ${OPENAI_API_KEY}"})``.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import EmbedText, EndpointConfig

KEY = "a key"


class Model(BaseHTTPRequestHandler):
    """Embed a text as its numbers of characters and of words; take 30 characters at most."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = [[len(text), len(text.split())] for text in asked["input"]]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        status, answer = 200, {"data": data, "usage": {"total_tokens": len(data)}}
        if self.headers["Authorization"] != f"Bearer {KEY}":
            status, answer = 401, {"error": {"message": "no such key"}}
        elif any(length > 30 for length, _ in vectors):
            status, answer = 400, {"error": {"message": "a text is too long"}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


os.environ["STAND_IN_KEY"] = KEY  # which only a shell or a secret would set
server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()

config = EndpointConfig(
    f"http://127.0.0.1:{server.server_port}/v1",
    "stand-in",
    headers={"Authorization": "Bearer ${STAND_IN_KEY}"},
    normalize=False,
    requests_per_second=100,
    dollars_per_million_tokens=0.02,
)
rows = [
    {"id": "a", "text": "a first text"},
    {"id": "b", "text": "a text of more characters than this model takes"},
    {"id": "c", "text": "another text"},
]
with beam.Pipeline("FnApiRunner") as p:
    vectors, rejects = p | beam.Create(rows) | EmbedText(config).with_exception_handling()
    numbers = vectors | beam.Map(lambda row: (row["id"], row["embedding"].tolist()))
    assert_that(numbers, equal_to([("a", [12, 3]), ("c", [12, 2])]), label="Vectors")
    reasons = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
    assert_that(reasons, equal_to([("b", "HTTP 400: a text is too long")]), label="Rejects")
