"""Embed texts by a server: `EndpointEncoder.encode(texts) -> float32 (n, dim)`, in input order.

texts --> distinct texts --> requests by items and tokens --> server --> vectors
"""

import json
import threading

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.text_encoder import NOT_FINITE, Encoding, KnownVectors
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.served.asker import Asker, Made, Request
from beam_gpte.core.served.client import Answer, Work
from beam_gpte.core.served.embedding_apis import API, read_vectors
from beam_gpte.core.served.endpoint import OPENAI, EndpointConfig
from beam_gpte.core.served.failures import RefusedError
from beam_gpte.core.served.packing import pack, token_counter
from beam_gpte.core.served.shared_clients import shared_client
from beam_gpte.core.served.urls import endpoint_url, public_url
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

PLAIN = "dimension"  # a text that every model takes
MAX_DAMAGED = 5  # answers that cannot be read, at load time: a wrong URL answers with pages


class EndpointEncoder:
    """Encode texts by a model that a server runs; safe to share between threads.

    Memory: the texts and vectors of a call, and for each concurrent request and two more its texts
    and its answer, about 40 bytes for each number of a vector.

    Attributes:
      metadata: of the vectors. The model's fingerprint is that of its name and settings; what
        answers behind the name, canaries show, which are embedded when it is loaded.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._api = API[config.api]
        url = endpoint_url(config.url, self._api.root, self._api.last)
        self._count = token_counter(config.tokenizer)
        client = shared_client(config, url)
        self._asker = Asker(config, client, self._write, self._read, PLAIN, NOT_FINITE)
        self._encoded = False
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

    @property
    def dim(self) -> int:
        """Return the dimensions of a vector."""
        return self.metadata.dim

    @property
    def fingerprint(self) -> str:
        """Return a hash of server, model and settings."""
        return self.metadata.fingerprint

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed `texts`.

        Returns:
          float32 (n, dim), in the order of the texts.

        Raises:
          InputError: `texts` is not a list of strings, a text cannot be embedded (the message names
            its position), or the server does not answer.
        """
        return self.encode_with_counts(texts).checked()

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
        chars = np.zeros((len(texts), 2), np.int64)  # not of lists, whose garbage is looked for
        chars[:, 1] = np.fromiter(map(len, texts), np.int64, len(texts))
        return Encoding(
            vectors=vectors[rows],
            text=np.arange(len(texts)),
            chars=chars,
            tokens=unknown,
            dropped=unknown,
            distinct=len(set(texts)),
            needed=0,
            computed=0,
            retries=0,
            failed={i: reason for i, reason in enumerate(reasons) if reason is not None},
            found=np.isin(rows, list(found)),
            counts=self._asker.counts(work),
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
        work = Work()
        if not len(new):
            return failed, work
        tokens = self._count([self.config.prompt + texts[i] for i in new])
        packed = pack(tokens, self._asker.max_items, self.config.max_tokens_per_request)
        rows = [new[part].tolist() for part in packed]
        requests = [
            Request([texts[row] for row in mine], tokens[part])
            for mine, part in zip(rows, packed, strict=True)
        ]
        for i, parts, cost in self._asker.ask_all(requests, self.metadata.dim):
            work.add(cost)
            vectors[rows[i]] = parts.values
            failed.update((rows[i][at], reason) for at, reason in parts.failed.items())
            if known is not None:
                for row in (row for row in rows[i] if row not in failed):
                    known.add(_key(texts[row]), vectors[row : row + 1])
        return failed, work

    def _write(self, texts: list[str]) -> bytes:
        texts = [self.config.prompt + text for text in texts]
        body = self._api.body(self.config, texts, self._encoded)
        return json.dumps(body, ensure_ascii=False).encode()

    def _read(self, answer: Answer, count: int) -> Made:
        made = read_vectors(self._api, answer, count, self._dim)
        return Made(_unit(made.values), made.tokens) if self.config.normalize else made

    def _try_canaries(self) -> tuple[np.ndarray, str]:
        """Embed the fixed texts of `core.canaries`, or a plain word where those are refused.

        Vectors in base64 take half the bytes of decimals, and are asked for as long as the server
        does not refuse the request.
        """
        for texts in (canaries.TEXTS, [PLAIN]):
            for encoded in (True, False) if self.config.api == OPENAI else (False,):
                self._encoded = encoded
                try:
                    vectors = self._asker.ask(
                        texts, 100, Work(), threading.Event(), max_damaged=MAX_DAMAGED
                    )
                except RefusedError as error:
                    refused = error
                    continue
                self._check_first(vectors)
                is_whole = len(texts) > 1
                return vectors, canaries.sketch(vectors, "unknown") if is_whole else ""
        raise self._asker.mistake(f"{refused}; check url, model, api and dimensions")

    def _check_first(self, vectors: np.ndarray) -> None:
        asked = self.config.dimensions
        if asked not in (None, vectors.shape[1]):
            raise self._asker.mistake(
                f"vectors of {vectors.shape[1]} dimensions, where {asked} were asked for; the "
                "server does not shorten them: leave dimensions out"
            )
        if not np.isfinite(vectors).all():
            raise self._asker.mistake(f"{NOT_FINITE}; check the model")


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
