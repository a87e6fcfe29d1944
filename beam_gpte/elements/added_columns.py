"""Name the columns that a transform adds to rows, and refuse rows that have one of these names.

A transform that adds columns derives from `AddsColumns`, says which in `adds`, and calls `added()`
in its `__post_init__`. Rows of a type that tells its fields are checked while the graph is built,
others in the first block: `to_blocks` does both for rows; the first step of the transform calls
`AddedColumns.check` for blocks. A column that an earlier step added is the user's.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

import pyarrow as pa
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_gpte.core.columns import check_visible, is_hidden
from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import check_reject_columns


@dataclasses.dataclass(frozen=True)
class AddedColumns:
    """Hold the names that the added columns get; names of others stay as they are.

    Attributes:
      step: the transform that the user wrote.
      names: of each added column ours and the wanted one.
      isolate: whether rejects get `reject_step` and `reject_reason`.
    """

    step: str = ""
    names: tuple[tuple[str, str], ...] = ()
    isolate: bool = False

    def __getitem__(self, ours: str) -> str:
        """Return the wanted name."""
        return dict(self.names).get(ours, ours)

    def check(self, present: Iterable[str]) -> None:
        """Refuse rows that have one of the columns already.

        Raises:
          InputError: they have; names the column and the repair.
        """
        present = set(present)
        taken = [(ours, wanted) for ours, wanted in self.names if wanted in present]
        if taken:
            repair = ", ".join(f'"{ours}": "..."' for ours, _ in taken)
            columns = ", ".join(repr(wanted) for _, wanted in taken)
            raise InputError(
                f"{self.step}: a column {columns} is there already; name the added one by "
                f"rename={{{repair}}}"
            )
        if self.isolate:
            check_reject_columns(present, self.step)

    def add(self, block: Block, ours: str, values: pa.Array) -> Block:
        """Add a column under its wanted name."""
        if self[ours] in block.schema.names:
            self.check(block.schema.names)
            raise InputError(f"a column {ours!r} is there already; rename or drop it before")
        return block.with_column(pa.field(self[ours], values.type), values)


@dataclasses.dataclass(eq=False, kw_only=True)
class AddsColumns:
    """Add columns to rows, under the names that `rename` gives.

    Attributes:
      rename: names for added columns, where rows have these already, as in
        ``{"score": "similarity"}``.
    """

    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def adds(self) -> tuple[str, ...]:
        """Return our names of the columns that it adds to rows."""
        raise NotImplementedError

    def added(self) -> AddedColumns:
        """Return the names of the added columns.

        Raises:
          InputError: `rename` names a column that is not added, or gives two one name; or a
            setting gives one a hidden name.
        """
        step, ours = getattr(self, "step", type(self).__name__), self.adds()
        if not isinstance(self.rename, Mapping):
            raise InputError(
                f'rename is {self.rename!r}; use a mapping, as in {{"{ours[0]}": "x"}}'
            )
        for name, wanted in self.rename.items():
            if name not in ours:
                raise InputError(f"rename has {name!r}; {step} adds {', '.join(ours)}")
            if not isinstance(wanted, str) or not wanted or is_hidden(wanted):
                raise InputError(f"rename gives {name!r} the name {wanted!r}; use another")
        names = tuple((name, self.rename.get(name, name)) for name in ours)
        wanted_names = [wanted for _, wanted in names]
        with naming(step):
            check_visible(wanted_names)
        for name in wanted_names:
            if wanted_names.count(name) > 1:
                raise InputError(f"rename gives two columns the name {name!r}; use two names")
        return AddedColumns(step, names, getattr(self, "_isolate", False))


def fields_of_type(kind: Any) -> tuple[str, ...]:
    """Return the fields that rows of a type have for certain; a field that may be None is empty."""
    if isinstance(kind, RowTypeConstraint):
        return tuple(name for name, _ in kind._fields)
    if isinstance(kind, type) and hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return tuple(
            name for name in kind._fields if type(None) not in get_args(hints.get(name, Any))
        )
    return ()
