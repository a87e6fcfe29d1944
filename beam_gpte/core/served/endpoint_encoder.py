"""Embed texts by a server: `EndpointEncoder.encode(texts) -> float32 (n, dim)`, in input order.

texts --> distinct texts --> requests by items and tokens --> threads --> server --> vectors
                                   ^                                        |
                                   +-------- halves of what is refused <----+
"""

import functools
import json
import threading
from concurrent.futures import as_completed

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.text_encoder import NOT_FINITE, Encoding, KnownVectors
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.served.client import Answer, Client, Work
from beam_gpte.core.served.embedding_apis import API, Made, read_vectors
from beam_gpte.core.served.endpoint import OPENAI, EndpointConfig
from beam_gpte.core.served.failures import PassingError, RefusedError, StoppedError
from beam_gpte.core.served.isolation import Parts, ask_in_parts
from beam_gpte.core.served.packing import pack, token_counter
from beam_gpte.core.served.shared_clients import shared_client
from beam_gpte.core.served.urls import endpoint_url, public_url
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

PLAIN = "dimension"  # a text that every model takes
MAX_DAMAGED = 5  # answers that cannot be read, at load time: a wrong URL answers with pages


class EndpointEncoder:
    """Encode texts by a model that a server runs; safe to share between threads.

    Memory: the texts and vectors of a call, and for each concurrent request its texts and its
    answer, about 40 bytes for each number of a vector.

    Attributes:
      metadata: of the vectors. The model's fingerprint is that of its name and settings; what
        answers behind the name, canaries show, which are embedded when it is loaded.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._api = API[config.api]
        url = endpoint_url(config.url, self._api.root, self._api.last)
        self._client: Client = shared_client(config, url)
        self._count = token_counter(config.tokenizer)
        self._max_items = config.max_items_per_request
        self._encoded, self._refused = False, 0
        self._dim: int | None = None
        probe, seen = self._try_canaries()
        self._dim = probe.shape[1]
        self.metadata = VectorMetadata(
            model=config.model,
            fingerprint=config.fingerprint,
            pooling="",
            prompt=config.prompt,
            dim=self._dim,
            normalized=config.normalize,
            engine=f"{config.api} {public_url(url)}",
            canaries=seen,
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed `texts`.

        Returns:
          float32 (n, dim), in the order of the texts.

        Raises:
          InputError: `texts` is not a list of strings, a text cannot be embedded (the message names
            its position), or the server does not answer.
        """
        encoding = self.encode_with_counts(texts)
        for position, reason in encoding.failed.items():
            raise InputError(f"text {position}: {reason}")
        return encoding.vectors

    def encode_with_counts(self, texts: list[str], known: KnownVectors | None = None) -> Encoding:
        """Embed each distinct text once, one vector per text; see `Encoding`.

        Its `counts` are requests, retries, tokens and cost, as far as the server says what it used;
        tokens of single texts are unknown and count as 0.

        Args:
          texts: to embed.
          known: vectors that need not be asked for; gets those that are, after each request.

        Raises:
          InputError: `texts` is not a list of strings, or the server does not answer.
        """
        check_texts(texts, "encode")
        distinct = [text for text in dict.fromkeys(texts) if is_visible(text)]
        at = {text: i for i, text in enumerate(distinct)}
        found = self._find(distinct, known)
        vectors = np.full((len(distinct) + 1, self.metadata.dim), np.nan, np.float32)
        for i, one in found.items():
            vectors[i] = one
        failed, work = self._fill(vectors, distinct, found, known)
        rows = np.array([at.get(text, len(distinct)) for text in texts], np.int64)
        reasons = [failed.get(row) if row < len(distinct) else EMPTY for row in rows.tolist()]
        unknown = np.zeros(len(texts), np.int64)
        return Encoding(
            vectors=vectors[rows],
            text=np.arange(len(texts)),
            chars=np.array([[0, len(text)] for text in texts], np.int64).reshape(-1, 2),
            tokens=unknown,
            dropped=unknown,
            distinct=len(set(texts)),
            needed=0,
            computed=0,
            retries=0,
            failed={i: reason for i, reason in enumerate(reasons) if reason is not None},
            found=np.isin(rows, list(found)),
            counts=self._counts(work),
        )

    def _find(self, texts: list[str], known: KnownVectors | None) -> dict[int, np.ndarray]:
        """Return the vectors that are known, float32 (1, dim), by position."""
        if known is None or not texts:
            return {}
        keys = [_key(text) for text in texts]
        there = known.find(keys)
        return {i: there[key] for i, key in enumerate(keys) if key in there}

    def _fill(
        self,
        vectors: np.ndarray,
        texts: list[str],
        found: dict[int, np.ndarray],
        known: KnownVectors | None,
    ) -> tuple[dict[int, str], Work]:
        """Put the vectors of all texts that are not `found` in their places, float32 (n, dim)."""
        new = np.array([i for i in range(len(texts)) if i not in found], np.int64)
        failed: dict[int, str] = {}
        work, stop = Work(), threading.Event()
        if not len(new):
            return failed, work
        tokens = self._count([self.config.prompt + texts[i] for i in new])
        running = {}
        for part in pack(tokens, self._max_items, self.config.max_tokens_per_request):
            mine = [texts[i] for i in new[part]]
            ask = functools.partial(self._embed, mine, tokens[part], stop)
            running[self._client.threads.submit(ask)] = new[part].tolist()
        try:
            for future in as_completed(running):
                if isinstance(future.exception(), StoppedError):
                    continue  # the request that failed says why
                parts, cost = future.result()
                rows = running[future]
                work.add(cost)
                vectors[rows] = parts.values
                failed.update((rows[i], reason) for i, reason in parts.failed.items())
                if known is not None:
                    for row in (row for row in rows if row not in failed):
                        known.add(_key(texts[row]), vectors[row : row + 1])
        finally:  # after a failure, or an interrupt, nobody needs the other requests
            stop.set()
            for future in running:
                future.cancel()
        return failed, work

    def _embed(
        self, texts: list[str], tokens: np.ndarray, stop: threading.Event
    ) -> tuple[Parts, Work]:
        """Embed the texts of one request, in parts where it is refused."""
        work = Work()

        def ask(at: list[int]) -> np.ndarray:
            some = [texts[i] for i in at]
            return self._ask(some, float(tokens[at].sum()), work, stop, can_split=True)

        def check_well(reason: str) -> None:
            try:
                self._ask([PLAIN], 1, work, stop)
            except RefusedError as error:
                raise self._mistake(f"it takes no text: {reason}") from error

        try:
            parts = ask_in_parts(len(texts), self.metadata.dim, ask, check_well, NOT_FINITE)
        except BaseException:
            stop.set()
            raise
        self._learn(parts.fitting)
        return parts, work

    def _learn(self, fitting: int | None) -> None:
        """Send fewer texts at once where the server has taken parts alone, twice."""
        if fitting is not None:
            self._refused += 1
            if self._refused > 1:
                self._max_items = min(self._max_items, fitting)

    def _ask(
        self,
        texts: list[str],
        tokens: float,
        work: Work,
        stop: threading.Event,
        can_split: bool = False,
        max_damaged: int | None = None,
    ) -> np.ndarray:
        """Ask for the vectors of some texts, all in one request: float32 (n, dim).

        Args:
          texts: to embed.
          tokens: of all of them, about.
          work: is counted up.
          stop: ends waiting.
          can_split: refuse early what may be the fault of one of several texts.
          max_damaged: refuse after so many answers that cannot be read; None for all retries.
        """
        damaged = 0

        def read(answer: Answer) -> Made:
            nonlocal damaged
            try:
                return read_vectors(self._api, answer, len(texts), self._dim)
            except PassingError as error:
                damaged += 1
                if damaged == max_damaged:
                    raise RefusedError(str(error)) from error
                raise

        def is_well() -> bool:
            plain = self._body([PLAIN])
            return self._client.is_well(
                plain, lambda answer: read_vectors(self._api, answer, 1, self._dim), work, stop
            )

        has_parts = can_split and len(texts) > 1
        body = self._body(texts)
        made = self._client.ask(body, read, tokens, work, stop, is_well, has_parts)
        if made.tokens:
            self._client.budget.correct(made.tokens - tokens)
        work.tokens += made.tokens
        return _unit(made.vectors) if self.config.normalize else made.vectors

    def _body(self, texts: list[str]) -> bytes:
        texts = [self.config.prompt + text for text in texts]
        body = self._api.body(self.config, texts, self._encoded)
        return json.dumps(body, ensure_ascii=False).encode()

    def _try_canaries(self) -> tuple[np.ndarray, str]:
        """Embed the fixed texts of `core.canaries`, or a plain word where those are refused.

        Vectors in base64 take half the bytes of decimals, and are asked for as long as the server
        does not refuse the request.
        """
        for texts in (canaries.TEXTS, [PLAIN]):
            for encoded in (True, False) if self.config.api == OPENAI else (False,):
                self._encoded = encoded
                try:
                    vectors = self._ask(
                        texts, 100, Work(), threading.Event(), max_damaged=MAX_DAMAGED
                    )
                except RefusedError as error:
                    refused = error
                    continue
                self._check_first(vectors)
                is_whole = len(texts) > 1
                return vectors, canaries.sketch(vectors, "unknown") if is_whole else ""
        raise self._mistake(f"{refused}; check url, model, api and dimensions")

    def _check_first(self, vectors: np.ndarray) -> None:
        asked = self.config.dimensions
        if asked not in (None, vectors.shape[1]):
            raise self._mistake(
                f"vectors of {vectors.shape[1]} dimensions, where {asked} were asked for; the "
                "server does not shorten them: leave dimensions out"
            )
        if not np.isfinite(vectors).all():
            raise self._mistake(f"{NOT_FINITE}; check the model")

    def _counts(self, work: Work) -> dict[str, int]:
        counts = {
            "requests": work.requests,
            "request_retries": work.retries,
            "tokens": work.tokens,
        }
        price = self.config.dollars_per_million_tokens
        if price is not None:
            counts["cost_microdollars"] = round(price * work.tokens)
        return counts

    def _mistake(self, what: str) -> InputError:
        return InputError(f"{public_url(self._client.url)}: {what}")


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
