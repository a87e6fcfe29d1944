"""Run a `TextEncoder` inside Beam's `RunInference`.

`EmbedText` uses the handler over blocks. It also stands alone:
`texts | RunInference(TextEmbeddingModelHandler(model))` gives `PredictionResult`s with float32
vectors, and works inside `KeyedModelHandler` and with `watch_model_pattern`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT, EMBEDDING, PARENT_HASH, PREVIOUS, TEXT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.encoder.text_encoder import Encoding, TextEncoder
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.process import torch_threads, tune_process
from beam_gpte.core.served.endpoint_encoder import EndpointEncoder
from beam_gpte.core.static.static_encoder import StaticEncoder
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.elements.checks import step_error
from beam_gpte.elements.chunk_rows import chunk_rows, with_token_columns
from beam_gpte.elements.rejects import NAMESPACE, row_name
from beam_gpte.embedding.handlers.block_handler import REPAIR, watched_model
from beam_gpte.embedding.models import LoadedModel, Model, as_model, load_model
from beam_gpte.embedding.previous.previous_columns import NotReused, parent_hashes
from beam_gpte.embedding.previous.previous_vectors import previous_encoding, why_not
from beam_gpte.embedding.reuse import Reuse, count_not_reused
from beam_gpte.embedding.shared_models import announce, count, later, loaded
from beam_gpte.files.meter import TEXTS, report
from beam_gpte.sinks.runs.resume import ResumePoint

tune_process()
from apache_beam.ml.inference.base import ModelHandler, PredictionResult  # noqa: E402  # loads torch

Batch = Any  # a sequence of strings or of blocks, or a block
COUNTERS = (
    "texts",
    "vectors",
    "texts_repeated",
    "texts_resumed",
    "tokens",
    "tokens_computed",
    "tokens_dropped",
    "texts_truncated",
    "out_of_memory_retries",
)


class TextEmbeddingModelHandler(ModelHandler[Any, Any, Any]):
    """Embed texts with a pretrained model, loaded once per worker process for all handlers.

    Batches hold strings, each giving a `PredictionResult` with a float32 vector (dim,), or blocks,
    each giving the block with an embedding column; or, `with_no_batching()`, a block is a batch.

    Args:
      model: a hub name, a folder, a URI of any Beam file system, an `EncoderConfig`, an
        `EndpointConfig`, or a custom encoder with `encode(list[str]) -> ndarray`.
      text_column: the texts of a block.
      embedding_column: where the vectors of a block go.
      isolate_failures: give a text of a block that cannot be embedded a null vector, and its reason
        in the column `DEFECT`, instead of failing the batch.
      id_column: ids of a block; needed where a long text becomes several rows, see
        `elements.chunk_rows`.
      token_columns: add how many tokens of each row were embedded and dropped, see
        `elements.chunk_rows`.
      runtime: threads and memory of the workers. One thread is the default because workers run
        several batches at once: N callers with one thread each beat one caller with N by 9-29 %.
        `watch_model_pattern` is an argument of `RunInference` instead.
    """

    __module__ = "beam_gpte"  # see `beam_gpte.export`
    added = AddedColumns()  # names of the columns besides the vectors; `EmbedText` sets it

    step: str | None = None  # the transform that errors name
    is_later = False  # whether the model is loaded with the first batch; `EmbedText`'s is
    in_parts = False  # whether a block whose texts are split may become several; `EmbedText`'s may
    resume: ResumePoint | None = None  # where a killed run left its vectors; `EmbedText` sets it
    reuse: Reuse | None = None  # the previous run of which blocks have vectors; `EmbedText` sets it

    def __init__(
        self,
        model: str | Model,
        text_column: str = TEXT,
        embedding_column: str = EMBEDDING,
        isolate_failures: bool = False,
        id_column: str | None = None,
        token_columns: bool = False,
        runtime: ModelRuntime | None = None,
    ) -> None:
        runtime = runtime or ModelRuntime()
        if runtime.watch_model_pattern is not None:
            raise InputError(
                f"runtime with watch_model_pattern {runtime.watch_model_pattern!r}: a handler does "
                "not watch files; give the pattern to RunInference"
            )
        super().__init__(
            min_batch_size=64, max_batch_size=ROWS_PER_BLOCK, large_model=runtime.large_model
        )
        self._model = as_model(model)
        self._text_column = text_column
        self._embedding_column = embedding_column
        self._isolate_failures = isolate_failures
        self._id_column = id_column
        self._token_columns = token_columns
        self._threads = runtime.threads

    def load_model(self) -> LoadedModel:
        """Return the model, which all steps of this process share unless it is a custom encoder."""
        if self.is_later and not self.share_model_across_processes():
            return later(self._load)
        return self._load()

    def _load(self) -> LoadedModel:
        with naming(self.step):
            return load_model(self._model)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`, its folder or one of its files."""
        if model_path and isinstance(self._model, EncoderConfig):
            self._model = dataclasses.replace(
                self._model, model=watched_model(model_path), revision=None
            )

    def run_inference(
        self, batch: Batch, model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterator[Any]:
        """Embed a batch of strings or of blocks, or a block."""
        announce(COUNTERS)
        model = loaded(model)
        if isinstance(batch, Block):
            return self._embed_blocks([batch], model)
        if all(isinstance(example, str) for example in batch):
            if self._splits(model):
                raise InputError(
                    "strings with long_text chunks: RunInference takes one result per text; "
                    "give blocks"
                )
            encoding = self._encode(list(batch), model, isolate=False)
            for position, reason in encoding.failed.items():
                raise InputError(f"{batch[position][:80]!r}: {reason}")
            names = model.metadata.model
            return (
                PredictionResult(text, vector, names)
                for text, vector in zip(batch, encoding.vectors, strict=True)
            )
        wrong = next((example for example in batch if not isinstance(example, Block)), None)
        if wrong is not None:
            raise InputError(f"a batch holds a {type(wrong).__qualname__}; give strings, or blocks")
        return self._embed_blocks(batch, model)

    def _embed_blocks(self, blocks: Sequence[Block], model: LoadedModel) -> Iterator[Block]:
        for block in blocks:
            texts = self.texts_of(block)
            rows, encoding = self.reused(block, model)
            if encoding is None:
                encoding = self._encode(texts, model, self._isolate_failures)
            yield from self.with_vectors(rows, texts, encoding, model)

    def texts_of(self, block: Block) -> list[str]:
        """Return the texts of a block."""
        return block.column(self._text_column).cast(pa.string()).to_pylist()

    def with_vectors(
        self, block: Block, texts: list[str], encoding: Encoding, model: LoadedModel
    ) -> Iterator[Block]:
        """Add vectors to the rows of a block; rows whose text is split become several.

        Raises:
          InputError: a text failed, and failures are not isolated.
        """
        if encoding.failed and not self._isolate_failures:
            raise self._failure(block, texts, encoding.failed)
        vectors = encoding_to_arrow(encoding)
        reasons: list[str | None] = []
        if encoding.failed:
            reasons = [encoding.failed.get(i) for i in encoding.text.tolist()]
        start = 0
        for part in self._parts(block, texts, encoding, model):
            rows = part
            if self._token_columns:
                rows = with_token_columns(rows, encoding, self.added, start)
            field = model.metadata.field(self._embedding_column)
            rows = rows.with_column(field, vectors.slice(start, len(part)))
            if reasons:
                defects = pa.array(reasons[start : start + len(part)], pa.string())
                rows = with_hidden(rows, pa.field(DEFECT, pa.string()), defects)
            yield rows
            start += len(part)

    def reused(self, block: Block, model: LoadedModel) -> tuple[Block, Encoding | None]:
        """Take the vectors of a previous run, where all rows have one that this model gives again.

        Which of its rows have none `AttachPreviousVectors` put into other blocks.

        Returns:
          The block without them, and None if it has to be embedded.
        """
        if self.reuse is None or PREVIOUS not in block.schema.names:
            return block, None
        rows = block.without_columns([PREVIOUS])
        reason = why_not(block, model.metadata, self.reuse, self._token_columns)
        if reason is not None:
            count_not_reused(NotReused(reason, len(block)))
            return rows, None
        encoding = previous_encoding(block)
        Metrics.counter(NAMESPACE, "texts_reused").inc(len(block))
        Metrics.counter(NAMESPACE, "vectors_reused").inc(len(encoding.vectors))
        report(TEXTS, len(block))
        return rows, encoding

    def _parts(
        self, block: Block, texts: list[str], encoding: Encoding, model: LoadedModel
    ) -> Iterable[Block]:
        """Repeat rows for chunks, in blocks of bounded size where nothing needs one for one."""
        if not self._splits(model):
            return [block]
        names = self._text_column, self._id_column
        block = self.added.add(block, PARENT_HASH, parent_hashes(texts))
        parts = chunk_rows(block, encoding.text, encoding.chars, texts, *names, self.added)
        return parts if self.in_parts else [Block.concat(parts)]

    def _splits(self, model: LoadedModel) -> bool:
        return isinstance(model, TextEncoder) and model.config.splits

    def _encode(self, texts: list[str], model: LoadedModel, isolate: bool) -> Encoding:
        encoding, seconds = self.encode(texts, model, isolate)
        count_encoding(encoding, seconds)
        return encoding

    def encode(
        self, texts: list[str], model: LoadedModel, isolate: bool = True
    ) -> tuple[Encoding, float]:
        """Encode texts, and return how many seconds it took; counts nothing."""
        known = None
        # without canaries any weights look alike; a static model is faster than stored vectors
        if (
            self.resume is not None
            and model.metadata.canaries
            and not isinstance(model, StaticEncoder)
        ):
            known = self.resume.vectors(model.metadata)
        began = time.monotonic()
        try:
            with self._running(model):
                encoding = model.encode_with_counts(texts, known)
        except Exception as error:
            # a server is asked for the texts of a request one by one where it refuses that
            if not isolate or len(texts) == 1 or isinstance(model, EndpointEncoder):
                raise
            with self._running(model):
                encoding = _encode_one_by_one(texts, model, error)
        return encoding, time.monotonic() - began

    def _running(self, model: LoadedModel) -> contextlib.AbstractContextManager[None]:
        """Use the number of threads of the runtime; a custom encoder has its own way."""
        own = isinstance(model, TextEncoder)
        return torch_threads(self._threads) if own else contextlib.nullcontext()

    def _failure(self, block: Block, texts: list[str], failed: dict[int, str]) -> InputError:
        """Make the error for the first text that failed; it names the row."""
        position, reason = next(iter(failed.items()))
        row = row_name(block.slice(position, 1), self._id_column)
        return step_error(
            self.step,
            f"{row}: {texts[position][:80]!r}: {reason}; {REPAIR}",
        )

    def get_num_bytes(self, batch: Batch) -> int:
        """Count the bytes of a batch, for Beam's metrics."""
        if isinstance(batch, Block):
            return batch.batch.nbytes
        return sum(
            example.batch.nbytes if isinstance(example, Block) else len(example)
            for example in batch
        )

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


def encoding_to_arrow(encoding: Encoding) -> pa.FixedSizeListArray:
    """Convert the vectors of an encoding to Arrow, null for a text that failed."""
    bad = np.isin(encoding.text, list(encoding.failed))
    flat = pa.array(encoding.vectors.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(
        flat, encoding.vectors.shape[1], mask=pa.array(bad) if bad.any() else None
    )


def _encode_one_by_one(texts: list[str], model: LoadedModel, error: Exception) -> Encoding:
    """Find the texts that fail a batch; if all of them do, raise the error of the batch."""
    done: dict[int, Encoding] = {}
    failed: dict[int, str] = {}
    for i, text in enumerate(texts):
        try:
            done[i] = model.encode_with_counts([text])
        except Exception as failure:  # counted as a reject, with its reason
            failed[i] = f"the model cannot take it: {failure!r}"
    if not done:
        raise error
    failed.update((i, one.failed[0]) for i, one in done.items() if one.failed)
    nothing = np.full((1, model.metadata.dim), np.nan, np.float32)
    parts = [
        (done[i].vectors, done[i].chars, done[i].tokens, done[i].dropped)
        if i in done
        else (nothing, np.array([[0, len(text)]]), np.zeros(1, np.int64), np.zeros(1, np.int64))
        for i, text in enumerate(texts)
    ]
    vectors, chars, tokens, dropped = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    return Encoding(
        vectors=vectors,
        text=np.repeat(np.arange(len(texts)), [len(part[0]) for part in parts]),
        chars=chars,
        tokens=tokens,
        dropped=dropped,
        distinct=len(done),
        needed=sum(one.needed for one in done.values()),
        computed=sum(one.computed for one in done.values()),
        retries=sum(one.retries for one in done.values()),
        failed=failed,
        found=np.zeros(len(texts), bool),
    )


def count_encoding(encoding: Encoding, seconds: float) -> None:
    """Count what a model has done with some texts."""
    resumed = int(encoding.found.sum()) - sum(bool(encoding.found[i]) for i in encoding.failed)
    texts = len(encoding.dropped) - len(encoding.failed) - resumed
    whole = len(encoding.vectors) == len(encoding.dropped)  # one vector per text, no chunks
    values = (
        texts,
        len(encoding.vectors) - len(encoding.failed),
        len(encoding.dropped) - encoding.distinct if whole else 0,
        resumed,
        encoding.tokens[~encoding.found[encoding.text]].sum(),
        encoding.computed,
        encoding.dropped.sum(),
        (encoding.dropped > 0).sum(),
        encoding.retries,
    )
    count(COUNTERS, values, seconds, encoding)
    for name, value in encoding.counts.items():
        Metrics.counter(NAMESPACE, name).inc(value)
    report(TEXTS, resumed)
    if texts:
        Metrics.distribution(NAMESPACE, "tokens_per_text").update(
            int(encoding.tokens.sum() // texts)
        )
