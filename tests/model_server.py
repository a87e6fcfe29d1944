"""A server of embeddings for tests: real HTTP on this machine, real vectors, and faults on demand.

It speaks OpenAI's `/v1/embeddings` and `/embed`, `/rerank` of text-embeddings-inference. A text's
vector is drawn from a hash of the text and of the model's version.
"""

import base64
import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIM = 8

# What a fault does to an answer; other numbers are statuses, too.
FAULTS = (
    "slow",
    "slow body",
    "429",
    "500",
    "503",
    "cut body",
    "cut json",
    "not json",
    "wrong count",
    "wrong dimension",
    "wrong index",
    "ragged",
    "dropped",
)


def vector_of(text: str, version: str = "1", dim: int = DIM) -> np.ndarray:
    """The vector that the server makes of a text, of length 1: float64 (dim,)."""
    seed = zlib.crc32(f"{version} {text}".encode())
    vector = np.random.default_rng(seed).standard_normal(dim)
    return vector / np.linalg.norm(vector)


def score_of(query: str, text: str) -> float:
    """The score that the server gives a pair."""
    return zlib.crc32(f"{query}\n{text}".encode()) / 2**32


class ModelServer:
    """Serve embeddings on a free port while it is a context.

    Attributes:
      version: of the model behind the name.
      dim: of its vectors.
      fault: gives the fault of a request by its number and texts, from `FAULTS`; None for none.
      fault_headers: of the answer where a fault is a status.
      max_items: texts of a request; more are refused with 422.
      max_chars: characters of a text; a request with a longer one is refused with 413.
      key: what `Authorization` has to be; None for no key. A wrong one is repeated in the answer.
      scale: length of the vectors.
      shortens: whether `dimensions` is known.
      lists: whether `/embed` answers with a list.
      knows_base64: whether base64 is known; else a request for it is refused.
      seconds: that a request takes.
      answer: gives the body of an answer to texts, in place of their vectors; None for these.
      slots: a semaphore of the requests that are answered at a time; None for all.
      requests: what was asked, in order.
    """

    def __init__(self, **settings: Any) -> None:
        self.version, self.dim, self.max_items, self.max_chars = "1", DIM, 1000, 1000
        self.fault: Callable[[int, list[str]], str | None] = lambda number, texts: None
        self.fault_headers: dict[str, str] = {}
        self.key: str | None = None
        self.knows_base64, self.seconds, self.scale = True, 0.0, 1.0
        self.shortens = self.lists = True
        self.slots: threading.Semaphore | None = None
        self.answer: Callable[[list[str]], bytes] | None = None
        self.requests: list[dict[str, Any]] = []
        self.at_once = self.max_at_once = 0
        self.lock = threading.Lock()
        for name, value in settings.items():
            setattr(self, name, value)

    def __enter__(self) -> "ModelServer":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.model = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def texts(self) -> list[list[str]]:
        """The texts of each request, in order."""
        return [request["texts"] for request in self.requests]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    model: ModelServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self) -> None:
        model: ModelServer = self.server.model  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = body.get("input", body.get("inputs", body.get("texts", [])))
        with model.lock:
            number = len(model.requests)
            request = {"path": self.path, "texts": texts, "body": body, "at": time.monotonic()}
            model.requests.append({**request, "headers": dict(self.headers)})
            model.at_once += 1
            model.max_at_once = max(model.at_once, model.max_at_once)
        try:
            with model.slots or contextlib.nullcontext():
                time.sleep(model.seconds)
            self._answer(model, texts, body, model.fault(number, texts))
        finally:
            with model.lock:
                model.at_once -= 1

    def _answer(self, model: ModelServer, texts: list[str], body: dict, fault: str | None) -> None:
        refusal = self._refusal(model, texts, body)
        if fault == "dropped":
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # a reset, as of a crash
            self.close_connection = True
            self.connection.close()
        elif fault and fault.isdigit():
            self._send(int(fault), {"error": f"{fault} on purpose"}, model.fault_headers)
        elif refusal is not None:
            self._send(*refusal)
        else:
            if fault == "slow":
                time.sleep(0.5)
            known = model.answer
            content = known(texts) if known else self._content(model, texts, body, fault)
            self._send(200, content, self._usage(texts), fault)

    def _refusal(self, model: ModelServer, texts: list[str], body: dict) -> tuple[int, dict] | None:
        given = self.headers.get("Authorization")
        if model.key is not None and given != model.key:
            return 401, {"error": {"message": f"wrong key: {given}"}}
        if any("echo the key" in text for text in texts):
            return 400, {"error": {"message": f"bad text, and your key is {given}"}}
        if body.get("encoding_format") == "base64" and not model.knows_base64:
            return 400, {"error": {"message": "encoding_format: unknown"}}
        if len(texts) > model.max_items:
            return 422, {"error": f"batch size {len(texts)} > {model.max_items}"}
        if any(len(text) > model.max_chars for text in texts):
            return 413, {"error": f"`inputs` must have less than {model.max_chars} tokens"}
        if any("poison" in text for text in texts):
            return 500, {"error": "the model has crashed"}
        return None

    def _content(self, model: ModelServer, texts: list[str], body: dict, fault: str | None) -> Any:
        if "query" in body:
            ranks = [
                {"index": i, "score": score_of(body["query"], text)} for i, text in enumerate(texts)
            ]
            return sorted(ranks, key=lambda rank: -rank["score"])[fault == "wrong count" :]
        dim = body.get("dimensions", model.dim) if model.shortens else model.dim
        dim += fault == "wrong dimension"
        made = [model.scale * vector_of(text, model.version, dim) for text in texts]
        for vector, text in zip(made, texts, strict=True):
            if "not finite" in text:
                vector[0] = float("nan")
        vectors: list[Any] = [
            None if "no vector" in text else vector
            for vector, text in zip(made, texts, strict=True)
        ]
        if fault == "wrong count":
            vectors = vectors[1:]
        if fault == "ragged":
            vectors[0] = None if vectors[0] is None else vectors[0][1:]
        write = _as_base64 if body.get("encoding_format") == "base64" else np.ndarray.tolist
        vectors = [None if one is None else write(one) for one in vectors]
        if "inputs" in body:
            return vectors if model.lists else {"data": vectors}
        data = [{"index": i, "embedding": one} for i, one in enumerate(vectors)]
        if fault == "wrong index":
            data[0]["index"] = 1
        used = sum(map(_tokens, texts))
        return {"data": data[::-1], "usage": {"prompt_tokens": used, "total_tokens": used}}

    def _usage(self, texts: Iterable[str]) -> dict[str, str]:
        return {"x-compute-tokens": str(sum(map(_tokens, texts)))}

    def _send(
        self, status: int, content: Any, headers: dict | None = None, fault: str | None = None
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if fault == "cut json":
            data = data[: len(data) // 2]
        if fault == "not json":
            data = b"<html>a page</html>"
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "cut body":
            self.close_connection = True
            data = data[: len(data) // 2]
        for part in [data[i : i + 1] for i in range(len(data))] if fault == "slow body" else [data]:
            self.wfile.write(part)
            if fault == "slow body":
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def _as_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _tokens(text: str) -> int:
    return len(text.split()) + 2
