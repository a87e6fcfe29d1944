"""Give ids that results name the type that they have in the rows: int32, string, ...

rows --> a step that sees them --> types, once for each bundle --> side input of what names ids

Ids are compared as int64, uint64 or large_string, and shuffled as such.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.shuffle.unique_ids import like_ids, named_type

ID_TYPES = "id_types"  # the tag


class SeesIdTypes(beam.DoFn):
    """Yield the types of a column of ids, tagged, each once for a bundle, as bytes.

    A subclass passes each block to `see`.
    """

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def start_bundle(self) -> None:
        """Start with no type seen."""
        self._seen: set[pa.DataType] = set()

    def see(self, block: Block) -> None:
        """Look at the type in a block; other steps report a missing column."""
        if block and self._id_column in block.schema.names:
            self._seen.add(named_type(block.schema.field(self._id_column).type))

    def finish_bundle(self) -> Iterator[TaggedOutput]:
        """Yield the types."""
        for kind in self._seen:
            data = pa.schema([("", kind)]).serialize().to_pybytes()
            yield TaggedOutput(ID_TYPES, GlobalWindows.windowed_value(data))


def with_types(block: Block, columns: Iterable[str], types: Iterable[bytes]) -> Block:
    """Give columns that name ids the type of these, unless the ids have several.

    Args:
      block: what names them.
      columns: which do.
      types: what `SeesIdTypes` gives of the rows.
    """
    distinct = set(types)
    if len(distinct) != 1:
        return block
    kind = pa.ipc.read_schema(pa.py_buffer(distinct.pop())).field(0).type
    for name in columns:
        ids = like_ids(block.column(name), kind)
        block = with_hidden(block, pa.field(name, ids.type), ids)
    return block
