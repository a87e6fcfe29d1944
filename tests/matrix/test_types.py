"""Columns of any type through any transform: right, or refused with a line; see `__main__`."""

import os
import random

import apache_beam as beam
import pyarrow as pa
import pytest

import beam_gpte
from tests.matrix.cells import FAULT, REFUSED, RIGHT, WrongResultError, check, run, run_cell
from tests.matrix.inputs import ID, PAYLOAD, SCOPE, Cell, tables, visible
from tests.matrix.plan import all_cells, hidden_cells, run_hidden
from tests.matrix.transforms import CASES, Case, Inputs, Outputs
from tests.matrix.types import KINDS, array, shown

SEED = os.environ.get("MATRIX_SEED", "0")
CELLS = 2  # of each case
(UNIQUE,) = (case for case in CASES if case.transform == "RejectDuplicateIds")


def test_every_public_transform_is_in_the_matrix() -> None:
    public = {
        name
        for name, value in vars(beam_gpte).items()
        if isinstance(value, type) and issubclass(value, beam.PTransform)
    }
    assert {case.transform for case in CASES} == public


@pytest.mark.sampled(10)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_of_cells_is_right_or_refused(case: Case) -> None:
    sample = random.Random(f"{SEED} {case}").sample(all_cells(case), CELLS)
    outcomes = {str(cell): run_cell(case, cell) for cell in sample}
    faults = {cell: found.detail for cell, found in outcomes.items() if found.kind == FAULT}
    assert faults == {}, f"with MATRIX_SEED={SEED}"


@pytest.mark.sampled(10)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hidden_name_is_refused_in_every_input(case: Case) -> None:
    rng = random.Random(f"{SEED} {case}")
    tried = {
        place: next(run_hidden(case, 1, rng, place))
        for place in {cell.hidden.place for cell in hidden_cells(case) if cell.hidden}
    }
    wrong = {str(cell): found for cell, found in tried.values() if found.kind != REFUSED}
    assert wrong == {}, f"with MATRIX_SEED={SEED}"


def test_rows_with_a_hidden_name_that_pass_are_a_fault() -> None:
    def passed(p: beam.Pipeline, inputs: Inputs, folder: str) -> Outputs:
        good = p | beam.Create([visible(inputs["rows"])]) | beam.FlatMap(list)
        return {"good": good}

    case = Case("Nothing", passed, (ID,))
    for cell in hidden_cells(case):
        assert run_cell(case, cell).kind == FAULT


@pytest.mark.parametrize("name", KINDS)
def test_numbers_have_values_of_their_own(name: str) -> None:
    column = array(name, [1, 2, None, 2])
    texts = shown(column)
    assert column.type == KINDS[name]
    assert texts[1] == texts[3]
    assert (texts[0] == texts[1]) == (name in ("null", "bool"))
    assert texts[2] == "None"


def changed(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def test_what_a_transform_may_not_do_is_noticed() -> None:
    cell = Cell(PAYLOAD, ("int32",))
    inputs = {"rows": tables(cell)}
    (good,) = inputs["rows"]
    assert check(UNIQUE, cell, inputs, {"good": [good], "rejects": []}) == ""
    wrong = {
        "another value": changed(good, "extra", pa.array([7] * len(good), pa.int32())),
        "another type": changed(good, "extra", good["extra"].cast(pa.int64())),
        "a row lost": good.slice(1),
        "a row twice": pa.concat_tables([good, good.slice(0, 1)]),
        "a column lost": good.drop_columns(["lang"]),
        "another decision": good.append_column("duplicate_of", good["id"]),
        "an unknown id": good.append_column("duplicate_of", pa.array(["x"] * len(good))),
    }
    for table in wrong.values():
        with pytest.raises(WrongResultError):
            check(UNIQUE, cell, inputs, {"good": [table], "rejects": []})


def test_a_refusal_names_the_column_and_other_errors_are_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_cell(UNIQUE, Cell(ID, ("double",))).kind == REFUSED
    assert run_cell(UNIQUE, Cell(ID, ("int8", "uint64"))).kind in (RIGHT, REFUSED)
    for error in (
        ValueError("column 'id' is double"),
        beam_gpte.InputError("something is wrong"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("tests.matrix.cells.run", fail)
        assert run_cell(UNIQUE, Cell(ID, ("double",))).kind == FAULT


def test_what_scopes_mean_decides_whatever_their_types() -> None:
    (exact,) = (case for case in CASES if str(case) == "DeduplicateExact")
    cell = Cell(SCOPE, ("int64",))
    results = run(exact, {"rows": tables(cell)})
    removed = sorted(n for table in results["removed"] for n in table["n"].to_pylist())
    assert removed == [0, 2, 4]  # of each pair the one with the smaller number of stars
