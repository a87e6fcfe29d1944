"""A corpus becomes a corpus with vectors: `blocks | EmbedText(model)`.

rows or blocks --> CheckTexts --> RunInference(our ModelHandler) --> CheckVectors --> blocks with an embedding column
                       |                                                 |
                       +------------------- rejects ---------------------+
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import DEFECT, EMBEDDING, ID, TEXT
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.text_encoder import Encoder, as_model
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.reuse import AttachPreviousVectors

STEP = "EmbedText"


@dataclasses.dataclass(eq=False)
class EmbedText(RejectingTransform):
    """Embed the text of every row: a column `FixedSizeList<float32>[dim]` is added, all others pass through untouched.

    Takes blocks, pyarrow tables or record batches, mappings, Beam Rows, NamedTuples, `EmbeddableItem`s or strings, and
    gives the same kind back (see `rows`). Rows without a usable text (null, empty, blank, not a string, not valid Unicode),
    with a null id, or that the model cannot take fail the job, or are set aside by `with_exception_handling()`.

    Ids are not compared with one another: `RejectDuplicateIds` does that, and `ReadCorpus` has done it.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, an `EncoderConfig`, or your own object with
        `encode(list[str]) -> ndarray`.
      text_column: what is embedded; strings, or bytes that are UTF-8.
      id_column: names rows in messages; None if there is none. A collection without that column is fine.
      embedding_column: where the vectors go.
      token_columns: add `tokens` and `tokens_dropped`: what went into each vector, and what none has seen.
      reuse: Parquet files of a former run (folder or glob): the texts it has are not embedded again, if its vectors are
        those of this model and settings, which their fingerprint says. Batch only.
      threads: threads of one forward pass; see `TextEmbeddingModelHandler`.
      large_model: one copy of the model for all processes of a machine.
      watch_model_pattern: a glob of files, such as ``models/*/modules.json``: the folder of the newest becomes the model
        while a stream runs, as in Beam's `RunInference`.
    """

    model: str | EncoderConfig | Encoder
    text_column: str = TEXT
    id_column: str | None = ID
    embedding_column: str = EMBEDDING
    token_columns: bool = False
    reuse: str | None = None
    threads: int = 1
    large_model: bool = False
    watch_model_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.embedding_column in (self.text_column, self.id_column):
            raise InputError(
                f"embedding_column {self.embedding_column!r} is the text or id column; name another"
            )
        model = as_model(self.model)
        splits = isinstance(model, EncoderConfig) and model.long_text in ("chunks", "late_chunks")
        if self.reuse is not None and (splits or self.token_columns):
            raise InputError(
                "reuse with chunks or token_columns: a former run does not keep what these need; leave it out"
            )

    def expand(self, pcoll: beam.PCollection) -> Any:
        return over_blocks(pcoll, self._embed, self.text_column, self.id_column)

    def _embed(self, blocks: beam.PCollection[Block]) -> Any:
        from apache_beam.ml.inference.base import (
            RunInference,  # Beam's ml package loads torch where it is installed
        )

        check = CheckTexts(
            STEP, self.text_column, self.id_column, self._isolate, absent=self.embedding_column
        )
        texts, bad_texts = blocks | "CheckTexts" >> reject_outputs(beam.ParDo(check))
        if self.reuse is not None:
            texts = texts | "Reuse" >> AttachPreviousVectors(
                self.reuse, self.text_column, self.embedding_column
            )
        vectors, failed = (
            texts
            | "AsBatch" >> beam.Map(_as_batch).with_output_types(list[Block])
            | "Infer"
            >> RunInference(
                self._handler(self._isolate), watch_model_pattern=self.watch_model_pattern
            )
            | "CheckVectors"
            >> reject_outputs(beam.ParDo(_CheckVectors(self.id_column, self._isolate)))
        )
        if not self._isolate:
            return vectors
        return vectors, merge_rejects([bad_texts, failed])

    def _handler(self, isolate: bool) -> Any:
        from beam_gpte.embedding.model_handler import TextEmbeddingModelHandler

        handler = TextEmbeddingModelHandler(
            self.model,
            self.text_column,
            self.embedding_column,
            isolate,
            self.id_column,
            self.token_columns,
            self.threads,
            self.large_model,
        )
        return handler.with_no_batching()  # a block is a batch


class _CheckVectors(beam.DoFn):
    """Separates the rows whose text the model could not take."""

    def __init__(self, id_column: str | None, isolate: bool) -> None:
        self._id_column = id_column
        self._isolate = isolate

    def process(self, block: Block) -> Iterator[Any]:
        if DEFECT not in block.schema.names:
            yield block
            return
        reasons = block.column(DEFECT)
        yield from split_rejects(
            block.without_columns([DEFECT]), reasons, STEP, self._isolate, self._id_column
        )


def _as_batch(block: Block) -> list[Block]:
    return [block]
