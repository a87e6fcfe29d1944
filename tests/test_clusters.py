"""The page on clusters has a table of what ran where, which lists every transform."""

import re

import pytest

from tests.engines.full import BATCH, Run
from tests.engines.processes import program_flags
from tests.engines.table import NONE, PAGE, UNKNOWN, YES, columns, page_table, table
from tests.test_public_names import TRANSFORMS


def test_every_transform_is_in_the_table() -> None:
    _, _, *lines = page_table(PAGE.read_text(encoding="utf-8")).splitlines()
    heads, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert heads[-len(columns()) :] == [f"{engine} {kind}" for engine, kind in columns()]
    assert [row[0].strip("`") for row in rows] == TRANSFORMS
    for name, *cells in rows:
        assert len(cells) == len(columns())
        assert set(cells) <= {YES, NONE, UNKNOWN}, name


@pytest.mark.parametrize(
    ("block", "more"), [("flink.sh", ["--parallelism=4"]), ("spark.sh", []), ("prism.sh", None)]
)
def test_a_command_has_the_flags_that_the_engines_are_tested_with(
    block: str, more: list[str] | None
) -> None:
    text = PAGE.read_text(encoding="utf-8").split(f"# {block}\n")[1].split("```")[0]
    shown = re.findall(r"--\w+", text)
    runner = ["--runner"] if more is None else [*program_flags("jobs:1", 2), *more]
    program = ["--input", "--id_column", "--output", "--model"]
    assert shown == [*program, *(flag.partition("=")[0] for flag in runner)]


def test_what_was_not_run_again_stays_and_what_was_is_replaced() -> None:
    before = page_table(PAGE.read_text(encoding="utf-8"))
    assert table({}, TRANSFORMS, before) == before
    line = {"date": "2030-01-02", "commit": "abcdef0", "outcome": "failed"}
    after = table({Run("spark", BATCH, "rerank"): line}, TRANSFORMS, before)
    changed = set(after.splitlines()) - set(before.splitlines())
    assert {row.split("|")[1].strip() for row in changed if row.startswith("|")} == {"`Rerank`"}
    assert ", abcdef0 (2030-01-02):\n" in after
    assert "no |" in next(row for row in changed if "`Rerank`" in row)
