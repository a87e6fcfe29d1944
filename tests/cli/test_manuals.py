"""The page of each program is what its parser says, and no page is left of one that is gone."""

import pytest

from beam_gpte.cli.main import COMMANDS, program_of
from tests.manuals import FOLDER, file_of, index_line, page_of


@pytest.mark.parametrize("name", COMMANDS)
def test_a_program_s_page_is_made_from_its_parser(name: str) -> None:
    program = program_of(name)
    assert file_of(program).read_text(encoding="utf-8") == page_of(program)


def test_all_programs_are_listed() -> None:
    lines = (FOLDER / "index.md").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.startswith("| [`beam-gpte")]
    assert listed == [index_line(name) for name in COMMANDS]
    files = {file_of(program_of(name)) for name in COMMANDS}
    assert set(FOLDER.iterdir()) == files | {FOLDER / "index.md"}
    assert {path.stem for path in files} <= set(lines)  # the table of contents
