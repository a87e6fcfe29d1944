"""The page on clusters has a table of what ran where, which lists every transform."""

from tests.engines.table import NONE, PAGE, UNKNOWN, YES, columns, page_table
from tests.test_public_names import TRANSFORMS


def test_every_transform_is_in_the_table() -> None:
    _, _, *lines = page_table(PAGE.read_text(encoding="utf-8")).splitlines()
    heads, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert heads[-len(columns()) :] == [f"{engine} {kind}" for engine, kind in columns()]
    assert [row[0].strip("`") for row in rows] == TRANSFORMS
    for name, *cells in rows:
        assert len(cells) == len(columns())
        assert set(cells) <= {YES, NONE, UNKNOWN}, name
