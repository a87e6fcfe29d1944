"""Run a model over the rows that it can take, for every transform that names one.

    blocks --> check --> infer --> separate --> blocks with what the model made
                 |                    |
                 +------ rejects -----+

Without exception handling the first bad row fails the job, by `check` or by the model's handler,
and nothing is left to separate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam

from beam_gpte.core.encoder.config import ModelRuntime
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import CheckTexts
from beam_gpte.elements.rejects import (
    GoodAndRejects,
    merge_rejects,
    reject_outputs,
    split_defects,
)

Infer = Callable[[beam.PCollection[Block]], beam.PCollection[Block]]


def infer_blocks(
    transform: Any,
    blocks: beam.PCollection[Block],
    check: tuple[str, beam.PTransform],
    infer: Infer,
    separate: str,
    added: Sequence[str] = (),
) -> Any:
    """Return blocks with what a model made of them; with exception handling, also the rejects.

    Args:
      transform: the `RejectingTransform` that names the model, with an `id_column`.
      blocks: the rows.
      check: a label, and the ParDo that separates rows that the model cannot take.
      infer: runs the model; a row that it could not take has its reason in the column `DEFECT`.
      separate: the label of the step that separates these.
      added: columns of the model's, which rejects do not have.
    """
    label, bad_rows = check
    rows, refused = blocks | label >> reject_outputs(bad_rows)
    found = infer(rows)
    if not transform._isolate:
        return found
    split = beam.FlatMap(split_defects, transform.step, transform.id_column, added)
    found, failed = found | separate >> reject_outputs(split)
    return GoodAndRejects(found, merge_rejects([refused, failed]))


def check_texts(transform: Any) -> tuple[str, beam.PTransform]:
    """Return the check of a transform that runs a model over one column of texts."""
    names = transform.text_column, transform.id_column
    check = CheckTexts(transform.step, *names, transform._isolate, transform.added())
    return "CheckTexts", beam.ParDo(check)


def run_inference(handler: Any, runtime: ModelRuntime) -> beam.PTransform:
    """Run a handler of blocks by Beam's `RunInference`; a block is a batch.

    Args:
      handler: a `BlockModelHandler`, or that of `EmbedText`.
      runtime: says which files to watch for another model.
    """
    # imported late: Beam's ml package loads torch where it is installed
    from apache_beam.ml.inference.base import RunInference

    infer = RunInference(
        handler.with_no_batching(), watch_model_pattern=runtime.watch_model_pattern
    )
    return infer.with_output_types(Block)
