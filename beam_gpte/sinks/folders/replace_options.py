"""Choose how sinks do what removes rows."""

import dataclasses

import apache_beam as beam

from beam_gpte.core.columns import ID, PARENT_ID
from beam_gpte.core.errors import InputError

KEEPS_NO_PREVIOUS = (
    "keep_previous: a reader of a database sees one state of it, and no other is kept; leave it "
    "out, or copy the file before"
)


@dataclasses.dataclass(frozen=True)
class ReplaceOptions:
    """Choose how ``mode="sync"`` and other modes that remove rows do it.

    Attributes:
      id_column: of sync: its ids are unique, and tell which row replaces which.
      parent_column: of sync: the id of the text that a chunk is of, where rows have this column.
      rejects: of sync: rows of the input that were rejected. A row whose id, or parent, is among
        theirs keeps its old version. If one of them has no id, nothing is known to be gone, and
        nothing is removed.
      allow_empty: of sync: an input without rows removes all rows; otherwise, none.
      keep_previous: what is replaced stays in a hidden folder until the next replacement, for
        ``beam-gpte rollback`` and for readers that had begun. Of folders only: what reads a
        database sees one state of it.
    """

    id_column: str = ID
    parent_column: str = PARENT_ID
    rejects: beam.PCollection | None = dataclasses.field(default=None, repr=False)
    allow_empty: bool = False
    keep_previous: bool = False

    def __post_init__(self) -> None:
        for name in ("id_column", "parent_column"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; name the column, or omit it")

    def check(self, mode: str) -> None:
        """Refuse what a mode of a sink has no use for.

        Raises:
          InputError: something is for another mode.
        """
        for name, is_set in (
            ("rejects", self.rejects is not None),
            ("allow_empty", self.allow_empty),
        ):
            if is_set and mode != "sync":
                raise InputError(f"{name} with mode {mode}: it is for mode sync; leave it out")
        if self.keep_previous and mode == "append":
            raise InputError("keep_previous with mode append, which replaces nothing; leave it out")
