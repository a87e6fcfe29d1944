"""The README and the pages under docs/: they build, and every code block of a page is run."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import beam_gpte
from beam_gpte import InputError
from beam_gpte.cli.arguments import parse
from beam_gpte.cli.main import program_of
from tests import hub, programs
from tests.pages import CHROMIUM, open_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
RUN = {"python", "sh", "sql", "text", "yaml", "dockerfile"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q"]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_build_without_a_warning(site: Path) -> None:
    assert (site / "quickstart.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_is_cut_off_on_a_phone(site: Path, tmp_path: Path) -> None:
    """What is wider than the window, such as a table, scrolls in a box of its own."""
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    (site / "all.html").write_text(
        f"<body><script>{LOOK_AT_ALL.replace('PAGES', json.dumps(pages))}</script>",
        encoding="utf-8",
    )
    document, _ = open_page(site / "all.html", tmp_path, "--allow-file-access-from-files")
    seen = json.loads(document.text[document.text.index("{") :])
    assert len(seen) == len(pages) > 40
    assert {name: wide for name, wide in seen.items() if wide} == {}


LOOK_AT_ALL = """
const scrolls = (one) => one && !one.matches(".content, body") && (
  getComputedStyle(one).overflowX === "auto" || scrolls(one.parentElement));
(async () => {
  const seen = {};
  for (const page of PAGES) {
    const frame = document.createElement("iframe");
    Object.assign(frame, { src: page, width: 390, height: 800, frameBorder: 0 });
    const loaded = new Promise((done) => { frame.onload = done; });
    document.body.append(frame);
    await loaded;
    const inside = [...frame.contentDocument.querySelectorAll("body, article *")];
    seen[page] = inside.filter((one) => {
      const box = one.getBoundingClientRect();
      return box.width && box.right > 391 && !scrolls(one.parentElement);
    }).map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 40)}`).slice(0, 3);
    frame.remove();
  }
  document.body.append(JSON.stringify(seen));
})();
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_is_run(page: Path) -> None:
    blocks = [
        token
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type in ("fence", "code_block")
    ]
    languages = {token.info.split()[0] if token.info else token.type for token in blocks}
    assert {language for language in languages if not language.startswith("{")} <= RUN


def blocks_of(page: str, language: str) -> list[str]:
    tokens = MarkdownIt().parse((ROOT / "docs" / page).read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info == language]


CLUSTERS = [
    block for block in blocks_of("running/clusters.md", "sh") if re.match(r"# \S+\.sh\n", block)
]


@pytest.mark.parametrize("command", CLUSTERS, ids=lambda command: command.split()[1])
def test_commands_for_clusters_have_flags_that_the_program_or_beam_knows(command: str) -> None:
    ours, name, *arguments = shlex.split(command.replace("\\\n", " "), comments=True)
    assert ours == "beam-gpte"
    parse(program_of(name), arguments)
    with pytest.raises(InputError, match="--machine_typo is not an option"):
        parse(program_of(name), [*arguments, "--machine_typo", "n2", "--job_endpoint="])


def test_the_dockerfile_copies_what_is_there_and_loads_the_model_as_the_page_does() -> None:
    (dockerfile,) = blocks_of("running/clusters.md", "dockerfile")
    copied = [
        name for line in re.findall(r"^COPY (.+)$", dockerfile, re.M) for name in line.split()[:-1]
    ]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    (beam,) = re.findall(r"^FROM apache/beam_python3\.11_sdk:(\S+)$", dockerfile, re.M)
    assert f"apache-beam=={beam}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    (load,) = re.findall(r'^RUN (python -c ".+") "\$MODEL"$', dockerfile, re.M)
    assert any(load in block for block in blocks_of("running/clusters.md", "sh"))


def test_the_reference_has_every_public_name() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"autoclass:: beam_gpte\.(\w+)", text)
    public = {name for name, value in vars(beam_gpte).items() if isinstance(value, type)}
    assert sorted(shown) == sorted(public | set(beam_gpte._LATE))


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_the_readme_links_to_what_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 15
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_readme_s_example_prints_what_the_readme_says(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (printed,) = re.findall(r"^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    environment = {
        "HF_HUB_CACHE": str(hub.cache(tmp_path_factory, README)),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = programs.finish(["-c", code], str(tmp_path), environment)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def messages() -> list[str]:
    """All texts that the package and the programs can raise, with `...` for what varies."""
    texts = []
    for path in (ROOT / "beam_gpte").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "..." for part in node.values
                )
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_troubleshooting_quotes_messages_that_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^`(.+)`\n: ", page, re.MULTILINE)
    assert len(quoted) > 15
    assert set(quoted) <= set(messages())
