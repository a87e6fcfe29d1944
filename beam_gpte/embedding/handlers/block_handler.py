"""Share what handlers of blocks have in common.

That is the model, loaded once, what a bad row does, and what is taken from a previous run.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT, PREVIOUS
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import naming
from beam_gpte.core.process import tune_process
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import step_error
from beam_gpte.elements.rejects import NAMESPACE, row_name
from beam_gpte.embedding.previous.previous_columns import NotReused
from beam_gpte.embedding.previous.previous_vectors import previous_columns, why_not_columns
from beam_gpte.embedding.reuse import count_not_reused
from beam_gpte.embedding.shared_models import announce, later, loaded
from beam_gpte.files.meter import TEXTS, report

MODEL_FILES = (".json", ".safetensors")
REPAIR = (
    "fix the row, or collect such rows with .with_exception_handling() (error_handling in YAML)"
)

tune_process()
from apache_beam.ml.inference.base import ModelHandler  # noqa: E402  # loads torch

M = TypeVar("M")


class BlockModelHandler(ModelHandler[Block, Block, M], Generic[M]):
    """Run a model over blocks, each a batch; one model per process for all steps that name it.

    A subclass sets `counters`, first those of rows and of what the model makes of them, and
    implements `_load_shared` and `_run`; `_fields` if a previous run may have its columns.

    Args:
      config: the model, an `EncoderConfig` or an `EndpointConfig`.
      isolate_failures: give a row that the model cannot take nulls, and its reason in the column
        `DEFECT`, instead of failing the batch.
      id_column: names rows in messages; None if there is none.
      runtime: threads and memory of the workers; see `TextEmbeddingModelHandler`.
    """

    step = ""  # the transform that errors name
    counters: tuple[str, ...] = ()

    def __init__(
        self,
        config: Any,
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(large_model=runtime.large_model)
        self._config = config
        self._isolate_failures = isolate_failures
        self._id_column = id_column
        self._threads = runtime.threads

    def load_model(self) -> M:
        """Return the model, which all steps of this process share, or a promise of it."""
        return self._load() if self.share_model_across_processes() else later(self._load)

    def _load(self) -> M:
        with naming(self.step):
            return self._load_shared()

    def _load_shared(self) -> M:
        """Return the model that all steps of this process share."""
        raise NotImplementedError

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`; see `TextEmbeddingModelHandler`."""
        if model_path and isinstance(self._config, EncoderConfig):
            self._config = dataclasses.replace(
                self._config, model=watched_model(model_path), revision=None
            )

    def run_inference(  # type: ignore[override]
        self, block: Block, model: M, inference_args: dict[str, Any] | None = None
    ) -> Iterator[Block]:
        """Return a block, which is a batch, with what the model makes of it."""
        announce(self.counters)
        yield self._reused(block, loaded(model))

    def _reused(self, block: Block, model: M) -> Block:
        """Take the columns of a previous run, where all rows have what this model makes again.

        Which of the rows have nothing `AttachPreviousVectors` put into other blocks.
        """
        if PREVIOUS not in block.schema.names:
            return self._run(block, model)
        fields = self._fields(model)
        reason = why_not_columns(block, fields)
        if reason is not None:
            count_not_reused(NotReused(reason, len(block)))
            return self._run(block.without_columns([PREVIOUS]), model)
        rows = previous_columns(block, fields)
        sizes = len(rows), _size(rows.column(fields[0].name))
        for name, size in zip(self.counters[:2], sizes, strict=True):
            Metrics.counter(NAMESPACE, f"{name}_reused").inc(size)
        report(TEXTS, len(rows))
        return rows

    def _fields(self, model: M) -> tuple[pa.Field, ...]:
        """Return the columns that the model makes, with their metadata."""
        raise NotImplementedError

    def _run(self, block: Block, model: M) -> Block:
        """Return the block with new columns."""
        raise NotImplementedError

    def _check(
        self,
        block: Block,
        failed: Mapping[int, str],
        about: Callable[[int], str] = lambda _: "",
    ) -> None:
        """Fail at the first row that failed, unless failures are isolated.

        Args:
          block: the rows.
          failed: reasons by position.
          about: what the message says of a row before its reason.
        """
        for position, reason in failed.items() if not self._isolate_failures else ():
            row = row_name(block.slice(position, 1), self._id_column)
            raise step_error(self.step, f"{row}: {about(position)}{reason}; {REPAIR}")

    def get_num_bytes(self, block: Block) -> int:  # type: ignore[override]
        """Count the bytes of a block, for Beam's metrics."""
        return block.batch.nbytes

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


def _size(column: pa.Array) -> int:
    """Count what a model made of the rows: a vector of each, or the values of lists."""
    if pa.types.is_fixed_size_list(column.type):
        return len(column)
    return int(pc.sum(pc.list_value_length(column)).as_py() or 0)


def with_reasons(block: Block, failed: Mapping[int, str]) -> Block:
    """Add the hidden column `DEFECT` where rows failed: the reason of each."""
    if not failed:
        return block
    why = pa.array([failed.get(i) for i in range(len(block))], pa.string())
    return with_hidden(block, pa.field(DEFECT, pa.string()), why)


def watched_model(path: str) -> str:
    """Find the model that a watched path belongs to: a folder, or the folder of a file in it.

    Beam's watcher matches files, such as modules.json, never folders.
    """
    return FileSystems.split(path)[0] if path.endswith(MODEL_FILES) else path
