"""Choose the cells of a case, and run them."""

import itertools
import random
from collections.abc import Iterator

from tests.matrix.cells import RIGHT, Outcome, run_cell
from tests.matrix.inputs import HIDDEN, HIDDEN_NAMES, PAYLOAD, SIDES, Cell, Hidden
from tests.matrix.transforms import Case
from tests.matrix.types import FAMILIES, KINDS

Tried = tuple[Cell, Outcome]


def single_cells(role: str) -> list[Cell]:
    """Make a cell of each type."""
    return [Cell(role, (name,)) for name in KINDS]


def family_cells(role: str) -> list[Cell]:
    """Make a cell of all types of each family, in blocks one after the other."""
    kinds = [tuple(map(str, kinds)) for kinds in FAMILIES.values() if len(kinds) > 1]
    return [Cell(role, names) for names in kinds]


def pair_cells(role: str, names: list[str], count: int, random: random.Random) -> list[Cell]:
    """Make cells of two types, in blocks or on sides."""
    pairs = list(itertools.permutations(names, 2))
    return [Cell(role, pair) for pair in random.sample(pairs, min(count, len(pairs)))]


def hidden_cells(case: Case) -> list[Cell]:
    """Make a cell of each hidden name in each half of each input."""
    places = SIDES if case.sides else ("rows",)
    places += ("pairs",) if case.pairs else ()
    ways = itertools.product(places, range(2), HIDDEN_NAMES)
    return [Cell(HIDDEN, ("int64",), hidden=Hidden(name, at, half)) for at, half, name in ways]


def run_hidden(
    case: Case, count: int | None, rng: random.Random, place: str = ""
) -> Iterator[Tried]:
    """Try the hidden names, or some of them; of one input, if it is named."""
    cells = [c for c in hidden_cells(case) if c.hidden and place in c.hidden.place]
    chosen = cells if count is None else rng.sample(cells, min(count, len(cells)))
    return ((cell, run_cell(case, cell)) for cell in chosen)


def run_sample(case: Case, role: str, count: int, rng: random.Random) -> Iterator[Tried]:
    """Try some of the types alone and the families."""
    cells = [*single_cells(role), *family_cells(role)]
    return ((cell, run_cell(case, cell)) for cell in rng.sample(cells, min(count, len(cells))))


def run_group(case: Case, role: str, pairs: int, rng: random.Random) -> Iterator[Tried]:
    """Try each type alone, families, and some pairs of types that are right alone.

    Columns that are not read are tried all at once, and one by one if that is not right.
    """
    good = []
    for cell, outcome in _each(case, role, single_cells(role)):
        if outcome.kind == RIGHT:
            good.append(cell.kinds[0])
        yield cell, outcome
    yield from ((cell, run_cell(case, cell)) for cell in family_cells(role))
    yield from _each(case, role, pair_cells(role, good, pairs, rng))


def _each(case: Case, role: str, cells: list[Cell]) -> Iterator[Tried]:
    if role == PAYLOAD and len(cells) > 1:
        kinds = tuple(cell.kinds for cell in cells)
        if run_cell(case, Cell(role, ("int64",) * len(kinds[0]), kinds)).kind == RIGHT:
            yield from ((cell, Outcome(RIGHT)) for cell in cells)
            return
    yield from ((cell, run_cell(case, cell)) for cell in cells)


def all_cells(case: Case) -> list[Cell]:
    """Make the cells of a case that do not depend on others."""
    return [cell for role in case.roles for cell in (*single_cells(role), *family_cells(role))]
