"""Read pages for tests: their elements, and what a real browser makes of them."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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
    "--virtual-time-budget=60000",
    "--window-size=1400,1000",
    "--dump-dom",
]
HOSTILE = """<script>alert(1)</script><img src="http://example.org/x.png"> & 'so on' مرحبا 你好"""


class Elements(HTMLParser):
    """Collect the elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        self.scripts += [""] * self._in_script

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the page's script draws."""
        return next((json.loads(one) for one in self.scripts if one.startswith("[")), [])

    def charts_of(self, kind: str) -> list[dict[str, Any]]:
        return [chart for chart in self.charts if chart["kind"] == kind]

    @property
    def policy(self) -> str:
        """The Content-Security-Policy."""
        (content,) = [one["content"] for tag, one in self.found if "http-equiv" in one]
        return str(content)

    def count(self, tag: str) -> int:
        return sum(tag == name for name, _ in self.found)


def hash_of(script: str) -> str:
    """Name a script as a Content-Security-Policy does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def read_page(path: Path) -> Elements:
    return Elements(path.read_text(encoding="utf-8"))


def open_page(path: Path, profile: Path, *more: str) -> tuple[Elements, list[str]]:
    """Open a page in a browser, with `more` flags; return its document, and its console's lines."""
    flags = *CHROMIUM_FLAGS, *more, f"--user-data-dir={profile}"
    command = [str(CHROMIUM), *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Elements(done.stdout), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


HANDS = """
// a browser without a window draws no frames while its time is virtual
window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 10);
await new Promise((done) => addEventListener("load", done));
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const type = (input, text) => {
  input.value = text;
  input.dispatchEvent(new Event("input"));
};
const choose = (select, value) => {
  select.value = value;
  select.dispatchEvent(new Event("change"));
};
// all elements, those that Bokeh hides in shadow roots included
const everything = (root = document) => [...root.querySelectorAll("*")].flatMap(
  (one) => [one, ...(one.shadowRoot ? everything(one.shadowRoot) : [])]);
const withClass = (name) => everything().filter((one) => one.classList.contains(name));
const canvases = () => everything().filter((one) => one.tagName === "CANVAS");
const colors = (canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(pixels.data.buffer));
};
// places on the screen where something is drawn, some pixels apart
const dots = (canvas) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = [];
  for (let y = 3; y < box.height; y += 4) {
    for (let x = 3; x < box.width; x += 4) {
      const alpha = data[4 * (Math.round(y * scale) * canvas.width + Math.round(x * scale)) + 3];
      if (alpha > 100) found.push([box.x + x, box.y + y]);
    }
  }
  return found;
};
const move = (target, x, y) => {
  for (const kind of ["pointerover", "pointermove"]) {
    const at = { clientX: x, clientY: y, bubbles: true, composed: true };
    target.dispatchEvent(new PointerEvent(kind, { ...at, isPrimary: true, pointerType: "mouse" }));
  }
};
"""


# of color schemes
SCHEMES = {
    "light": ["--blink-settings=preferredColorScheme=1"],
    "dark": ["--blink-settings=preferredColorScheme=0"],
}

CONTRASTS = r"""
const numbers = (color) => {
  const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
  return [red, green, blue, alpha];
};
const over = (color, below) => below.map((part, i) => part + (color[i] - part) * color[3]);
const luminance = (color) => {
  const linear = color.map((part) => part / 255).map(
    (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((p, q) => p - q);
  return (high + 0.05) / (low + 0.05);
};
const outward = (one) => (one ? [one, ...outward(one.parentElement)] : []);
const ground = (one) => outward(one).reverse().reduce(
  (below, each) => over(numbers(getComputedStyle(each).backgroundColor), below), [255, 255, 255]);
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
const texts = [...document.querySelectorAll("main *")].filter((one) =>
  [...one.childNodes].some(isText) && one.checkVisibility() && !one.closest("script, option"));
const contrastOf = (one) => {
  const [below, color] = [ground(one), numbers(getComputedStyle(one).color)];
  color[3] *= outward(one).reduce((all, each) => all * getComputedStyle(each).opacity, 1);
  return contrast(over(color, below), below);
};
seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
seen.texts = texts.length;
seen.faint = texts.filter((one) => contrastOf(one) < 4.5).map((one) => one.outerHTML.slice(0, 80));
"""


def use_page(path: Path, steps: str, folder: Path, *more: str) -> tuple[dict[str, Any], list[str]]:
    """Do what a person does on a page: run `steps`, which fill the object `seen`, in a copy of it.

    The copy's policy allows this one script more.

    Args:
      path: of the page.
      steps: of JavaScript, after `HANDS`.
      folder: for the copy and the browser's profile.
      *more: flags of the browser.

    Returns:
      What was seen, and the lines of the console.
    """
    text = path.read_text(encoding="utf-8")
    script = (
        f"(async () => {{ {HANDS} const seen = {{}}; await wait(1500); {steps};"
        'document.body.append(Object.assign(document.createElement("pre"), '
        '{ id: "seen", textContent: JSON.stringify(seen) })); })();'
    )
    allowed = text.replace("script-src ", f"script-src {hash_of(script)} ", 1)
    # quotes are escaped in the attribute
    allowed = re.sub(r"(script-src )'(sha256-\S+)'", r"\1&#39;\2&#39;", allowed, count=1)
    copy = folder / "used.html"
    copy.write_text(
        allowed.replace("</head>", f"<script>{script}</script></head>", 1), encoding="utf-8"
    )
    page, console = open_page(copy, folder / "profile", *more)
    (seen,) = re.findall(r"\{.*\}$", page.text.strip())
    return json.loads(seen), console
