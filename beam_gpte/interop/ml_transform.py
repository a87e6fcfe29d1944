"""Embed texts in Beam's `MLTransform`: columns of dicts, or `EmbeddableItem`s of the RAG package.

    MLTransform(write_artifact_location=FOLDER).with_transform(
        GpteTextEmbeddings(MODEL, columns=["text"])
    )

The artifact holds the configuration; `MLTransform(read_artifact_location=FOLDER)` embeds with it
again.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import check_visible
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime, check_one_row
from beam_gpte.core.encoder.text_encoder import Encoder
from beam_gpte.core.errors import InputError, naming, shown
from beam_gpte.elements.row_kinds import row_fields
from beam_gpte.embedding.handlers.text_handler import TextEmbeddingModelHandler
from beam_gpte.embedding.models import LoadedModel, as_model

# isort: split
from apache_beam.ml.inference.base import (
    RunInference,  # after the handler, which sets how threads wait
)
from apache_beam.ml.rag.embeddings.base import create_text_adapter
from apache_beam.ml.rag.types import EmbeddableItem, Embedding
from apache_beam.ml.transforms.base import (
    EmbeddingsManager,
    EmbeddingTypeAdapter,
    _TextEmbeddingHandler,
)

MIN_BATCH, MAX_BATCH = 64, 256  # texts; Beam's adaptive batches are far smaller on a CPU
_REPAIR = "leave such rows out, or use EmbedText, which can collect them"


class GpteTextEmbeddings(EmbeddingsManager):
    """Embed texts in `MLTransform`: replace each by its vector, a list of floats, in a new element.

    A text that is not a string, empty or blank, or that the model cannot take, fails its batch:
    with `MLTransform.with_exception_handling()` the whole batch goes to the errors. `EmbedText`
    also takes dicts and items, keeps the text, and collects single rows.

    Args:
      model: what `EmbedText` takes.
      columns: of dicts, Beam Rows or NamedTuples; None for `EmbeddableItem`s, whose `embedding` is
        filled.
      min_batch_size: minimum texts per batch, if a bundle has as many.
      max_batch_size: maximum texts per batch.
      runtime: threads and memory of the workers; see `ModelRuntime`. `MLTransform` has no place for
        `watch_model_pattern`.
    """

    __module__ = "beam_gpte"  # see `beam_gpte.export`

    def __init__(
        self,
        model: str | EncoderConfig | Encoder,
        columns: Sequence[str] | None = None,
        *,
        min_batch_size: int | None = None,
        max_batch_size: int | None = None,
        runtime: ModelRuntime | None = None,
    ) -> None:
        self.model = _checked_model(model)
        self.runtime = runtime or ModelRuntime()
        if self.runtime.watch_model_pattern is not None:
            raise InputError(
                f"runtime with watch_model_pattern {self.runtime.watch_model_pattern!r}: "
                "MLTransform does not watch files; use EmbedText"
            )
        self._sizes = _batch_sizes(min_batch_size, max_batch_size)
        names = _checked_names(columns)
        super().__init__(
            columns=names,
            type_adapter=_adapter(names),
            min_batch_size=self._sizes[0],
            max_batch_size=self._sizes[1],
            large_model=self.runtime.large_model,
        )
        self.type_adapter = _adapter(names)  # Beam's adapter for columns changes its input

    def get_model_handler(self) -> TextEmbeddingModelHandler:
        """Return the handler that Beam wraps in its own."""
        return _VectorHandler(self.model, *self._sizes, self.runtime)

    def get_ptransform_for_processing(self, **kwargs: Any) -> beam.PTransform:
        """Return the step that embeds."""
        return RunInference(_ManagedHandler(self))


def _checked_model(model: Any) -> Any:
    made = as_model(model)
    check_one_row(made)
    return made


def _checked_names(columns: Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not columns:
        raise InputError(
            f"columns is {columns!r}; give a list of names, or leave it out for EmbeddableItems"
        )
    _check_names(columns)
    return list(columns)


def _check_names(names: Iterable[str]) -> None:
    with naming(GpteTextEmbeddings.__name__):
        check_visible(names)


def _batch_sizes(min_size: int | None, max_size: int | None) -> tuple[int, int]:
    maximum = max_size or max(MAX_BATCH, min_size or 0)
    minimum = min(MIN_BATCH, maximum) if min_size is None else min_size
    if not 1 <= minimum <= maximum:
        raise InputError(
            f"min_batch_size {minimum} and max_batch_size {maximum}; use 1 or more, and a minimum "
            "that is not above the maximum"
        )
    return minimum, maximum


class _ManagedHandler(_TextEmbeddingHandler):
    """Share the model across processes if `large_model` says so, which Beam's handler ignores."""

    def share_model_across_processes(self) -> bool:
        return self.embedding_config.large_model


class _VectorHandler(TextEmbeddingModelHandler):
    """Embed texts to float32 (n, dim), as an `EmbeddingsManager` expects."""

    def __init__(
        self, model: Any, min_batch_size: int, max_batch_size: int, runtime: ModelRuntime
    ) -> None:
        super().__init__(model, runtime=runtime)
        self._sizes = {"min_batch_size": min_batch_size, "max_batch_size": max_batch_size}

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return self._sizes

    def run_inference(
        self, batch: Sequence[Any], model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Any:
        for text in batch:
            if not isinstance(text, str):
                raise InputError(f"{shown(text)} is not a text; {_REPAIR}")
            if not text.strip():
                raise InputError(f"a text is {text!r}; {_REPAIR}")
        return self._encode(list(batch), model, isolate=False).vectors


def _adapter(columns: list[str] | None) -> EmbeddingTypeAdapter:
    """Read texts from elements, and write vectors into new ones."""
    if columns is None:
        return EmbeddingTypeAdapter(_read_items, _fill_items)
    return EmbeddingTypeAdapter(
        functools.partial(_read_columns, columns), functools.partial(_fill_columns, columns)
    )


def _read_items(items: Sequence[EmbeddableItem]) -> list[str]:
    for item in items:
        _check_names(item.metadata)
    return create_text_adapter().input_fn(items)


def _read_columns(columns: list[str], batch: Sequence[Any]) -> list[Any]:
    texts = []
    for fields in map(row_fields, batch):
        _check_names(fields)
        missing = [name for name in columns if name not in fields]
        if missing:
            raise InputError(
                f"no column {missing[0]!r} among {', '.join(fields)}; name others by columns"
            )
        texts += [fields[name] for name in columns]
    return texts


def _fill_columns(
    columns: list[str], batch: Sequence[Any], vectors: Sequence[list[float]]
) -> list[Any]:
    filled = []
    for i, element in enumerate(batch):
        new = dict(zip(columns, vectors[i * len(columns) : (i + 1) * len(columns)], strict=True))
        fields = {**row_fields(element), **new}
        filled.append(fields if isinstance(element, Mapping) else beam.Row(**fields))
    return filled


def _fill_items(
    items: Sequence[EmbeddableItem], vectors: Sequence[list[float]]
) -> list[EmbeddableItem]:
    return [
        dataclasses.replace(item, embedding=Embedding(vector, item.sparse_embedding))
        for item, vector in zip(items, vectors, strict=True)
    ]
