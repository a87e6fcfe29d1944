"""Run the pixels of images in batches while further images are decoded.

A batch that does not fit the memory is halved and tried again. The vectors of a batch are fetched
from a GPU once the next batch has been started.
"""

import collections
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from beam_gpte.core.encoder.batching import TokenBudget, is_out_of_memory
from beam_gpte.core.process import torch_threads

if TYPE_CHECKING:
    import torch


class PixelRunner:
    """Collect the pixels of images, and run them as soon as they are a batch.

    Attributes:
      retries: how often a batch was halved.
    """

    def __init__(
        self,
        start: "Callable[[list[np.ndarray]], torch.Tensor]",
        budget: TokenBudget,
        tokens: int,
    ) -> None:
        """Configure the batches.

        Args:
          start: starts a forward pass over pixels, float32 (3, size, size) each, and gives float32
            (n, dim).
          budget: tokens of a batch.
          tokens: of one image.
        """
        self.retries = 0
        self._start = start
        self._budget = budget
        self._tokens = tokens
        self._waiting: list[np.ndarray] = []
        self._vectors: list[np.ndarray | None] = []
        self._started: collections.deque[tuple[list[int], torch.Tensor]] = collections.deque()

    def add(self, pixels: np.ndarray) -> int:
        """Take the pixels of one image; return the row of its vector."""
        self._waiting.append(pixels)
        self._vectors.append(None)
        if len(self._waiting) >= max(1, self._budget.tokens // self._tokens):
            self._run()
        return len(self._vectors) - 1

    def finish(self) -> list[np.ndarray | None]:
        """Return all vectors; None where a single image does not fit the memory."""
        self._run()
        while self._started:
            self._fetch()
        return self._vectors

    def _run(self) -> None:
        pixels, self._waiting = self._waiting, []
        first = len(self._vectors) - len(pixels)
        pending = [list(range(len(pixels)))] if pixels else []
        while pending:
            batch = pending.pop()
            try:
                with torch_threads():
                    vectors = self._start([pixels[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.retries += 1
                self._budget.shrink(len(batch) * self._tokens)
                half = len(batch) // 2
                pending += [batch[half:], batch[:half]] if half else []
                continue
            self._budget.grow()
            self._started.append(([first + i for i in batch], vectors))
            if len(self._started) > 1:
                self._fetch()

    def _fetch(self) -> None:
        rows, vectors = self._started.popleft()
        for row, vector in zip(rows, vectors.cpu().numpy(), strict=True):
            self._vectors[row] = vector
