"""Score pairs of texts by a server: `EndpointScorer.score(pairs) -> float32 (n,)`, in input order.

pairs --> distinct pairs --> requests of one query and several texts --> server --> scores
"""

import json
import threading
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.scorers.pair_scorer import Scoring, check_pairs
from beam_gpte.core.served.asker import Asker, Made, Request
from beam_gpte.core.served.client import Answer, Work
from beam_gpte.core.served.embedding_apis import header_tokens, read_json
from beam_gpte.core.served.endpoint import TEI, EndpointConfig
from beam_gpte.core.served.failures import PassingError, RefusedError
from beam_gpte.core.served.packing import pack, token_counter
from beam_gpte.core.served.shared_clients import shared_client
from beam_gpte.core.served.urls import endpoint_url
from beam_gpte.core.visible_text import EMPTY, is_visible

PATH = "/rerank"
PLAIN = ("word", "dimension")  # a pair that every model takes
NOT_FINITE = "the model gave a score that is not finite"
MAX_DAMAGED = 5  # answers that cannot be read, at load time

# The settings of how vectors are made, of which a scorer makes none.
_OF_VECTORS = ("dimensions", "prompt", "normalize")

Pair = tuple[str, str]


def check_scorer_endpoint(config: EndpointConfig) -> None:
    """Refuse an endpoint that does not score pairs.

    Raises:
      InputError: its API has no scores, its URL is another endpoint's, or a setting of vectors is
        not the default.
    """
    if config.api != TEI:
        raise InputError(
            f"api {config.api!r} has no scores of pairs; use {TEI!r}, or a model's name"
        )
    if urlsplit(config.url).path.rstrip("/").endswith("/embed"):
        raise InputError("url ends with /embed, which gives vectors; scores are at /rerank")
    plain = EndpointConfig(config.url, config.model, config.api)
    for name in _OF_VECTORS:
        if getattr(config, name) != getattr(plain, name):
            raise InputError(f"{name} {getattr(config, name)!r} is for vectors; leave it out")


class EndpointScorer:
    """Score pairs by a model that a server runs; safe to share between threads.

    Pairs of one query go together, up to `max_items_per_request`: pairs whose queries all differ
    take a request each.
    """

    def __init__(self, config: EndpointConfig) -> None:
        check_scorer_endpoint(config)
        self.config = config
        self._count = token_counter(config.tokenizer)
        client = shared_client(config, endpoint_url(config.url, PATH, PATH))
        self._asker = Asker(config, client, self._write, _read, PLAIN, NOT_FINITE)
        try:
            self._asker.ask([PLAIN], 10, Work(), threading.Event(), max_damaged=MAX_DAMAGED)
        except RefusedError as error:
            raise self._asker.mistake(f"{error}; check url, model and api") from error

    def score(self, pairs: list[Pair]) -> np.ndarray:
        """Return float32 (n,), in the order of the pairs.

        Raises:
          InputError: a pair cannot be scored (the message names its position), or the server does
            not answer.
        """
        return self.score_with_counts(pairs).checked()

    def score_with_counts(self, pairs: list[Pair]) -> Scoring:
        """Score each distinct pair once, and count the work; see `Scoring`.

        Raises:
          InputError: `pairs` is not a list of pairs of strings, or the server does not answer.
        """
        check_pairs(pairs)
        distinct = [pair for pair in dict.fromkeys(pairs) if all(map(is_visible, pair))]
        scores, failed, work = np.full(len(distinct), np.nan, np.float32), dict[int, str](), Work()
        requests, rows = self._requests(distinct)
        for i, parts, cost in self._asker.ask_all(requests, 1):
            work.add(cost)
            scores[rows[i]] = parts.values[:, 0]
            failed.update((rows[i][at], reason) for at, reason in parts.failed.items())
        of = {pair: i for i, pair in enumerate(distinct)}
        at = [of.get(pair) for pair in pairs]
        reasons = [EMPTY if i is None else failed.get(i) for i in at]
        unknown = np.zeros(len(pairs), np.int64)
        return Scoring(
            scores=np.array([np.nan if i is None else scores[i] for i in at], np.float32),
            tokens=unknown,
            dropped=unknown,
            needed=0,
            computed=0,
            retries=0,
            failed={i: reason for i, reason in enumerate(reasons) if reason is not None},
            counts=self._asker.counts(work),
        )

    def _requests(self, pairs: list[Pair]) -> tuple[list[Request], list[list[int]]]:
        """Divide pairs among requests, each with one query; return also the rows of each."""
        of_query: dict[str, list[int]] = defaultdict(list)
        for i, (query, _) in enumerate(pairs):
            of_query[query].append(i)
        requests, rows = [], []
        for mine in of_query.values():
            # a model reads the query with each text
            tokens = self._count([f"{pairs[i][0]} {pairs[i][1]}" for i in mine])
            limit = self.config.max_tokens_per_request
            for part in pack(tokens, self._asker.max_items, limit):
                rows.append([mine[i] for i in part])
                requests.append(Request([pairs[i] for i in rows[-1]], tokens[part]))
        return requests, rows

    def _write(self, pairs: list[Any]) -> bytes:
        texts = [text for _, text in pairs]
        body = {**self.config.parameters, "query": pairs[0][0], "texts": texts}
        return json.dumps(body, ensure_ascii=False).encode()


def _read(answer: Answer, count: int) -> Made:
    """Read the scores of `count` texts, which come by rank: float32 (count, 1)."""
    ranks = read_json(answer)
    try:
        found = {int(rank["index"]): rank["score"] for rank in ranks}
        if len(ranks) != count or sorted(found) != list(range(count)):
            raise PassingError(f"{len(ranks)} scores for {count} texts", is_suspect=True)
        scores = np.array([found[i] for i in range(count)], np.float64)  # of null, NaN
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        shown = f"{type(error).__name__}: {error}"
        raise PassingError(f"the answer has another form: {shown}", is_suspect=True) from error
    return Made(scores.astype(np.float32).reshape(-1, 1), header_tokens(answer))
