"""Embed blocks by a server while the next ones arrive: the place of `RunInference` in `EmbedText`.

    blocks --> groups, as many texts as are asked for at once --> server, `AHEAD` groups at a time
                                                                    |
    blocks with vectors, in their order <---------------------------+

A block alone would fill a few requests, and nothing would be asked for while it is written.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from beam_gpte.core.encoder.text_encoder import Encoding
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.embedding.shared_models import announce, loaded
from beam_gpte.shuffle.packing import Place, unpack

AHEAD = 2  # groups that are asked for while the results of another are passed on
MAX_BYTES = 32 << 20  # of the blocks of a group, and of their vectors

COUNTERS = ("requests", "request_retries")


class _Held(NamedTuple):
    """Hold a block with its place, its texts, and its vectors if it has them from before."""

    place: Place
    rows: Block
    texts: list[str]
    known: Encoding | None


class _Group(NamedTuple):
    """Hold blocks, and the promise of the vectors of all their texts."""

    blocks: list[_Held]
    encoding: Future


def embed_ahead(handler: Any, config: EndpointConfig) -> beam.PTransform:
    """Embed the texts of several blocks at once, and several times at once.

    Memory per thread of Beam: the blocks of `AHEAD` + 2 groups with their vectors. A group has
    `max_items_per_request` * `max_concurrent_requests` texts, at most 32 MiB of rows and as much of
    vectors, and at least one block.

    Args:
      handler: a `TextEmbeddingModelHandler`.
      config: of the endpoint that it asks.
    """
    return beam.ParDo(_EmbedAhead(handler, config)).with_output_types(Block)


class _EmbedAhead(beam.DoFn):
    def __init__(self, handler: Any, config: EndpointConfig) -> None:
        self._handler = handler
        self._texts = config.max_items_per_request * config.max_concurrent_requests

    def setup(self) -> None:
        self._model = self._handler.load_model()
        self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="embed-ahead")

    def start_bundle(self) -> None:
        from beam_gpte.embedding.handlers import text_handler  # loads torch

        announce((*text_handler.COUNTERS, *COUNTERS))
        self._count = text_handler.count_encoding
        self._waiting: list[_Held] = []
        self._running: deque[_Group] = deque()
        self._rows = self._bytes = 0

    def process(
        self,
        block: Block,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        model = loaded(self._model)
        texts = self._handler.texts_of(block)
        rows, known = self._handler.reused(block, model)
        self._waiting.append(_Held((window, timestamp.micros), rows, texts, known))
        self._rows += len(block) if known is None else 0
        self._bytes += block.batch.nbytes
        size = min(self._texts, MAX_BYTES // (4 * model.metadata.dim))
        if self._rows >= max(size, ROWS_PER_BLOCK) or self._bytes >= MAX_BYTES:
            self._start()
        while len(self._running) > AHEAD:
            yield from self._finish()

    def finish_bundle(self) -> Iterator[Any]:
        self._start()
        while self._running:
            yield from self._finish()

    def teardown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Ask for the vectors of the blocks that are waiting."""
        blocks, self._waiting = self._waiting, []
        self._rows = self._bytes = 0
        if blocks:
            texts = [text for one in blocks if one.known is None for text in one.texts]
            asked = self._threads.submit(self._handler.encode, texts, loaded(self._model))
            self._running.append(_Group(blocks, asked))

    def _finish(self) -> Iterator[Any]:
        """Pass the oldest group on, once it has its vectors."""
        blocks, promise = self._running.popleft()
        encoding, seconds = promise.result()
        self._count(encoding, seconds)
        at = 0
        for place, rows, texts, known in blocks:
            part = known
            if part is None:
                part = _part(encoding, at, at + len(texts))
                at += len(texts)
            done = self._handler.with_vectors(rows, texts, part, loaded(self._model))
            yield from (unpack(place, one) for one in done)


def _part(encoding: Encoding, start: int, stop: int) -> Encoding:
    """Take the texts from `start` to `stop` of an encoding with one vector per text."""
    return dataclasses.replace(
        encoding,
        vectors=encoding.vectors[start:stop],
        text=np.arange(stop - start),
        chars=encoding.chars[start:stop],
        tokens=encoding.tokens[start:stop],
        dropped=encoding.dropped[start:stop],
        failed={i - start: why for i, why in encoding.failed.items() if start <= i < stop},
        found=encoding.found[start:stop],
    )
