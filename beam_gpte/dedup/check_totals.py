"""Check that a deduplication lost and doubled no row."""

import dataclasses
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import REJECT_STEP
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs


@dataclasses.dataclass(eq=False)
class CheckNothingLost(beam.PTransform):
    """`(rows, result)` gives `{"rows", "kept", "removed", "rejected"}`, or fails the job if these do not add up.

    Attributes:
      rejected: how many rejects there are in all, which may be more than the result's: rows that were not read.
    """

    rejected: beam.pvalue.AsSingleton

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        rows, result = inputs
        counted = {"rows": rows, "kept": result.kept, "removed": result.removed}
        refused = result.rejects | "OwnRejects" >> beam.Filter(_is_of_corpus).with_output_types(
            Block
        )
        count_rows = beam.Map(len).with_output_types(int)
        totals = {
            name: blocks
            | f"Rows_{name}" >> count_rows
            | f"Sum_{name}" >> beam.CombineGlobally(sum).as_singleton_view()
            for name, blocks in (*counted.items(), ("refused", refused))
        }
        return rows.pipeline | "AddUp" >> FromSideInputs(
            dict, _add_up, self.rejected, *totals.values()
        )


def _is_of_corpus(block: Block) -> bool:
    return not (block and block.column(REJECT_STEP)[0].as_py().endswith(": reference"))


def _add_up(rejected: int, rows: int, kept: int, removed: int, refused: int) -> dict[str, int]:
    if kept + removed + refused != rows:
        raise RuntimeError(
            f"{rows} rows became {kept} kept, {removed} removed and {refused} rejected: please report this"
        )
    return {"rows": rows, "kept": kept, "removed": removed, "rejected": rejected}
