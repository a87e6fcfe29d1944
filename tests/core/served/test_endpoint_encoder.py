"""EndpointEncoder: vectors in the order of the texts, one bad text is one failure, faults pass."""

import gc
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from beam_gpte import EndpointConfig, InputError
from beam_gpte.core import canaries
from beam_gpte.core.metadata import made_alike
from beam_gpte.core.served import client
from beam_gpte.core.served.endpoint_encoder import EndpointEncoder
from beam_gpte.core.served.failures import EndpointError
from tests.model_server import FAULTS, ModelServer, vector_of

TEXTS = [f"text {i} {'and more ' * (i % 7)}" for i in range(100)]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a twentieth of the time between retries."""
    for name in ("FIRST_WAIT", "BACKOFF", "MAX_WAIT", "SHORT_WAIT"):
        monkeypatch.setattr(client, name, getattr(client, name) / 20)


def load(server: ModelServer, **settings: Any) -> EndpointEncoder:
    """Load the server's model; the requests so far are forgotten."""
    encoder = EndpointEncoder(EndpointConfig(server.url, "m", **settings))
    server.requests.clear()
    return encoder


def vectors_of(texts: Sequence[str], version: str = "1") -> np.ndarray:
    return np.array([vector_of(text, version) for text in texts], np.float32)


@pytest.mark.parametrize("api", ["openai", "tei"])
@pytest.mark.parametrize("knows_base64", [True, False])
def test_vectors_come_in_the_order_of_the_texts(
    server: ModelServer, api: str, knows_base64: bool
) -> None:
    server.knows_base64 = knows_base64
    encoder = load(server, api=api, max_items_per_request=8)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - vectors_of(TEXTS)).max() < 1e-6
    assert sorted(map(len, server.texts())) == [4] + [8] * 12
    path = "/embed" if api == "tei" else "/v1/embeddings"
    assert {request["path"] for request in server.requests} == {path}
    encodings = {request["body"].get("encoding_format") for request in server.requests}
    assert encodings == {"base64" if api == "openai" and knows_base64 else None}


def test_a_text_is_sent_once_and_an_empty_one_never(server: ModelServer) -> None:
    encoder = load(server)
    encoding = encoder.encode_with_counts(["a", "b", "a", " ", "a", "​"])
    assert server.texts() in ([["a", "b"]], [["b", "a"]])
    assert np.abs(encoding.vectors[[0, 1, 2, 4]] - vectors_of("abaa")).max() < 1e-6
    assert sorted(encoding.failed) == [3, 5]
    assert np.isnan(encoding.vectors[[3, 5]]).all()
    assert encoding.distinct == 4
    assert encoder.encode([]).shape == (0, 8)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("api", ["openai", "tei"])
def test_a_fault_costs_a_retry_and_no_vector(server: ModelServer, fault: str, api: str) -> None:
    if (api, fault) == ("tei", "wrong index"):
        pytest.skip("its vectors have no index")
    encoder = load(server, api=api, timeout_seconds=0.3, max_items_per_request=20)
    server.fault = lambda number, texts: fault if number % 3 == 0 else None
    encoding = encoder.encode_with_counts(TEXTS)
    assert encoding.failed == {}
    assert np.abs(encoding.vectors - vectors_of(TEXTS)).max() < 1e-6
    assert encoding.counts["request_retries"] > 0
    assert encoding.counts["requests"] == len(server.requests)


def test_bad_texts_are_found_among_others_and_have_reasons(server: ModelServer) -> None:
    bad = {
        7: ("x" * 2000, "HTTP 413: `inputs` must have less than 1000 tokens"),
        40: ("a poison", "HTTP 500: the model has crashed"),
        41: ("not finite", "the model gave a vector that is not finite"),
        66: ("no vector", "the model gave a vector that is not finite"),
        90: ("y" * 2000, "HTTP 413: `inputs` must have less than 1000 tokens"),
    }
    texts = list(TEXTS)
    for position, (text, _) in bad.items():
        texts[position] = text
    encoding = load(server).encode_with_counts(texts)
    assert encoding.failed == {position: reason for position, (_, reason) in bad.items()}
    good = [i for i in range(len(texts)) if i not in bad]
    assert np.abs(encoding.vectors[good] - vectors_of([texts[i] for i in good])).max() < 1e-6
    assert np.isnan(encoding.vectors[list(bad)]).all()
    with pytest.raises(InputError, match="text 7: HTTP 413"):
        load(server).encode(texts)


@pytest.mark.parametrize("text", ["x" * 2000, "poison", "not finite"])
def test_a_bad_text_alone_is_one_failure(server: ModelServer, text: str) -> None:
    assert list(load(server).encode_with_counts([text]).failed) == [0]


@pytest.mark.parametrize("status", ["400", "422", "500"])
def test_no_text_is_given_up_while_the_server_takes_none(server: ModelServer, status: str) -> None:
    encoder = load(server, max_retries=3)
    server.fault = lambda number, texts: status
    with pytest.raises(InputError, match=f"HTTP {status}: {status} on purpose"):
        encoder.encode_with_counts(TEXTS)


@pytest.mark.parametrize("fault", ["429", "503", "dropped", "slow"])
def test_a_server_that_never_answers_ends_the_job_clearly(server: ModelServer, fault: str) -> None:
    encoder = load(server, max_retries=2, timeout_seconds=0.2)
    server.fault = lambda number, texts: fault
    with pytest.raises(EndpointError, match="gave up after 3 tries in .* raise max_retries"):
        encoder.encode(["a"])
    assert len(server.requests) == 3


def test_one_failure_stops_the_other_requests_of_a_call(server: ModelServer) -> None:
    encoder = load(server, max_items_per_request=1, max_concurrent_requests=2)
    server.fault = lambda number, texts: "404"
    with pytest.raises(InputError, match="HTTP 404: 404 on purpose; check url, model and api"):
        encoder.encode(TEXTS)
    assert len(server.requests) <= 4


def test_a_server_that_refuses_many_texts_gets_fewer(server: ModelServer) -> None:
    server.max_items = 10
    encoder = load(server, api="tei", max_items_per_request=32)
    for _ in range(3):
        server.requests.clear()
        assert np.abs(encoder.encode(TEXTS) - vectors_of(TEXTS)).max() < 1e-6
    assert sorted(map(len, server.texts())) == [4] + [8] * 12


def test_requests_are_packed_by_tokens(server: ModelServer) -> None:
    encoder = load(server, max_tokens_per_request=100)
    encoder.encode(TEXTS)
    sizes = [sum(len(text) / 2 for text in texts) for texts in server.texts()]
    assert max(sizes) <= 100 < sum(sizes[:2]) + 40


def test_no_more_requests_at_once_than_allowed_whatever_the_threads(server: ModelServer) -> None:
    server.seconds = 0.02
    encoder = load(server, max_items_per_request=4, max_concurrent_requests=3)
    threads = [threading.Thread(target=encoder.encode, args=(TEXTS[i:],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.max_at_once == 3


def test_the_rate_is_kept_by_all_threads_and_by_models_that_share_a_server(
    server: ModelServer,
) -> None:
    settings = {"max_items_per_request": 5, "requests_per_second": 50.0}
    one, other = load(server, **settings), load(server, prompt="query: ", **settings)
    threads = [threading.Thread(target=model.encode, args=(TEXTS[:50],)) for model in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(request["at"] for request in server.requests)
    assert len(times) == 20
    assert 0.36 < times[-1] - times[0] < 1.5  # 19 intervals of 20 ms


def test_a_pause_that_the_server_asks_for_stops_all_threads(server: ModelServer) -> None:
    encoder = load(server, max_items_per_request=10, max_concurrent_requests=4)
    server.fault_headers = {"Retry-After": "1"}
    server.fault = lambda number, texts: "429" if number == 0 else None
    server.seconds = 0.05
    encoder.encode(TEXTS)
    times = [request["at"] for request in server.requests]
    late = [at for at in times if at - times[0] > 0.2]
    assert len(times) == 11
    assert min(late) - times[0] > 0.9
    assert len(late) >= 4  # what had not left by then, and the request that was asked to wait


def test_tokens_and_cost_are_counted_as_the_server_says(server: ModelServer) -> None:
    for api in ("openai", "tei"):
        encoder = load(server, api=api, dollars_per_million_tokens=0.5)
        counts = encoder.encode_with_counts(["one two", "three"]).counts
        assert counts == {
            "requests": 1,
            "request_retries": 0,
            "tokens": 7,
            "cost_microdollars": 4,  # 3.5, to even
        }


def test_tokens_per_minute_are_corrected_by_what_was_used(server: ModelServer) -> None:
    settings = {"max_items_per_request": 1, "max_concurrent_requests": 1}
    encoder = load(server, tokens_per_minute=60_000, **settings)
    began = time.monotonic()
    encoder.encode(["x" * 900, "y" * 900, "z" * 900])
    # 452 tokens each by estimate, about half a second; 3 by the server
    assert time.monotonic() - began < 0.9


def test_a_prompt_precedes_every_text(server: ModelServer) -> None:
    encoder = load(server, prompt="query: ")
    assert np.abs(encoder.encode(["a"]) - vectors_of(["query: a"])).max() < 1e-6
    assert encoder.metadata.prompt == "query: "


def test_dimensions_are_asked_for_and_checked(server: ModelServer) -> None:
    encoder = load(server, dimensions=5)
    assert encoder.encode(["a"]).shape == (1, 5)
    assert server.requests[0]["body"]["dimensions"] == 5
    with pytest.raises(InputError, match="'dimensions', which is set elsewhere"):
        EndpointConfig(server.url, "m", parameters={"dimensions": 4})


def test_a_server_that_does_not_shorten_is_found_at_load_time(server: ModelServer) -> None:
    server.shortens = False
    with pytest.raises(InputError, match="vectors of 8 dimensions, where 5 were asked for"):
        load(server, dimensions=5)


def test_vectors_may_stay_as_they_are(server: ModelServer) -> None:
    server.scale = 3.0
    plain = load(server, normalize=False)
    assert np.abs(plain.encode(["a"]) - 3 * vectors_of(["a"])).max() < 1e-5
    assert not plain.metadata.normalized
    assert np.abs(load(server).encode(["a"]) - vectors_of(["a"])).max() < 1e-6


def test_known_vectors_are_not_asked_for_and_new_ones_are_kept(server: ModelServer) -> None:
    class Known(dict):
        def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
            return {key: self[key] for key in keys if key in self}

        add = dict.__setitem__

    known = Known({b"a": np.full((1, 8), 5, np.float32)})
    encoding = load(server).encode_with_counts(["a", "b", "poison", "a"], known)
    assert encoding.found.tolist() == [True, False, False, True]
    assert (encoding.vectors[[0, 3]] == 5).all()
    assert sorted(known) == [b"a", b"b"]
    assert all("a" not in texts for texts in server.texts())


def test_another_model_behind_the_name_has_other_canaries(server: ModelServer) -> None:
    before, again = load(server).metadata, load(server).metadata
    server.version = "2"
    after = load(server).metadata
    assert before.fingerprint == again.fingerprint == after.fingerprint
    assert made_alike(before, again)
    assert not made_alike(before, after)
    assert before.canaries == canaries.sketch(vectors_of(canaries.TEXTS), "unknown")


def test_a_server_that_refuses_canaries_is_asked_for_a_word(server: ModelServer) -> None:
    server.max_chars = 20
    encoder = load(server)
    assert encoder.metadata.canaries == ""
    assert encoder.encode(["a"]).shape == (1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "Bearer other"}, "HTTP 401: wrong key: None; send a key by headers"),
        ({"fault": lambda *_: "404"}, "HTTP 404: 404 on purpose; check url, model and api"),
        ({"fault": lambda *_: "not json"}, "the answer is not JSON: .*; check url, model, api"),
        ({"fault": lambda *_: "307"}, "HTTP 307: 307 on purpose, a redirect to ; give that URL"),
    ],
)
def test_a_mistake_is_found_at_load_time(
    server: ModelServer, change: dict[str, Any], message: str
) -> None:
    vars(server).update(change)
    with pytest.raises(InputError, match=message):
        load(server)


def test_the_answer_of_another_api_is_refused(server: ModelServer) -> None:
    other = EndpointConfig(f"{server.url}/embed", "m", api="tei", parameters={"input": ["a"]})
    server.lists = False
    with pytest.raises(InputError, match="the answer has another form: TypeError: not a list"):
        EndpointEncoder(other)


def test_nothing_listens_there() -> None:
    with pytest.raises(EndpointError, match="Connection refused; gave up after 2 tries"):
        EndpointEncoder(EndpointConfig("http://127.0.0.1:9", "m", max_retries=1))


def test_an_encoder_that_nobody_has_leaves_no_thread(server: ModelServer) -> None:
    before = set(threading.enumerate())
    encoder = load(server)
    encoder.encode(TEXTS)
    mine = [t for t in threading.enumerate() if t.name.startswith("endpoint") and t not in before]
    assert mine
    del encoder
    gc.collect()
    for thread in mine:
        thread.join(2)
    assert not any(thread.is_alive() for thread in mine)


def test_a_table_of_faults_loses_and_doubles_nothing(server: ModelServer) -> None:
    """Every third request has a fault, each in its turn; two bad texts are among the others."""
    faults: list[str] = [fault for fault in FAULTS if "slow" not in fault]
    given: list[str] = []

    def fault(number: int, texts: list[str]) -> str | None:
        if number % 3:
            return None
        given.append(faults[len(given) % len(faults)])
        return given[-1]

    encoder = load(server, max_items_per_request=4)
    server.fault = fault
    texts = [f"row {i}" for i in range(600)] + ["x" * 2000, "a poison"]
    encoding = encoder.encode_with_counts(texts)
    assert sorted(encoding.failed) == [600, 601]
    assert np.abs(encoding.vectors[:600] - vectors_of(texts[:600])).max() < 1e-6
    assert len(given) > 60
