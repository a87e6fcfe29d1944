"""Run pieces of text through a model in batches.

pieces --> batches by length --> backbone --> pooling --> head --> vectors

A batch that does not fit the memory is halved and tried again.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batching import TokenBudget, is_out_of_memory, sorted_batches
from beam_gpte.core.encoder.config import TAIL_MEAN, EncoderConfig
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.linear_layers import pack_linears
from beam_gpte.core.encoder.pooling import pool
from beam_gpte.core.encoder.unpadded import to_device
from beam_gpte.core.process import torch_threads

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 4096  # flat from 1k to 16k on a CPU; 4,096 tokens hold about 45 MB of activations
GPU_TOKENS = 65_536  # 700 MB of activations; not measured


Done = Callable[[Piece, np.ndarray], None]


@dataclasses.dataclass
class RunResult:
    """Hold the vectors of some pieces, and count the work.

    Attributes:
      vectors: float32 (spans, dim) of each piece; None for one that is too large for the memory.
      computed: tokens that the backbone ran over, padding included.
      retries: how often a batch was halved.
      too_large: why a piece has no vectors; empty if all have.
    """

    vectors: list[np.ndarray | None]
    computed: int = 0
    retries: int = 0
    too_large: str = ""


class BatchRunner:
    """Run pieces in batches; safe to share between threads."""

    def __init__(
        self,
        backbone: Backbone,
        head: "torch.nn.Module",
        pooling: tuple[str, ...],
        config: EncoderConfig,
    ) -> None:
        self.backbone = backbone
        default_tokens = CPU_TOKENS if backbone.device.type == "cpu" else GPU_TOKENS
        self.budget = TokenBudget(config.token_budget or default_tokens)
        self._head = head.to(backbone.device)
        if backbone.device.type == "cpu":
            pack_linears(self._head)  # the same bits whatever the batch
        self._pooling = pooling
        self._config = config

    def run(self, pieces: list[Piece], done: Done | None = None) -> RunResult:
        """Run all pieces in batches of the token budget.

        A batch that does not fit the memory is halved and tried again. The vectors of a batch are
        fetched from a GPU once the next batch has been started, so that it need not wait for the
        host.

        Args:
          pieces: to run.
          done: gets each piece with its vectors as soon as they are there.
        """
        lengths = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
        result = RunResult(vectors=[None] * len(pieces))
        batches = sorted_batches(lengths, self.budget.tokens, padded=not self.backbone.unpadded)
        pending = batches[::-1]
        ahead = 0 if self.backbone.device.type == "cpu" else 1
        in_flight: collections.deque[tuple[np.ndarray, Any]] = collections.deque()

        def fetch() -> None:
            batch, output = in_flight.popleft()
            for i, part in zip(batch, self.fetch([pieces[i] for i in batch], output), strict=True):
                result.vectors[i] = part
                if done is not None:
                    done(pieces[i], part)

        while pending:
            batch = pending.pop()
            try:
                with torch_threads():
                    vectors, computed = self.start([pieces[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                result.retries += 1
                self.budget.shrink(int(lengths[batch].sum()))
                if len(batch) == 1:
                    result.too_large = (
                        f"out of memory: {lengths[batch[0]]} tokens do not fit at once"
                    )
                else:
                    pending += np.array_split(batch, 2)[::-1]
                continue
            self.budget.grow()
            result.computed += computed
            in_flight.append((batch, vectors))
            if len(in_flight) > ahead:
                fetch()
        while in_flight:
            fetch()
        return result

    def start(self, pieces: list[Piece]) -> tuple["torch.Tensor", int]:
        """Start one forward pass.

        Returns:
          float32 (all spans, dim), on the backbone's device, and the number of tokens computed.
        """
        import torch

        with torch.inference_mode():
            ids = [piece.ids for piece in pieces]
            if self.backbone.pools:
                pooled, computed = self.backbone.run_pooled(ids, [piece.spans for piece in pieces])
                return self._shorten(self._head(pooled)), computed
            hidden, offsets, computed = self.backbone.run(ids, self._config.layers)
            return self._finish(hidden, offsets, self._spans(pieces)), computed

    def fetch(self, pieces: list[Piece], output: Any) -> list[np.ndarray]:
        """Return what `start` computed for each of its pieces, on the host."""
        ends = np.cumsum([len(piece.spans) for piece in pieces])
        return np.split(output.cpu().numpy(), ends[:-1])

    def full_dim(self, ids: np.ndarray) -> tuple[int, bool]:
        """Measure the model's output on one text.

        Returns:
          The dimensions before truncation, and whether the model itself gives vectors of length 1.
        """
        import torch

        with torch.inference_mode():
            if self.backbone.pools:
                pooled, _ = self.backbone.run_pooled([ids], [np.array([[0, len(ids)]])])
            else:
                hidden, offsets, _ = self.backbone.run([ids], self._config.layers)
                pooled = pool(hidden, offsets, self._pooling)
            full = self._head(pooled)
        return full.shape[1], bool(abs(full.norm() - 1) < 1e-5)

    def _spans(self, pieces: list[Piece]) -> "torch.Tensor | None":
        """Return the spans to pool, int64 (m, 3): piece, first token, end.

        None means all tokens of each piece.
        """
        import torch

        tail = self._config.tail_tokens if self._config.pooling == TAIL_MEAN else None
        if tail is None and all(piece.is_pooled_whole for piece in pieces):
            return None
        spans = [
            (i, first if tail is None else max(first, end - tail), end)
            for i, piece in enumerate(pieces)
            for first, end in piece.spans
        ]
        return to_device(torch.tensor(spans), self.backbone.device)

    def _finish(
        self, hidden: "torch.Tensor", offsets: "torch.Tensor", spans: "torch.Tensor | None"
    ) -> "torch.Tensor":
        return self._shorten(self._head(pool(hidden, offsets, self._pooling, spans)))

    def _shorten(self, vectors: "torch.Tensor") -> "torch.Tensor":
        """Cut and normalize vectors, as configured."""
        import torch

        vectors = vectors[:, : self._config.truncate_dim]
        # truncation leaves norms of 0.55-0.60: without normalizing again every threshold would
        # change its meaning
        return torch.nn.functional.normalize(vectors, dim=1) if self._config.normalize else vectors
