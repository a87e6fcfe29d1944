"""Requests: keys go to their host alone, proxies are the environment's, and nothing shows a key."""

import logging
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_gpte import EndpointConfig, InputError
from beam_gpte.core.served.budget import RateBudget
from beam_gpte.core.served.endpoint_encoder import EndpointEncoder
from beam_gpte.core.served.failures import StoppedError
from beam_gpte.core.served.messages import server_message
from tests.model_server import ModelServer

KEY = "sk-planted-7f3a"
KEYED = {"Authorization": "Bearer ${SERVED_TEST_KEY}"}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SERVED_TEST_KEY", KEY)
    return KEY


@pytest.fixture
def other() -> Iterator[ModelServer]:
    with ModelServer() as model:
        yield model


def test_the_key_of_the_environment_is_sent_and_shown_nowhere(
    server: ModelServer, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.key = f"Bearer {KEY}"
    encoder = EndpointEncoder(EndpointConfig(server.url, "m", headers=KEYED))
    encoding = encoder.encode_with_counts(["a", "echo the key", "b"])
    assert {request["headers"]["Authorization"] for request in server.requests} == {server.key}
    assert encoding.failed == {1: "HTTP 400: bad text, and your key is Bearer ***"}
    shown = [caplog.text, repr(encoder.config), repr(encoder.metadata), repr(vars(encoder))]
    assert not any(KEY in text for text in shown)
    assert KEY.encode() not in pickle.dumps(encoder.config)


def test_a_wrong_key_is_named_by_its_variable(server: ModelServer, planted: str) -> None:
    server.key = "Bearer another"
    with pytest.raises(InputError) as raised:
        EndpointEncoder(EndpointConfig(server.url, "m", headers=KEYED))
    assert str(raised.value) == (
        f"{server.url}/v1/embeddings: HTTP 401: wrong key: Bearer ***; check the key in "
        "SERVED_TEST_KEY"
    )
    assert len(server.requests) == 1
    assert KEY not in str(raised.value.__cause__)


def test_a_key_that_changes_is_read_anew(
    server: ModelServer, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = EndpointEncoder(EndpointConfig(server.url, "m", headers=KEYED))
    monkeypatch.setenv("SERVED_TEST_KEY", "rotated")
    encoder.encode(["a"])
    assert server.requests[-1]["headers"]["Authorization"] == "Bearer rotated"


def test_a_redirect_is_not_followed(server: ModelServer, other: ModelServer, planted: str) -> None:
    server.fault = lambda number, texts: "307"
    server.fault_headers = {"Location": f"{other.url}/v1/embeddings?a=b"}
    with pytest.raises(InputError, match=f"a redirect to {other.url}/v1/embeddings.*give that URL"):
        EndpointEncoder(EndpointConfig(server.url, "m", headers=KEYED))
    assert other.requests == []


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(
    server: ModelServer, other: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", other.url.replace("http://", "http://me:word@"))
    EndpointEncoder(EndpointConfig("http://models.invalid/v1", "m"))
    assert [request["path"] for request in other.requests] == [
        "http://models.invalid/v1/embeddings"
    ]
    assert other.requests[0]["headers"]["proxy-authorization"] == "Basic bWU6d29yZA=="
    EndpointEncoder(EndpointConfig(server.url, "m"))
    assert len(other.requests) == 1
    monkeypatch.setenv("no_proxy", "models.invalid")
    with pytest.raises(InputError, match="models.invalid"):
        EndpointEncoder(EndpointConfig("http://models.invalid/v1", "m", max_retries=0))
    assert len(other.requests) == 1


def test_an_answer_without_end_is_given_up(server: ModelServer) -> None:
    encoder = EndpointEncoder(EndpointConfig(server.url, "m", timeout_seconds=0.2, max_retries=0))
    server.fault = lambda number, texts: "slow body"  # 20 bytes a second
    began = time.monotonic()
    with pytest.raises(InputError, match="no whole answer within 0.2 seconds; gave up after 1 try"):
        encoder.encode(["a"])
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "too long"),
        (b'{"error": "Model is overloaded", "error_type": "Overloaded"}', "Model is overloaded"),
        (b'{"detail": [{"msg": "a", "loc": 1}, {"msg": "b"}]}', "a; b"),
        (b'{"message": "a\\n  b \\u001b[31m"}', "a b \\x1b[31m"),
        (b'[{"error": {"code": 429, "message": "quota"}}]', "quota"),
        (b"<html> a page </html>", "<html> a page </html>"),
        (b'{"code": 5}', '{"code": 5}'),
        (b"\xff", "\ufffd"),
        (b"[" * 100_000, "[" * 65536),
        (b"", ""),
    ],
)
def test_the_message_of_a_server_is_found_in_what_it_answers(content: bytes, message: str) -> None:
    assert server_message(content) == message


def test_a_budget_spaces_requests_and_tokens() -> None:
    stop, began = threading.Event(), time.monotonic()
    by_requests, by_tokens = RateBudget(100.0, None), RateBudget(None, 6000.0)
    for _ in range(5):
        by_requests.take(1000, stop)
    assert 0.039 < time.monotonic() - began < 0.3
    began = time.monotonic()
    for _ in range(3):
        by_tokens.take(5, stop)  # 100 a second
    assert 0.099 < time.monotonic() - began < 0.4


def test_without_limits_nothing_waits_but_in_a_pause() -> None:
    budget, stop, began = RateBudget(), threading.Event(), time.monotonic()
    for _ in range(1000):
        budget.take(1000, stop)
    assert time.monotonic() - began < 0.5
    budget.pause(0.2)
    budget.take(1, stop)
    assert time.monotonic() - began > 0.2


def test_who_waits_can_be_stopped() -> None:
    budget, stop = RateBudget(0.001), threading.Event()
    budget.take(1, stop)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        budget.take(1, stop)
    assert time.monotonic() - began < 2


def test_no_password_of_netrc_is_sent(
    tmp_path: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password word\n")
    EndpointEncoder(EndpointConfig(server.url, "m"))
    assert "Authorization" not in server.requests[0]["headers"]
