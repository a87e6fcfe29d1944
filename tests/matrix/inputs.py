"""Make the input of a cell: tables whose column of one role has the types of the cell."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa

from tests.matrix.types import FAMILIES, FAMILY, NUMERIC, ROWS, array, rank, texts_array

# Roles of columns: "pair id" is of the pairs that name rows of two sides, "payload" is not read.
ID, TEXT, SCOPE, ORDER, PAIR_ID, PAYLOAD = "id", "text", "scope", "order", "pair id", "payload"
HIDDEN = "hidden"  # of one column more, which has a name of those inside transforms
ROLES = {"id": ID, "text": TEXT, "lang": SCOPE, "stars": ORDER, "extra": PAYLOAD}
SIDES = ("source", "target")

# Names of columns inside transforms, which hold rows, defects, orders, vectors; and the beginning.
HIDDEN_NAMES = tuple(
    f"__gpte_{rest}"
    for rest in ("row", "defect", "file", "reference", "order", "vector", "source", "x", "")
)

# Rows n and n + GROUPS are duplicates, half of these of one scope.
GROUPS = ROWS // 2
SCOPES = (1, 1, 8, 8, None, None, 1, 8, 8, 1, None, 1)
WORDS = (
    "the quick brown fox jumps over it",
    "nothing of this sentence is like another",
    "we measured every vector twice last winter",
    "bread and butter are sold on market days",
    "a train to the coast leaves at seven",
    "her garden has old trees and new grass",
)


@dataclasses.dataclass(frozen=True)
class Hidden:
    """Name a column that no input may have.

    Attributes:
      name: of the column.
      place: the input that has it.
      half: the half of its rows that has it, 0 or 1.
    """

    name: str
    place: str
    half: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """Name what is tried.

    Attributes:
      role: of the column that has unusual types.
      kinds: its types, each of one part of the rows; of two sides, the second has them reversed,
        and of two types each side has one.
      extras: types of further columns that are not read, each as `kinds`; all have as many.
      hidden: the column of role `HIDDEN`, which has the first type.
    """

    role: str
    kinds: tuple[str, ...]
    extras: tuple[tuple[str, ...], ...] = ()
    hidden: Hidden | None = None

    def kind(self, role: str, n: int, side: str | None) -> str:
        """Return the type that a row's value has."""
        if role != self.role:
            return "string" if role == TEXT else "int64"
        return self._of(self.kinds, role, n, side)

    def extra_columns(self, n: int, side: str | None) -> dict[str, str]:
        """Return the types of the further columns, by name."""
        return {
            f"extra{i}": self._of(kinds, self.role, n, side) for i, kinds in enumerate(self.extras)
        }

    def _of(self, kinds: tuple[str, ...], role: str, n: int, side: str | None) -> str:
        if side is not None and role != PAIR_ID:
            kinds = kinds if side == SIDES[0] else kinds[::-1]
            kinds = kinds[:1] if len(kinds) == 2 else kinds
        return kinds[n * len(kinds) // ROWS]

    def __str__(self) -> str:
        more = f" and {len(self.extras)} columns" if self.extras else ""
        more += f" named {self.hidden.name} in {self.hidden.place}" if self.hidden else ""
        return f"{self.role} of {' and '.join(self.kinds)}{more}"


def number(role: str, n: int) -> int | None:
    """Return the number that a row's value stands for."""
    if role == SCOPE:
        return SCOPES[n]
    return None if role == PAYLOAD and n % 5 == 3 else n


def meaning(cell: Cell, role: str, n: int, side: str | None = None) -> int | None:
    """Return the number of the plain value that means what a row's value does.

    Scopes of two families differ, unless both are numbers or texts.
    """
    kind = cell.kind(role, n, side)
    known = rank(kind, number(role, n))
    if role != SCOPE or known is None or FAMILY[kind] in NUMERIC:
        return known
    family = {"binary": "string"}.get(FAMILY[kind], FAMILY[kind])  # bytes are compared as text
    return known + 100 * (1 + list(FAMILIES).index(family))


Row = tuple[str | None, int]  # of an input: the side, None where there is one input, and number


def tables(
    cell: Cell, side: str | None = None, plain: bool = False, dropped: frozenset[Row] = frozenset()
) -> list[pa.Table]:
    """Make the rows of an input, a table for each run of rows with the same types.

    Args:
      cell: the types.
      side: of two; None for one input.
      plain: use int64 and string for values of the same meaning.
      dropped: rows to leave out.
    """
    return [
        pa.table(
            {
                **{name: _values(cell, role, run, side, plain) for name, role in ROLES.items()},
                "n": pa.array(run),
                "embedding": _vectors(run, side),
                **_extras(cell, run, side, plain),
            }
        )
        for run in _runs(cell, side, dropped)
    ]


def pair_tables(cell: Cell, names: tuple[str, str], plain: bool = False) -> list[pa.Table]:
    """Make rows that name the rows of one number of both sides."""
    role = PAIR_ID if cell.role == PAIR_ID else ID
    made = []
    # of types of several widths, the smallest and the largest integer differ
    ends = frozenset({(None, 0), (None, ROWS - 1)}) if role == PAIR_ID else frozenset()
    for run in _runs(cell, None, ends):
        ids = {
            name: _values(cell, role, run, None if role == PAIR_ID else side, plain)
            for name, side in zip(names, SIDES, strict=True)
        }
        extra = _values(cell, PAYLOAD, run, None, plain)
        more = _extras(cell, run, None, plain)
        made.append(pa.table({**ids, "n": pa.array(run), "extra": extra, **more}))
    return made


def with_hidden(inputs: dict[str, list[pa.Table]], cell: Cell) -> dict[str, list[pa.Table]]:
    """Divide each input into halves, and add the hidden column of a cell to one of them."""
    halved = {
        name: [pa.concat_tables(found)[:GROUPS], pa.concat_tables(found)[GROUPS:]]
        for name, found in inputs.items()
    }
    if cell.hidden:
        halves = halved[cell.hidden.place]
        half = halves[cell.hidden.half]
        column = array(cell.kinds[0], list(range(len(half))))
        halves[cell.hidden.half] = half.append_column(cell.hidden.name, column)
    return halved


def visible(tables: list[pa.Table]) -> list[pa.Table]:
    """Leave out hidden columns."""
    return [
        table.select([name for name in table.column_names if name not in HIDDEN_NAMES])
        for table in tables
    ]


def _runs(cell: Cell, side: str | None, dropped: frozenset[Row]) -> list[list[int]]:
    left = [n for n in range(ROWS) if (side, n) not in dropped]
    grouped = itertools.groupby(left, lambda n: cell.kind(cell.role, n, side))
    return [list(run) for _, run in grouped]


def _extras(cell: Cell, run: list[int], side: str | None, plain: bool) -> dict[str, pa.Array]:
    kinds = cell.extra_columns(run[0], side)
    return {
        name: array("int64" if plain else kind, [number(PAYLOAD, n) for n in run])
        for name, kind in kinds.items()
    }


def _values(cell: Cell, role: str, run: list[int], side: str | None, plain: bool) -> pa.Array:
    kind = cell.kind(role, run[0], side)
    if role == TEXT:
        texts = [None if kind == "null" else text(n, side) for n in run]
        return texts_array("string" if plain else kind, texts)
    if plain:
        return array("int64", [meaning(cell, role, n, side) for n in run])
    return array(kind, [number(role, n) for n in run])


def text(n: int, side: str | None) -> str:
    """Return the text of a row: of one input, rows n and n + GROUPS have the same."""
    return WORDS[n % GROUPS] if side is None else f"{WORDS[n % GROUPS]} ({n})"


def _vectors(run: list[int], side: str | None) -> pa.Array:
    size = GROUPS if side is None else ROWS
    vectors = np.eye(size, dtype=np.float32)[[n % size for n in run]]
    vectors += np.float32(0.05) * (side == SIDES[1])
    return pa.array(list(vectors), pa.list_(pa.float32(), size))
