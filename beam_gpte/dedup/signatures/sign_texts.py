"""Sign texts, to compare later ones with them: `rows | SignTexts() | WriteVectorsToParquet(...)`.

rows --> Check --> Sign --> blocks of id, signature, shingles
           |
           +--> rejects
"""

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_gpte.core.columns import SHINGLES, SIGNATURE_SCOPE, Columns
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.text.minhash import MinHash
from beam_gpte.dedup.checks import RowChecks, TextDefects, check_rows
from beam_gpte.dedup.lexical import compared_texts, scope_hashes
from beam_gpte.dedup.signatures.match_known import sign, with_signatures
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform, merge_rejects
from beam_gpte.elements.rows import back_to_rows, to_blocks
from beam_gpte.shuffle.group_by_id import frame_of


@dataclasses.dataclass(eq=False)
class SignTexts(RejectingTransform):
    """Give the MinHash signature of each text, for `history` of `DeduplicateLexical`.

    Gives blocks of the ids, `signature` (`num_perm` uint32; the field's metadata say how it was
    made), `shingles` (int64: the text's n-grams, repeated ones too) and, with a scope,
    `signature_scope` (uint64, a hash). About 4 bytes for each of `num_perm` columns, whatever the
    text's length: 512 by default.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are collected by
    `with_exception_handling()`.

    Attributes:
      scope: rows are compared with those of the same value in this column alone.
      minhash: the n-grams, and the size of the signatures.
      columns: of the ids and the texts.
    """

    scope: str | None = None
    minhash: MinHash = dataclasses.field(default_factory=MinHash)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return blocks of signatures; with exception handling, `GoodAndRejects`."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(f"{self.step}: a corpus is signed as a whole, not a stream")
        names, none_added = self.columns, AddedColumns(self.step, (), self._isolate)
        scopes = () if self.scope is None else (self.scope,)
        rows = to_blocks(pcoll, names.text, names.id, scopes, added=none_added)
        defects = ((self.step, TextDefects(names.text, scopes)),)
        checks = RowChecks(self.step, defects, names.id, self._isolate, none_added)
        checked = check_rows(rows.blocks, None, checks, None)
        make = InStep(self.step, _Sign(self.minhash, self.scope, names))
        signed = checked.rows | "Sign" >> beam.Map(make.__call__).with_output_types(Block)
        if not self._isolate:
            return signed
        rejects = back_to_rows(rows, merge_rejects(checked.rejects))
        return GoodAndRejects(signed, rejects)


@dataclasses.dataclass(frozen=True)
class _Sign:
    minhash: MinHash
    scope: str | None
    columns: Columns

    def __call__(self, block: Block) -> Block:
        texts = frame_of([block.select([self.columns.text])])[self.columns.text]
        signed, counts = sign(compared_texts(texts, self.minhash.unit).to_list(), self.minhash)
        ids = block.select([self.columns.id]).without_metadata()
        result = with_signatures(ids, signed, self.minhash, self.scope)
        result = result.with_column(pa.field(SHINGLES, pa.int64()), pa.array(counts, pa.int64()))
        if self.scope is None:
            return result
        scopes = scope_hashes(block.column(self.scope))
        return result.with_column(pa.field(SIGNATURE_SCOPE, pa.uint64()), scopes)
