"""Answers are read while as many requests as allowed are out, and never more are."""

import base64
import json
import threading
from typing import Any

import numpy as np
import pytest
import urllib3

from beam_gpte import EndpointConfig
from beam_gpte.core.served.client import Answer, Client, Work
from beam_gpte.core.served.embedding_apis import API, read_vectors
from beam_gpte.core.served.failures import PassingError
from tests.model_server import ModelServer


def test_a_request_leaves_while_an_answer_is_read() -> None:
    body = json.dumps({"input": ["a"], "model": "m"}).encode()
    second = threading.Event()
    with ModelServer() as server:
        config = EndpointConfig(server.url, "m", max_concurrent_requests=1)
        client = Client(config, f"{server.url}/v1/embeddings")
        stop = threading.Event()

        def wait_for_the_second(answer: Answer) -> bool:
            return second.wait(20)

        def ask(read: Any) -> Any:
            return client.threads.submit(client.ask, body, read, 1, Work(), stop)

        first = ask(wait_for_the_second)
        ask(lambda answer: second.set()).result(20)
        assert first.result(20)
        assert server.max_at_once == 1
        client.threads.shutdown()


def answer_of(*vectors: Any) -> Answer:
    data = [{"index": i, "embedding": one} for i, one in enumerate(vectors)]
    return Answer(urllib3.HTTPHeaderDict(), json.dumps({"data": data}).encode())


def encoded(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize("dim", [None, 3])
def test_vectors_in_base64_are_read_as_they_were_written(dim: int | None) -> None:
    answer = answer_of(encoded(1, -2, 3e-5), encoded(0, float("inf"), 7))
    found = read_vectors(API["openai"], answer, 2, dim).values
    assert found.dtype == np.float32
    assert found.tolist() == [[1, -2, float(np.float32(3e-5))], [0, float("inf"), 7]]
    mixed = read_vectors(API["openai"], answer_of(encoded(1, 2, 3), None, [4, 5, 6]), 3, dim)
    assert np.nan_to_num(mixed.values, nan=-1).tolist() == [[1, 2, 3], [-1, -1, -1], [4, 5, 6]]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (encoded(1, 2), "vectors of 2 and 3 dimensions, and of 3 before"),
        (encoded(1, 2, 3)[:-1], "another form: ValueError"),  # one letter is lost
        (encoded(1, 2, 3)[:-2] + "!!", "another form: ValueError: not base64"),
        ("é", "another form: ValueError"),
    ],
)
def test_damaged_base64_is_named(damaged: str, message: str) -> None:
    with pytest.raises(PassingError, match=message):
        read_vectors(API["openai"], answer_of(encoded(1, 2, 3), damaged), 2, 3)
