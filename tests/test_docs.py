"""The pages under docs/: they build without a warning, and every code block is of a kind that `docs/conftest.py` runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
RUN = {"python", "sh", "sql", "text", "yaml", "dockerfile"}


def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quickstart.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_is_run(page):
    blocks = [
        token for token in MarkdownIt().parse(page.read_text(encoding="utf-8")) if token.type in ("fence", "code_block")
    ]
    languages = {token.info.split()[0] if token.info else token.type for token in blocks}
    assert {language for language in languages if not language.startswith("{")} <= RUN
