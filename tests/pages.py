"""What tests look at pages with: their elements, and a real browser."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
HOSTILE = """<script>alert(1)</script><img src="http://example.org/x.png"> & 'so on' مرحبا 你好"""


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(tag == name for name, _ in self.found)


def read_page(path: Path) -> Elements:
    return Elements(path.read_text(encoding="utf-8"))


def open_page(path: Path, profile: Path) -> tuple[Elements, list[str]]:
    """The document as a browser has it, and what it writes to its console."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
    ]
    command += [
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return Elements(done.stdout), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
