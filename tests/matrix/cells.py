"""Run one cell, and say whether its result is right, refused, or a fault."""

import dataclasses
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import Block, InputError
from beam_gpte.elements.plain_types import decoded_type
from tests.examples import keep, kept
from tests.matrix.inputs import (
    GROUPS,
    HIDDEN,
    ID,
    ORDER,
    PAIR_ID,
    PAYLOAD,
    ROLES,
    SIDES,
    TEXT,
    Cell,
    Row,
    meaning,
    pair_tables,
    tables,
    with_hidden,
)
from tests.matrix.transforms import Case, Inputs, NoInputError
from tests.matrix.types import ROWS, as_held, shown

RIGHT, REFUSED, FAULT = "right", "refused", "fault"
# columns of results that name rows, by the side of these
NAMES = {
    **dict.fromkeys(("duplicate_of", "first_id", "second_id", "parent_id"), None),
    **dict.fromkeys(("source_id", "source_ids", "source_duplicates", "query_id"), SIDES[0]),
    **dict.fromkeys(
        (
            "target_id",
            "target_ids",
            "target_duplicates",
            "document_id",
            "positive_id",
            "negative_id",
        ),
        SIDES[1],
    ),
}
Results = dict[str, list[pa.Table]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Say what became of a cell.

    Attributes:
      kind: `RIGHT`, `REFUSED` or `FAULT`.
      detail: the message of the refusal, or what is wrong.
    """

    kind: str
    detail: str = ""


class WrongResultError(Exception):
    """Say what is wrong with a result."""


def run_cell(case: Case, cell: Cell) -> Outcome:
    """Try a cell."""
    logging.disable(logging.CRITICAL)
    try:
        inputs = make_inputs(case, cell)
    except pa.ArrowException as error:  # Parquet, or Arrow itself, has no such column
        return Outcome(REFUSED, f"no input: {error}")
    try:
        results = run(case, inputs)
    except NoInputError as error:
        return Outcome(REFUSED, f"no input: {error}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # Polars panics by one
        return _refusal(error, case, cell)
    finally:
        logging.disable(logging.NOTSET)
    try:
        of = check_hidden if cell.role == HIDDEN else check
        rejected = of(case, cell, inputs, results)
    except WrongResultError as error:
        return Outcome(FAULT, str(error))
    return Outcome(REFUSED, rejected) if rejected else Outcome(RIGHT)


def make_inputs(
    case: Case, cell: Cell, plain: bool = False, dropped: frozenset[Row] = frozenset()
) -> Inputs:
    """Make the inputs of a case."""
    sides = {side: side for side in SIDES} if case.sides else {"rows": None}
    inputs = {name: tables(cell, side, plain, dropped) for name, side in sides.items()}
    if case.pairs:
        inputs["pairs"] = pair_tables(cell, case.pairs, plain)
    return with_hidden(inputs, cell) if cell.role == HIDDEN else inputs


def run(case: Case, inputs: Inputs) -> Results:
    """Apply the transform, and collect its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        streams = case.transform == "WatchCorpus"
        options = (
            ["--runner=BundleBasedDirectRunner", "--streaming"]
            if streams
            else ["--runner=FnApiRunner"]
        )
        p = beam.Pipeline(options=PipelineOptions(options))
        outputs = case.apply(p, inputs, folder)
        for name, found in outputs.items():
            _ = found | f"Keep {name}" >> beam.Map(keep, folder, f"result {name}")
        p.run().wait_until_finish()
        results = {name: list(map(_table, kept(folder, f"result {name}"))) for name in outputs}
        return results | (case.read(folder) if case.read else {})


def _table(element: Any) -> pa.Table:
    if isinstance(element, Block):
        return pa.Table.from_batches([element.batch])
    return element if isinstance(element, pa.Table) else pa.Table.from_pylist([element])


def _refusal(error: BaseException, case: Case, cell: Cell) -> Outcome:
    """Accept a message of one line that names the column, and for a hidden one the transform."""
    message = re.sub(r" \[while running .*", "", str(error), flags=re.DOTALL)
    if not isinstance(error, InputError):
        return Outcome(FAULT, f"{type(error).__name__}: {message[:300]}")
    if not _names_column(message, cell):
        return Outcome(FAULT, f"a message without the column: {message}")
    if cell.hidden and not message.startswith(case.transform):
        return Outcome(FAULT, f"a message without the transform: {message}")
    return Outcome(REFUSED, message)


def _names_column(message: str, cell: Cell) -> bool:
    return any(re.search(rf"\b(source_|target_)?{name}\b", message) for name in column_names(cell))


def column_names(cell: Cell) -> list[str]:
    """Name the columns that have the types of a cell."""
    if cell.hidden:
        return [cell.hidden.name]
    own = [name for name, role in ROLES.items() if role == cell.role]
    own += [f"extra{i}" for i in range(len(cell.extras))]
    own += ["keep"] if cell.role == ORDER else []
    own += [r"part-\d+\.parquet"]  # what Arrow cannot read of its own
    return [*own, *NAMES, "other"] if cell.role in (ID, PAIR_ID, TEXT) else own


class Lookup:
    """Find rows of an input by number.

    Args:
      inputs: the tables of it.
    """

    def __init__(self, inputs: list[pa.Table]) -> None:
        self.names = list(inputs[0].schema.names) if inputs else []
        self._rows: dict[int, tuple[pa.Table, int]] = {}
        for table in inputs:
            self._rows |= {n: (table, i) for i, n in enumerate(table["n"].to_pylist())}

    def check(
        self,
        name: str,
        numbers: list[int],
        found: pa.ChunkedArray,
        exact: bool,
        decoded: bool = False,
    ) -> None:
        """Compare a column with that of the input.

        Raises:
          WrongResultError: a value, or the type, is another.
        """
        for n, text in zip(numbers, shown(found), strict=True):
            table, i = self._rows[n]
            known = table[name]
            if (expected := shown(known.slice(i, 1))[0]) != text:
                raise WrongResultError(f"column {name!r} of row {n} is {text}, not {expected}")
            kind = as_held(known.type)
            exact = exact and not (decoded and decoded_type(kind) != kind)  # such as dictionaries
            if exact and found.type != kind:
                raise WrongResultError(f"column {name!r} became {found.type} from {known.type}")


def check(case: Case, cell: Cell, inputs: Inputs, results: Results) -> str:
    """Check all outputs.

    Returns:
      Why rows were rejected; empty if none were.

    Raises:
      WrongResultError: anything is not as with plain types.
    """
    rejected = _rejected(case, inputs, results.get("rejects", []))
    for name, found in results.items():
        for table in found:
            _check_values(case, cell, inputs, name, table)
    if case.rows:
        _check_rows(case, rejected, results)
    found, dropped = decisions(case, cell, inputs, results), frozenset(rejected)
    plain = expected(case, cell)
    if dropped == plain.rejected:
        _compare(found, plain.decisions)
        return ""
    for reason in rejected.values():
        if not _names_column(reason, cell):
            raise WrongResultError(f"a reason without the column: {reason}")
    if len(dropped) < ROWS or case.sides:
        _compare(found, expected(case, cell, dropped).decisions)
    return next(iter(rejected.values()))


def check_hidden(case: Case, cell: Cell, inputs: Inputs, results: Results) -> str:
    """Check that a hidden column costs the rows that have it, and no other.

    Returns:
      Why they were rejected.

    Raises:
      WrongResultError: one was not, or another was.
    """
    rejected = _rejected(case, inputs, results.get("rejects", []))
    hidden = {
        n
        for table in inputs["rows"]
        for n in table["n"].to_pylist()
        if cell.hidden and cell.hidden.name in table.column_names
    }
    if {n for _, n in rejected} != hidden:
        raise WrongResultError(f"rows {sorted(hidden)} were not refused")
    _check_rows(case, rejected, results)
    for reason in rejected.values():
        if not _names_column(reason, cell):
            raise WrongResultError(f"a reason without the column: {reason}")
    return next(iter(rejected.values()))


def _rejected(case: Case, inputs: Inputs, found: list[pa.Table]) -> dict[Row, str]:
    rejected = {}
    for row in (row for table in found for row in table.to_pylist()):
        if not row["reject_reason"]:
            raise WrongResultError(f"row {row} was rejected without a reason")
        side = _side(case, row["reject_step"])
        reason = f"{row['reject_reason']} {row.get('file', '')}"  # of a file that is rejected whole
        rejected |= {(side, n): reason for n in _numbers_of_reject(inputs, row)}
    return rejected


def _numbers_of_reject(inputs: Inputs, row: dict[str, Any]) -> list[int]:
    """Return the number of a row, or those of the rows of a file."""
    if "n" in row:
        return [row["n"]]
    (file,) = re.findall(r"part-(\d+)\.parquet", row["file"])
    return inputs["rows"][int(file)]["n"].to_pylist()


def _side(case: Case, step: str) -> str | None:
    """Return the side that a step of rejects names; pairs have none."""
    ends = {"source": 0, "queries": 0, "target": 1, "documents": 1}
    return SIDES[ends[step.split()[-1]]] if case.sides and step.split()[-1] in ends else None


def _check_values(case: Case, cell: Cell, inputs: Inputs, output: str, table: pa.Table) -> None:
    """Compare the columns that came from an input with it."""
    mixed = len(cell.kinds) > 1
    for prefix, rows in _origins(case, inputs, output, table):
        lookup, numbers = Lookup(rows), table[f"{prefix}n"].to_pylist()
        for name in lookup.names:
            full = f"{prefix}{name}"
            skipped = name in case.changed or (output == "rejects" and ROLES.get(name) == TEXT)
            if full in table.column_names and not skipped:
                # ids of pairs have one type on both sides, and pairs have no dictionaries
                paired = bool(prefix or case.pairs)
                is_id = name in case.pairs or ROLES.get(name) == ID
                exact = not (case.stored or mixed or (paired and is_id))
                lookup.check(name, numbers, table[full], exact, decoded=paired)
            elif not prefix and not skipped and not case.sides and not case.read:
                raise WrongResultError(f"{output} has no column {name!r}")


def _origins(
    case: Case, inputs: Inputs, output: str, table: pa.Table
) -> Iterator[tuple[str, list[pa.Table]]]:
    """Yield the inputs that columns of an output come from, and the prefix of their names."""
    names = table.column_names
    if not case.sides:
        if "n" in names:
            yield "", inputs["rows"]
    elif output == "rejects":
        side = _side(case, table["reject_step"][0].as_py()) if len(table) else None
        yield "", inputs[side or "pairs"]
    else:
        if "n" in names:
            yield "", inputs["pairs"]
        yield from ((f"{side}_", inputs[side]) for side in SIDES if f"{side}_n" in names)


def _check_rows(case: Case, rejected: Iterable[Row], results: Results) -> None:
    """Check that each row is in one output, once."""
    last = GROUPS if case.halves else ROWS
    outputs = [table for name in case.rows if name != "rejects" for table in results[name]]
    found = Counter(n for table in outputs for n in table["n"].to_pylist())
    found.update(n for _, n in rejected if n < last)  # not of the reference
    once = {n for n in range(last) if found[n] == 1 or (found[n] and case.repeats)}
    if once != set(range(last)) or set(found) - once:
        raise WrongResultError(f"rows come other than once: {found}")


Decisions = Counter[tuple[str, tuple[tuple[str, str], ...]]]


class Expected(NamedTuple):
    """Hold what a transform does to plain values."""

    decisions: Decisions
    rejected: frozenset[Row]


_KNOWN: dict[tuple, Expected] = {}


def expected(case: Case, cell: Cell, dropped: frozenset[Row] = frozenset()) -> Expected:
    """Return what a transform does to plain values that mean the same; each found once."""
    sides = SIDES if case.sides else (None,)
    rows = [(n, side) for side in sides for n in range(ROWS) if cell.role != PAYLOAD]
    means = [
        cell.kind(TEXT, *row) == "null" if cell.role == TEXT else meaning(cell, cell.role, *row)
        for row in rows
    ]
    key = (case, cell.role, len(cell.kinds), tuple(means), dropped)
    if key not in _KNOWN:
        inputs = make_inputs(case, cell, True, dropped)
        results = run(case, inputs)
        rejected = frozenset(_rejected(case, inputs, results.get("rejects", [])))
        _KNOWN[key] = Expected(decisions(case, cell, inputs, results), rejected)
    return _KNOWN[key]


def decisions(case: Case, cell: Cell, inputs: Inputs, results: Results) -> Decisions:
    """Say what a transform decided, in terms that do not depend on types: rows by their numbers."""
    terms = _Terms(case, cell, inputs)
    return Counter(
        (name, tuple(sorted(row)))
        for name, found in results.items()
        if name != "rejects"
        for table in found
        for row in terms.rows(table)
    )


class _Terms:
    """Replace ids and values of roles by numbers."""

    def __init__(self, case: Case, cell: Cell, inputs: Inputs) -> None:
        self._case = case
        self._ids = {
            side: _numbers(inputs["rows" if side is None else side], "id")
            for side in ((*SIDES,) if case.sides else (None,))
        }
        self._scopes: dict[str, str] = {}
        for side in self._ids:
            for table in inputs["rows" if side is None else side]:
                for n, text in zip(table["n"].to_pylist(), shown(table["lang"]), strict=True):
                    self._scopes[text] = repr(meaning(cell, ROLES["lang"], n, side))
        extras = cell.extra_columns(0, None)
        self._own = {
            f"{prefix}{name}"
            for prefix in ("", "source_", "target_")
            for name in (*ROLES, "other", *extras)
        }

    def rows(self, table: pa.Table) -> list[list[tuple[str, str]]]:
        columns = {
            name: self._texts(name, table[name])
            for name in table.column_names
            if name in ("n", "source_n", "target_n") or self._is_decision(name)
        }
        return [list(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _is_decision(self, name: str) -> bool:
        if name in self._case.changed:
            return name != "id"
        return name in NAMES or (name == "lang" and self._case.sides) or name not in self._own

    def _texts(self, name: str, column: pa.ChunkedArray) -> list[str]:
        if name in NAMES:
            known = self._ids[NAMES[name]]
            if name.endswith(("_ids", "_duplicates")):
                return [repr([_known(known, t, name) for t in _items(v)]) for v in _each(column)]
            return [_known(known, text, name) for text in shown(column)]
        if name == "lang":
            return [_known(self._scopes, text, name) for text in shown(column)]
        return [repr(_rounded(value)) for value in column.to_pylist()]


def _each(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    for i in range(len(column)):
        yield pa.nulls(0) if column[i].values is None else column[i].values


def _items(values: pa.Array) -> list[str]:
    return shown(values)


def _numbers(inputs: list[pa.Table], name: str) -> dict[str, str]:
    return {
        text: repr(n)
        for table in inputs
        for n, text in zip(table["n"].to_pylist(), shown(table[name]), strict=True)
    }


def _known(known: dict[str, str], text: str, name: str) -> str:
    if text != "None" and text not in known:
        raise WrongResultError(f"column {name!r} has {text}, which is in no row")
    return known.get(text, text)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) + 0.0
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def _compare(found: Decisions, expected: Decisions) -> None:
    if found != expected:
        more, fewer = list((found - expected).items()), list((expected - found).items())
        raise WrongResultError(f"decided {more[:2]}, not {fewer[:2]}")
