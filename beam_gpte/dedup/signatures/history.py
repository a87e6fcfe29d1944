"""Check the signatures of previous runs, and separate them from new rows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import REFERENCE, SCOPE, SIGNATURE, SIGNATURE_SCOPE
from beam_gpte.core.text.minhash import MinHash
from beam_gpte.core.text.signature_metadata import check_signatures
from beam_gpte.dedup.checks import TextDefects
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.checks import check_columns


@dataclasses.dataclass(frozen=True)
class SignatureDefects:
    """Say why rows cannot be compared: texts of new ones, signatures of old ones.

    Attributes:
      texts: of the new rows.
      minhash: that the signatures must be of.
      scope: that they must be of.
    """

    texts: TextDefects
    minhash: MinHash
    scope: str | None

    def __call__(self, block: Block) -> pa.Array:
        """Give the reason for each row; signatures that were made otherwise fail the job."""
        if REFERENCE not in block.schema.names:
            return self.texts(block)
        scopes = () if self.scope is None else (SIGNATURE_SCOPE,)
        check_columns(block, (SIGNATURE, *scopes))
        check_signatures(block.schema.field(SIGNATURE), self.minhash, self.scope)
        missing = block.column(SIGNATURE).is_null()
        reasons = pa.array(["signature is null"] * len(block), pa.string())
        return pc.if_else(missing, reasons, pa.nulls(len(block), pa.string()))


def split_history(id_column: str) -> Any:
    """Give the step with the outputs `new`, rows, and `known`: ids, signatures and scopes."""
    split = beam.FlatMap(_split, id_column).with_output_types(Block, known=Block)
    return split.with_outputs("known", main="new")


def _split(block: Block, id_column: str) -> Iterator[Any]:
    if REFERENCE not in block.schema.names:
        yield block
        return
    known = {name: block.column(name) for name in (id_column, SIGNATURE, REFERENCE)}
    if SIGNATURE_SCOPE in block.schema.names:
        known[SCOPE] = block.column(SIGNATURE_SCOPE)
    yield TaggedOutput("known", hidden_block(known))
