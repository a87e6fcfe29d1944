"""Pieces to vectors: batches by length --> backbone --> pooling --> head; a batch too large for the memory is halved."""

import collections
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone
from beam_gpte.core.encoder.batching import TokenBudget, is_out_of_memory, sorted_batches
from beam_gpte.core.encoder.config import TAIL_MEAN, EncoderConfig
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.pooling import pool
from beam_gpte.core.encoder.unpadded import to_device

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 4096  # flat from 1k to 16k on a CPU; 4,096 tokens hold about 45 MB of activations
GPU_TOKENS = 65_536  # 700 MB of them; not measured


@dataclasses.dataclass
class Run:
    """What running some pieces gave: float32 (spans, dim) for each, None for a piece that is too large for the memory."""

    vectors: list[np.ndarray | None]
    computed: int = 0
    retries: int = 0
    too_large: str = ""


class BatchRunner:
    """Runs pieces in batches; safe to share between threads."""

    def __init__(
        self,
        backbone: Backbone,
        head: "torch.nn.Module",
        pooling: tuple[str, ...],
        config: EncoderConfig,
    ) -> None:
        self.backbone = backbone
        self.budget = TokenBudget(
            config.token_budget or (CPU_TOKENS if backbone.device.type == "cpu" else GPU_TOKENS)
        )
        self._head = head.to(backbone.device)
        self._pooling = pooling
        self._config = config

    def run(self, pieces: list[Piece]) -> Run:
        """Run all pieces in batches of the token budget; a batch that does not fit the memory is halved and tried again.

        A batch's vectors are fetched when the next one has been started, so that a GPU need not wait for us.
        """
        lengths = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
        run = Run(vectors=[None] * len(pieces))
        waiting = sorted_batches(lengths, self.budget.tokens, padded=not self.backbone.unpadded)[
            ::-1
        ]
        started: collections.deque[tuple[np.ndarray, torch.Tensor]] = collections.deque()

        def fetch() -> None:
            batch, vectors = started.popleft()
            ends = np.cumsum([len(pieces[i].spans) for i in batch])
            for i, part in zip(batch, np.split(vectors.cpu().numpy(), ends[:-1]), strict=True):
                run.vectors[i] = part

        while waiting:
            batch = waiting.pop()
            try:
                vectors, computed = self.start([pieces[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                run.retries += 1
                self.budget.shrink(int(lengths[batch].sum()))
                if len(batch) == 1:
                    run.too_large = (
                        f"out of memory: {lengths[batch[0]]} tokens are more than fit at once"
                    )
                else:
                    waiting += np.array_split(batch, 2)[::-1]
                continue
            self.budget.grow()
            run.computed += computed
            started.append((batch, vectors))
            if len(started) > 1:
                fetch()
        while started:
            fetch()
        return run

    def start(self, pieces: list[Piece]) -> tuple["torch.Tensor", int]:
        """One forward pass: float32 (all spans, dim), on the backbone's device, and the tokens computed."""
        import torch

        with torch.inference_mode():
            hidden, offsets, computed = self.backbone.run(
                [piece.ids for piece in pieces], self._config.layers
            )
            return self._finish(hidden, offsets, self._spans(pieces)), computed

    def full_dim(self, ids: np.ndarray) -> tuple[int, bool]:
        """Dimensions before any are cut off, and whether the model itself gives vectors of length 1."""
        import torch

        with torch.inference_mode():
            hidden, offsets, _ = self.backbone.run([ids], self._config.layers)
            full = self._head(pool(hidden, offsets, self._pooling))
        return full.shape[1], bool(abs(full.norm() - 1) < 1e-5)

    def _spans(self, pieces: list[Piece]) -> "torch.Tensor | None":
        """What to pool, int64 (m, 3): piece, first token, end; None for all tokens of each piece."""
        import torch

        tail = self._config.tail_tokens if self._config.pooling == TAIL_MEAN else None
        if tail is None and all(
            len(p.spans) == 1 and p.spans[0, 0] == 0 and p.spans[0, 1] == len(p.ids) for p in pieces
        ):
            return None
        spans = [
            (i, first if tail is None else max(first, end - tail), end)
            for i, p in enumerate(pieces)
            for first, end in p.spans
        ]
        return to_device(torch.tensor(spans), self.backbone.device)

    def _finish(
        self, hidden: "torch.Tensor", offsets: "torch.Tensor", spans: "torch.Tensor | None"
    ) -> "torch.Tensor":
        import torch

        vectors = self._head(pool(hidden, offsets, self._pooling, spans))
        vectors = vectors[:, : self._config.truncate_dim]
        # after truncation norms are 0.55-0.60: without normalising again every threshold would change its meaning
        return torch.nn.functional.normalize(vectors, dim=1) if self._config.normalize else vectors
