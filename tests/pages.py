"""Read pages for tests: their elements, and what a real browser makes of them."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]
HOSTILE = """<script>alert(1)</script><img src="http://example.org/x.png"> & 'so on' مرحبا 你好"""


class Elements(HTMLParser):
    """Collect the elements of a page with their attributes, and its text."""

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
    """Open a page in a browser; return its document, and the lines of its console."""
    command = [str(CHROMIUM), *CHROMIUM_FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Elements(done.stdout), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
