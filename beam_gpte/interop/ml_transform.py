"""Our encoder in Beam's `MLTransform`: columns of dicts, or `EmbeddableItem`s of the RAG package, become vectors.

    MLTransform(write_artifact_location=FOLDER).with_transform(GpteTextEmbeddings(MODEL, columns=["text"]))

The artifact holds the configuration; `MLTransform(read_artifact_location=FOLDER)` embeds by it again.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.text_encoder import Encoder, as_model
from beam_gpte.core.errors import InputError
from beam_gpte.elements.row_kinds import row_fields
from beam_gpte.embedding.model_handler import Model, TextEmbeddingModelHandler

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

MIN_BATCH, MAX_BATCH = 64, 256  # texts; adaptive batches of Beam are far smaller on a CPU


class GpteTextEmbeddings(EmbeddingsManager):
    """Embed texts in `MLTransform`, each replaced by its vector, a list of floats; what came in is not changed.

    A text that is no string, empty or blank, and one that the model cannot take, fails its batch: with
    `MLTransform.with_exception_handling()` the whole batch goes to the errors. `EmbedText` takes dicts and items
    too, keeps the text, and sets single rows aside.

    Args:
      model: what `EmbedText` takes.
      columns: of dicts, Beam Rows or NamedTuples; None for `EmbeddableItem`s, whose `embedding` is filled.
      min_batch_size: texts of a batch, at least, where a bundle has as many.
      max_batch_size: texts of a batch, at most.
      threads: threads of one forward pass.
      large_model: one copy of the model for all processes of a machine.
    """

    def __init__(
        self,
        model: str | EncoderConfig | Encoder,
        columns: Sequence[str] | None = None,
        *,
        min_batch_size: int | None = None,
        max_batch_size: int | None = None,
        threads: int = 1,
        large_model: bool = False,
    ) -> None:
        if columns is not None and (isinstance(columns, str) or not columns):
            raise InputError(
                f"columns is {columns!r}; give a list of names, or leave it out for EmbeddableItems"
            )
        self.model = as_model(model)
        if isinstance(self.model, EncoderConfig) and self.model.long_text in (
            "chunks",
            "late_chunks",
        ):
            raise InputError(
                f"long_text {self.model.long_text!r} makes several rows of one; use truncate or windows"
            )
        most = max_batch_size or max(MAX_BATCH, min_batch_size or 0)
        least = min(MIN_BATCH, most) if min_batch_size is None else min_batch_size
        if not 1 <= least <= most:
            raise InputError(
                f"min_batch_size {least} and max_batch_size {most}; use 1 or more, the first not above the other"
            )
        names = None if columns is None else list(columns)
        super().__init__(
            columns=names,
            type_adapter=_adapter(names),
            min_batch_size=least,
            max_batch_size=most,
            large_model=large_model,
        )
        self.type_adapter = _adapter(names)  # Beam's own for columns changes what came in
        self.threads = threads
        self._sizes = least, most

    def get_model_handler(self) -> TextEmbeddingModelHandler:
        return _VectorHandler(self.model, *self._sizes, self.threads, self.large_model)

    def get_ptransform_for_processing(self, **kwargs: Any) -> beam.PTransform:
        return RunInference(_ManagedHandler(self))


class _ManagedHandler(_TextEmbeddingHandler):
    """Beam's, which forgets `large_model`."""

    def share_model_across_processes(self) -> bool:
        return self.embedding_config.large_model


class _VectorHandler(TextEmbeddingModelHandler):
    """Texts become float32 (n, dim), which is what an `EmbeddingsManager` hands on."""

    def __init__(
        self, model: Any, min_batch_size: int, max_batch_size: int, threads: int, large_model: bool
    ) -> None:
        super().__init__(model, threads=threads, large_model=large_model)
        self._sizes = {"min_batch_size": min_batch_size, "max_batch_size": max_batch_size}

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return self._sizes

    def run_inference(
        self, batch: Sequence[Any], model: Model, inference_args: dict[str, Any] | None = None
    ) -> Any:
        for text in batch:
            if not isinstance(text, str):
                raise InputError(
                    f"{text!r} is no text; leave such rows out, or use EmbedText, which sets them aside"
                )
            if not text.strip():
                raise InputError(
                    f"a text is {text!r}; leave such rows out, or use EmbedText, which sets them aside"
                )
        return self._encode(list(batch), model, isolate=False).vectors


def _adapter(columns: list[str] | None) -> EmbeddingTypeAdapter:
    if columns is None:
        return EmbeddingTypeAdapter(create_text_adapter().input_fn, _fill_items)
    return EmbeddingTypeAdapter(
        functools.partial(_read_columns, columns), functools.partial(_fill_columns, columns)
    )


def _read_columns(columns: list[str], batch: Sequence[Any]) -> list[Any]:
    texts = []
    for fields in map(row_fields, batch):
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
