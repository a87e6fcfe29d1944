"""Give ids that results name the type that they have in the rows: int32, string, ...

rows --> IdTypes --> types, once for each bundle --> side input of what names ids

Ids are compared as int64, uint64 or large_string, and shuffled as such.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.shuffle.unique_ids import like_ids, named_type


class IdTypes(beam.DoFn):
    """Yield the types of a column of ids, each once for a bundle, as bytes."""

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def start_bundle(self) -> None:
        """Start with no type seen."""
        self._seen: set[pa.DataType] = set()

    def process(self, block: Block) -> Iterator[bytes]:
        """Look at the type of a block; other steps report a missing column."""
        if block and self._id_column in block.schema.names:
            self._seen.add(named_type(block.schema.field(self._id_column).type))
        return iter(())

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield the types."""
        for kind in self._seen:
            data = pa.schema([("", kind)]).serialize().to_pybytes()
            yield GlobalWindows.windowed_value(data)


def with_types(block: Block, columns: Iterable[str], types: Iterable[bytes]) -> Block:
    """Give columns that name ids the type of these, unless the ids have several.

    Args:
      block: what names them.
      columns: which do.
      types: what `IdTypes` gives of the rows.
    """
    distinct = set(types)
    if len(distinct) != 1:
        return block
    kind = pa.ipc.read_schema(pa.py_buffer(distinct.pop())).field(0).type
    for name in columns:
        ids = like_ids(block.column(name), kind)
        block = with_hidden(block, pa.field(name, ids.type), ids)
    return block
