"""EndpointScorer: scores in the order of the pairs, one bad pair is one failure."""

from typing import Any

import numpy as np
import pytest

from beam_gpte import EndpointConfig, InputError
from beam_gpte.core.served import client
from beam_gpte.core.served.endpoint_scorer import EndpointScorer
from tests.model_server import ModelServer, score_of

PAIRS = [(f"query {i % 3}", f"text {i}") for i in range(40)]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_WAIT", "BACKOFF", "SHORT_WAIT"):
        monkeypatch.setattr(client, name, getattr(client, name) / 20)


def load(server: ModelServer, **settings: Any) -> EndpointScorer:
    scorer = EndpointScorer(EndpointConfig(server.url, "m", "tei", **settings))
    server.requests.clear()
    return scorer


def scores_of(pairs: list[tuple[str, str]]) -> np.ndarray:
    return np.array([score_of(*pair) for pair in pairs], np.float32)


def test_scores_come_in_the_order_of_the_pairs_by_query(server: ModelServer) -> None:
    scorer = load(server, max_items_per_request=10, dollars_per_million_tokens=2)
    scoring = scorer.score_with_counts([*PAIRS, PAIRS[0]])
    assert np.abs(scoring.scores - scores_of([*PAIRS, PAIRS[0]])).max() < 1e-6
    assert {request["path"] for request in server.requests} == {"/rerank"}
    assert sorted(map(len, server.texts())) == [3, 3, 4, 10, 10, 10]
    assert scoring.counts == {
        "requests": 6,
        "request_retries": 0,
        "tokens": 160,
        "cost_microdollars": 320,
    }
    assert scorer.score([]).shape == (0,)


@pytest.mark.parametrize("fault", ["429", "500", "cut json", "wrong count", "dropped"])
def test_a_fault_costs_a_retry_and_no_score(server: ModelServer, fault: str) -> None:
    scorer = load(server, max_items_per_request=5)
    server.fault = lambda number, texts: fault if number % 3 == 0 else None
    scoring = scorer.score_with_counts(PAIRS)
    assert scoring.failed == {}
    assert np.abs(scoring.scores - scores_of(PAIRS)).max() < 1e-6
    assert scoring.counts["request_retries"] > 0


def test_bad_pairs_are_found_among_others_and_have_reasons(server: ModelServer) -> None:
    pairs = [*PAIRS, ("query 1", "x" * 2000), ("query 2", "poison"), ("query 0", " "), ("​", "a")]
    scoring = load(server).score_with_counts(pairs)
    assert scoring.failed == {
        40: "HTTP 413: `inputs` must have less than 1000 tokens",
        41: "HTTP 500: the model has crashed",
        42: "text is empty: it has no visible character",
        43: "text is empty: it has no visible character",
    }
    assert np.isnan(scoring.scores[40:]).all()
    assert np.abs(scoring.scores[:40] - scores_of(PAIRS)).max() < 1e-6
    with pytest.raises(InputError, match="pair 40: HTTP 413"):
        load(server).score(pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api": "openai"}, "api 'openai' has no scores of pairs"),
        ({"url": "http://localhost/embed"}, "url ends with /embed"),
        ({"prompt": "query: "}, "prompt 'query: ' is for vectors"),
        ({"dimensions": 5}, "dimensions 5 is for vectors"),
        ({"normalize": False}, "normalize False is for vectors"),
    ],
)
def test_an_endpoint_without_scores_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {"url": "http://localhost", "model": "m", "api": "tei", **settings}
    with pytest.raises(InputError, match=message):
        EndpointScorer(EndpointConfig(**given))


def test_a_server_that_does_not_score_is_found_at_load_time(server: ModelServer) -> None:
    server.fault = lambda number, texts: "404"
    with pytest.raises(InputError, match="/rerank: HTTP 404: .*check url, model and api"):
        load(server)
    server.fault = lambda number, texts: "not json"
    with pytest.raises(InputError, match="/rerank: the answer is not JSON"):
        load(server)
